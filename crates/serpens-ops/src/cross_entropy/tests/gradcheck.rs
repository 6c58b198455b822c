//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::{Device, Tensor, Var};

use crate::cross_entropy::{IGNORE, cross_entropy};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn cross_entropy_has_the_gradients_of_its_definition() {
    let targets = Tensor::from_slice([2, 3], &[0_u32, IGNORE, 4, 2, 2, IGNORE], Device::cpu());
    let targets = targets.unwrap();
    let inputs = tensors([[2, 3, 5].into()]);
    let loss = |v: &[Var]| Ok(cross_entropy(v[0].clone(), &targets)?.loss);
    assert_gradients("cross_entropy", loss, &inputs);
}
