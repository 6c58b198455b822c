//! The definition of the causal long convolution in `f64`, one plain loop per formula.

use super::cpu::Shape;

/// `y[b,t,e] = Σ_{s≤t} k[s,e] · u[b,t-s,e]`, with `u` `(batch, length, channels)` and `k` `(length, channels)`.
pub fn forward(u: &[f64], k: &[f64], shape: Shape) -> Vec<f64> {
    let Shape {
        batch,
        length,
        channels,
    } = shape;
    let mut y = vec![0.0; u.len()]; // (batch, length, channels)
    for b in 0..batch {
        for t in 0..length {
            for s in 0..=t {
                for e in 0..channels {
                    y[(b * length + t) * channels + e] +=
                        k[s * channels + e] * u[(b * length + t - s) * channels + e];
                }
            }
        }
    }
    y
}

/// `(du, dk)` for the gradient `dy` `(batch, length, channels)` of [`forward`]'s result.
pub fn backward(u: &[f64], k: &[f64], dy: &[f64], shape: Shape) -> (Vec<f64>, Vec<f64>) {
    let Shape {
        batch,
        length,
        channels,
    } = shape;
    let mut du = vec![0.0; u.len()]; // (batch, length, channels)
    let mut dk = vec![0.0; k.len()]; // (length, channels)
    for b in 0..batch {
        for t in 0..length {
            for s in 0..=t {
                for e in 0..channels {
                    let (now, then) = (
                        (b * length + t) * channels + e,
                        (b * length + t - s) * channels + e,
                    );
                    du[then] += k[s * channels + e] * dy[now];
                    dk[s * channels + e] += dy[now] * u[then];
                }
            }
        }
    }
    (du, dk)
}
