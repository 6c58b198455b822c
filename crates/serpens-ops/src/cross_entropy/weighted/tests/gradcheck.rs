//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::{Device, Tensor, Var};

use crate::cross_entropy::{ClassOptions, IGNORE, weighted_cross_entropy};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn weighted_cross_entropy_has_the_gradients_of_its_definition() {
    let of = |shape: [usize; 1], values: &[f32]| Tensor::from_slice(shape, values, Device::Cpu);
    let targets = [0_u32, IGNORE, 4, 2, 1, IGNORE];
    let targets = Tensor::from_slice([2, 3], &targets, Device::Cpu).unwrap();
    let weights = of([5], &[0.5, 0.0, 3.0, 1.0, 2.0]).unwrap();
    let inputs = tensors([[2, 3, 5].into()]);
    for weights in [None, Some(&weights)] {
        for smoothing in [0.0, 0.1, 0.75] {
            let options = ClassOptions { weights, smoothing };
            let loss =
                |v: &[Var]| Ok(weighted_cross_entropy(v[0].clone(), &targets, &options)?.loss);
            assert_gradients(&format!("{options:?}"), loss, &inputs);
        }
    }
}
