//! The definition of the causal long convolution, one plain loop per formula: in `f64` what results are held against,
//! in `f32` the yardstick for their errors.

use crate::long_conv::LongConvDims;
use crate::shared::tests::real::{Real, zero};

/// `y[b,t,e] = Σ_{s≤t} k[s,e] · u[b,t-s,e]`, with `u` `(batch, length, channels)` and `k` `(length, channels)`.
pub fn forward<R: Real>(u: &[R], k: &[R], dims: LongConvDims) -> Vec<R> {
    let LongConvDims {
        batch,
        length,
        channels,
    } = dims;
    let mut y = vec![zero::<R>(); u.len()]; // (batch, length, channels)
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
pub fn backward<R: Real>(u: &[R], k: &[R], dy: &[R], dims: LongConvDims) -> (Vec<R>, Vec<R>) {
    let LongConvDims {
        batch,
        length,
        channels,
    } = dims;
    let mut du = vec![zero::<R>(); u.len()]; // (batch, length, channels)
    let mut dk = vec![zero::<R>(); k.len()]; // (length, channels)
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
