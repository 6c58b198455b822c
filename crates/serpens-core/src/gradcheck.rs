//! Holds an operation's backward against finite differences.

use smart_default::SmartDefault;

use crate::tape::{Gradients, Tape, Var};
use crate::{DType, Device, Result, Tensor};

/// How [`gradcheck`] measures.
#[derive(Clone, Copy, Debug, SmartDefault)]
pub struct GradCheckOptions {
    /// Step of the differences, relative to the input's largest value (at least 1).
    #[default = 2e-2]
    pub step: f32,
    /// The largest allowed error, relative to the largest gradient of that input (at least 1e-2).
    #[default = 5e-3]
    pub tolerance: f32,
}

/// The worst value that [`gradcheck`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradCheck {
    /// Position of the input in the list.
    pub input: usize,
    /// Position of the value in that input.
    pub index: usize,
    /// What the backward pass gives there.
    pub analytic: f64,
    /// What the finite difference gives there.
    pub numeric: f64,
    /// The error relative to the largest gradient of that input.
    pub error: f64,
    /// Whether the error is within the tolerance.
    pub ok: bool,
}

/// Compares, for every value of every f32 input, d/dx Σ r ⊙ f(inputs) from the backward pass with the fourth-order
/// central difference (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h; r is a fixed pseudo-random tensor. Returns the
/// worst.
///
/// # Errors
/// Whatever `f` returns.
pub fn gradcheck(
    f: impl Fn(&[Var]) -> Result<Var>,
    inputs: &[Tensor],
    options: GradCheckOptions,
) -> Result<GradCheck> {
    let tape = Tape::new();
    let leaves: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
    let output = f(&leaves)?;
    let weights = projection(output.shape().count());
    let seed = Tensor::from_slice(output.shape(), &weights, Device::cpu())?;
    tape.backward_from(vec![(&output, seed)], &mut Gradients::new())?;
    let value = |changed: &[Tensor]| -> Result<f64> {
        let inputs: Vec<Var> = changed.iter().cloned().map(Var::from).collect();
        let output = f(&inputs)?;
        let mat = output.mat()?;
        let values = (0..mat.rows()).flat_map(|i| mat.row(i));
        let products = values.zip(&weights);
        Ok(products.map(|(y, w)| f64::from(*y) * f64::from(*w)).sum())
    };
    let mut worst = GradCheck {
        ok: true,
        ..GradCheck::default()
    };
    let floats = |(_, leaf): &(usize, &Var)| leaf.dtype() == DType::F32;
    for (input, leaf) in leaves.iter().enumerate().filter(floats) {
        let analytic = match tape.gradient(leaf)? {
            Some(gradient) => gradient.to_vec::<f32>()?,
            None => vec![0.0; inputs[input].len()],
        };
        let numeric = differences(&value, inputs, input, options.step)?;
        let scale = numeric.iter().fold(1e-2, |m: f64, v| m.max(v.abs()));
        for (index, (&analytic, &numeric)) in analytic.iter().zip(&numeric).enumerate() {
            let analytic = f64::from(analytic);
            let error = (analytic - numeric).abs() / scale;
            if error > worst.error || error.is_nan() {
                let ok = error <= f64::from(options.tolerance);
                worst = GradCheck {
                    input,
                    index,
                    analytic,
                    numeric,
                    error,
                    ok,
                };
            }
        }
    }
    Ok(worst)
}

/// The difference quotient of `value` for every element of `inputs[which]`.
fn differences(
    value: &impl Fn(&[Tensor]) -> Result<f64>,
    inputs: &[Tensor],
    which: usize,
    step: f32,
) -> Result<Vec<f64>> {
    let original = inputs[which].to_vec::<f32>()?;
    let largest = original.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
    let mut changed = inputs.to_vec();
    let mut quotients = Vec::with_capacity(original.len());
    for (i, &x) in original.iter().enumerate() {
        let mut at = |offset: f32| -> Result<(f64, f64)> {
            let moved = x + offset;
            changed[which].make_mut::<f32>()?[i] = moved;
            let result = value(&changed)?;
            changed[which].make_mut::<f32>()?[i] = x;
            Ok((result, f64::from(moved)))
        };
        let h = step * largest;
        let ((up, x_up), (down, x_down)) = (at(h)?, at(-h)?);
        let ((up2, x_up2), (down2, x_down2)) = (at(2.0 * h)?, at(-2.0 * h)?);
        let near = (up - down) / (x_up - x_down);
        let far = (up2 - down2) / (x_up2 - x_down2);
        quotients.push((4.0 * near - far) / 3.0);
    }
    Ok(quotients)
}

/// Fixed pseudo-random weights in [-1, 1): a linear congruential generator's high bits.
fn projection(count: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}
