//! Backward rules against finite differences.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serpens_core::{Device, GradCheckOptions, Result, Shape, Tensor, Var, gradcheck};

/// Tensors of these shapes with values in [-1, 1).
pub(crate) fn tensors<const K: usize>(shapes: [Shape; K]) -> [Tensor; K] {
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    shapes.map(|shape| {
        let values: Vec<f32> = (0..shape.count())
            .map(|_| rng.next_u32() as f32 / 2.0_f32.powi(31) - 1.0)
            .collect();
        Tensor::from_slice(shape, &values, Device::cpu()).unwrap()
    })
}

/// Fails unless the gradients of `f` at `inputs` are its slopes.
pub(crate) fn assert_gradients(what: &str, f: impl Fn(&[Var]) -> Result<Var>, inputs: &[Tensor]) {
    let check = gradcheck(f, inputs, GradCheckOptions::default()).unwrap();
    assert!(check.ok, "{what}: {check:?}");
}
