//! Random tensors for initialisation.

use rand::{Rng, RngExt};
use serpens_core::{Device, Shape, Tensor};

use crate::Result;

fn filled(shape: Shape, device: Device, mut next: impl FnMut() -> f32) -> Result<Tensor> {
    let mut values = vec![0.0; shape.count()];
    values.fill_with(&mut next);
    Ok(Tensor::from_slice(shape, &values, device)?)
}

/// Values uniform in [-bound, bound).
pub fn uniform(
    shape: impl Into<Shape>,
    bound: f32,
    device: Device,
    rng: &mut dyn Rng,
) -> Result<Tensor> {
    filled(shape.into(), device, || {
        bound * (2.0 * rng.random::<f32>() - 1.0)
    })
}

/// Values normal with mean 0 and this standard deviation (Box and Muller's transform).
pub fn normal(
    shape: impl Into<Shape>,
    deviation: f32,
    device: Device,
    rng: &mut dyn Rng,
) -> Result<Tensor> {
    filled(shape.into(), device, || {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let angle = std::f64::consts::TAU * rng.random::<f64>();
        deviation * (radius * angle.cos()) as f32
    })
}
