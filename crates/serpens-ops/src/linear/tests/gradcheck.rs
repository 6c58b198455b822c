//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::Var;

use crate::elementwise::mul;
use crate::linear::{ProductPrecision, linear};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn linear_has_the_gradients_of_its_definition() {
    let inputs = tensors([[2, 3, 5].into(), [4, 5].into(), [4].into()]);
    assert_gradients(
        "linear",
        |v| linear(&v[0], &v[1], Some(&v[2]), ProductPrecision::Full),
        &inputs,
    );
    // Two overlapping ranges of columns, whose gradients meet in one buffer.
    let inputs = tensors([[6, 5].into(), [3, 3].into()]);
    let overlapping = |v: &[Var]| {
        let left = linear(&v[0].columns(0..3)?, &v[1], None, ProductPrecision::Full)?;
        let right = linear(&v[0].columns(2..5)?, &v[1], None, ProductPrecision::Full)?;
        mul(&left, &right)
    };
    assert_gradients("linear on columns", overlapping, &inputs);
}
