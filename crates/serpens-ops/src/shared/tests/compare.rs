//! How near a kernel's results must be to the truth.

use serpens_core::DType;

use super::round;

/// ‖a - b‖ / ‖b‖.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    difference / norm(&mut b.iter().copied()).max(f64::MIN_POSITIVE)
}

/// max |a - b|, none where that is no number.
fn largest(a: &[f64], b: &[f64]) -> f64 {
    let errors = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    errors.fold(0.0, |max, e| if e > max || e.is_nan() { e } else { max })
}

/// Fails unless `got` is as near to the truth as the same mathematics done plainly in `dtype` twice over: `plain` is
/// the f32 evaluation of the definition; with bf16 its results are rounded once, as any kernel's must be.
pub(crate) fn assert_near(what: &str, got: &[f64], truth: &[f64], plain: &[f32], dtype: DType) {
    // Sums of few terms may be exact by luck: one rounding is always allowed, as on the processor.
    let allowed = |plainly: f64| 2.0 * plainly.max(f64::from(f32::EPSILON));
    if let Err(error) = near(got, truth, plain, dtype, 2.0, allowed) {
        panic!("{what}: {error}");
    }
}

/// Holds the norm of the error to what is `allowed` where that of the plain evaluation is so large, both relative; and
/// the largest error, which in a norm over many values would be lost, to `factor` times the largest of the plain
/// evaluation, which are flash-attention's two rules.
///
/// Besides, the largest error may be a rounding of the largest value: of bf16 one, 2^-8, which is also more than
/// kernels lose that sum by tensor cores (2^-10 of what they add); of f32 eight units in the last place, since the
/// functions of a GPU are off by two or three where the plain evaluation's are by a half, and may be so at a value
/// where that one is exact by luck.
pub(crate) fn near(
    got: &[f64],
    truth: &[f64],
    plain: &[f32],
    dtype: DType,
    factor: f64,
    allowed: impl Fn(f64) -> f64,
) -> Result<(), String> {
    let plain: Vec<f64> = plain.iter().map(|&v| round(v.into(), dtype)).collect();
    let rounded: Vec<f64> = truth.iter().map(|&v| round(v, dtype)).collect();
    let plainly =
        |error: fn(&[f64], &[f64]) -> f64| error(&plain, truth).max(error(&rounded, truth));
    let rounding = match dtype {
        DType::BF16 => 2.0_f64.powi(-8),
        _ => 8.0 * f64::from(f32::EPSILON),
    };
    let size = truth.iter().fold(0.0_f64, |max, v| max.max(v.abs()));
    let of_norms = (distance(got, truth), allowed(plainly(distance)));
    let of_largest = (
        largest(got, truth),
        factor * plainly(largest) + rounding * size,
    );
    for (name, (error, allowed)) in [("error", of_norms), ("largest error", of_largest)] {
        if error > allowed || error.is_nan() {
            return Err(format!("{name} {error:.3e}, allowed {allowed:.3e}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{f32s, values};
    use super::*;

    const SIZES: [usize; 4] = [1, 7, 1000, 700 * 768];

    fn near(got: &[f64], truth: &[f64], dtype: DType) -> Result<(), String> {
        let allowed = |plainly: f64| 2.0 * plainly.max(f64::from(f32::EPSILON));
        super::near(got, truth, &f32s(truth), dtype, 2.0, allowed)
    }

    /// Values that no type holds exactly.
    fn truth(len: usize) -> Vec<f64> {
        let values = values(1, [len], 2.0, DType::F32).into_iter();
        values.map(|v| v * std::f64::consts::PI).collect()
    }

    #[test]
    fn results_with_the_error_of_a_kernel_pass() {
        for (dtype, own) in [(DType::F32, 1e-7), (DType::BF16, 1.0 / 2048.0)] {
            for len in SIZES {
                let (truth, errors) = (truth(len), values(2, [len], own, DType::F32));
                let got = truth.iter().zip(&errors).map(|(v, e)| v * (1.0 + e));
                let got: Vec<f64> = got.map(|v| round(v, dtype)).collect();
                assert_eq!(near(&got, &truth, dtype), Ok(()), "{len} values in {dtype}");
            }
        }
    }

    #[test]
    fn one_wrong_value_among_many_fails() {
        for dtype in [DType::F32, DType::BF16] {
            for len in SIZES {
                let truth = truth(len);
                let got: Vec<f64> = truth.iter().map(|&v| round(v, dtype)).collect();
                assert_eq!(near(&got, &truth, dtype), Ok(()));
                let place = (0..len).find(|&i| truth[i].abs() > 1.0).unwrap_or(0);
                for wrong in [0.0, -got[place], 1.25 * got[place], f64::NAN, f64::INFINITY] {
                    let mut got = got.clone();
                    got[place] = wrong;
                    assert!(
                        near(&got, &truth, dtype).is_err(),
                        "{wrong} for {} among {len} in {dtype}",
                        truth[place]
                    );
                }
            }
        }
    }

    #[test]
    fn one_wrong_value_is_lost_in_the_norm() {
        let truth = truth(700 * 768);
        let mut got: Vec<f64> = truth.iter().map(|&v| round(v, DType::BF16)).collect();
        let plainly = distance(&got, &truth);
        let place = truth.iter().position(|v| v.abs() > 1.0).unwrap();
        got[place] = 0.0;
        assert!(distance(&got, &truth) < 2.0 * plainly);
    }
}
