//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::Var;

use crate::elementwise::mul;
use crate::shared::tests::gradcheck::{assert_gradients, tensors};
use crate::swap_axes::swap_axes;

#[test]
fn swapped_axes_have_the_gradients_of_their_definition() {
    let [x, weight] = tensors([[2, 6, 5].into(), [2, 6, 3].into()]);
    let weight = weight.into();
    let weighted = |v: &[Var]| mul(&swap_axes(&v[0].columns(1..4)?, [2, 3])?, &weight);
    assert_gradients("swap_axes of columns", weighted, &[x]);
}
