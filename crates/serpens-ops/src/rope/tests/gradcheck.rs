//! The backward rule against finite differences, through the tape as a user meets it.

use crate::elementwise::mul;
use crate::rope::{RopeOptions, rope};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn rope_has_the_gradients_of_its_definition() {
    let options = RopeOptions {
        head: 6,
        base: 100.0,
        from: 3,
    };
    let [x, weight] = tensors([[2, 5, 12].into(), [2, 5, 12].into()]);
    let weighted = |v: &[_]| mul(&rope(&v[0], &options)?, &weight.clone().into());
    assert_gradients("rope", weighted, &[x]);
}
