//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::{DType, Var};

use crate::elementwise::{add, mul};
use crate::rms_norm::rms_norm;
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn rms_norm_has_the_gradients_of_its_definition() {
    let inputs = tensors([[2, 3, 5].into(), [2, 3, 5].into(), [5].into()]);
    let with_residual = |v: &[Var]| {
        let output = rms_norm(&v[0], Some(&v[1]), &v[2], 1e-5, DType::F32)?;
        add(&output.y, &mul(&output.h, &output.h)?)
    };
    assert_gradients("rms_norm", with_residual, &inputs);
    let alone = |v: &[Var]| {
        let output = rms_norm(&v[0], None, &v[2], 1e-5, DType::F32)?;
        mul(&output.y, &output.h)
    };
    assert_gradients("rms_norm without residual", alone, &inputs);
    let sum_only = |v: &[Var]| Ok(rms_norm(&v[0], Some(&v[1]), &v[2], 1e-5, DType::F32)?.h);
    assert_gradients("rms_norm, the sum alone", sum_only, &inputs);
}
