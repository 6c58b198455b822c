//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::{Device, Tensor, Var};

use crate::elementwise::{
    abs, add, binary_cross_entropy, broadcast_rows, dropout, exp, gelu, log, mul, neg_exp, scale,
    sigmoid, silu, silu_mul, sub, tanh,
};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn elementwise_functions_have_the_gradients_of_their_definitions() {
    let inputs = tensors([[2, 3].into(), [2, 3].into()]);
    assert_gradients("add", |v| add(&v[0], &v[1]), &inputs);
    assert_gradients("mul", |v| mul(&v[0], &v[1]), &inputs);
    assert_gradients("silu_mul", |v| silu_mul(&v[0], &v[1]), &inputs);
    assert_gradients("silu", |v| silu(&v[0]), &inputs[..1]);
    assert_gradients("gelu", |v| gelu(&v[0]), &inputs[..1]);
    assert_gradients("exp", |v| exp(&v[0]), &inputs[..1]);
    assert_gradients("neg_exp", |v| neg_exp(&v[0]), &inputs[..1]);
    assert_gradients("sub", |v| sub(&v[0], &v[1]), &inputs);
    assert_gradients("sub of itself", |v| sub(&v[0], &v[0]), &inputs[..1]);
    assert_gradients("scale", |v| scale(&v[0], -1.7), &inputs[..1]);
    assert_gradients("log", |v| log(&exp(&v[0])?), &inputs[..1]);
    assert_gradients("abs", |v| abs(&v[0]), &inputs[..1]);
    let targets = [0.0_f32, 1.0, 0.05, 0.95, 0.5, 0.3];
    let targets = Tensor::from_slice([2, 3], &targets, Device::cpu()).unwrap();
    let of_targets = |v: &[Var]| binary_cross_entropy(&v[0], &targets);
    assert_gradients("binary_cross_entropy", of_targets, &inputs[..1]);
    assert_gradients("sigmoid", |v| sigmoid(&v[0]), &inputs[..1]);
    assert_gradients("tanh", |v| tanh(&v[0]), &inputs[..1]);
    assert_gradients("dropout", |v| dropout(&v[0], 0.5, Some(1)), &inputs[..1]);
    let row = tensors([[3].into()]);
    let repeated = |v: &[Var]| broadcast_rows(&v[0], [2, 2, 3].into());
    assert_gradients("broadcast_rows", repeated, &row);
}
