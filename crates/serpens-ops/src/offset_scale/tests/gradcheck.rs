//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::Var;

use crate::elementwise::mul;
use crate::offset_scale::offset_scale;
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn heads_have_the_gradients_of_their_definition() {
    let [x, scale, offset, weight] = tensors([
        [2, 3, 5].into(),
        [10].into(),
        [10].into(),
        [2, 3, 10].into(),
    ]);
    let weight = weight.into();
    let heads = |v: &[Var]| mul(&offset_scale(&v[0], &v[1], &v[2])?, &weight);
    assert_gradients("offset_scale", heads, &[x.clone(), scale, offset]);

    let [scale, offset, weight] = tensors([[6].into(), [6].into(), [2, 3, 6].into()]);
    let weight = weight.into();
    let columns = |v: &[Var]| mul(&offset_scale(&v[0].columns(1..4)?, &v[1], &v[2])?, &weight);
    assert_gradients("offset_scale of columns", columns, &[x, scale, offset]);
}
