//! The definitions, plain loops over dense (rows, cols) matrices: in f64 the truth, in f32 the yardstick of a kernel's
//! error.

use crate::shared::tests::real::{Real, one, zero};

/// σ(x) = 1 / (1 + e^−x).
pub fn sigmoid<R: Real>(x: R) -> R {
    one::<R>() / (one::<R>() + (-x).exp())
}

/// silu(x) = x·σ(x).
pub fn silu<R: Real>(x: R) -> R {
    x * sigmoid(x)
}

/// silu'(x) = σ(x)·(1 + x·(1 − σ(x))).
pub fn silu_slope<R: Real>(x: R) -> R {
    sigmoid(x) * (one::<R>() + x * (one::<R>() - sigmoid(x)))
}

/// w = line·(x + cube x³) with line = 2√(2/π).
fn gelu_power<R: Real>(x: R) -> (R, R, R) {
    let line = R::from_f64(2.0 * (2.0 / std::f64::consts::PI).sqrt());
    let cube = R::from_f64(0.044_715);
    (line * (x + cube * x * x * x), line, cube)
}

/// gelu(x) = x·σ(w).
pub fn gelu<R: Real>(x: R) -> R {
    x * sigmoid(gelu_power(x).0)
}

/// gelu'(x) = σ(w)·(1 + x·σ(−w)·w').
pub fn gelu_slope<R: Real>(x: R) -> R {
    let (w, line, cube) = gelu_power(x);
    let slope = line * (one::<R>() + R::from(3.0) * cube * x * x);
    sigmoid(w) * (one::<R>() + x * sigmoid(-w) * slope)
}

/// |x| and its slope, 0 where it has none.
pub fn abs<R: Real>(x: R) -> (R, R) {
    match x.into() {
        x64 if x64 < 0.0 => (-x, -one::<R>()),
        0.0 => (x, zero()),
        _ => (x, one()),
    }
}

/// ln(1 + e^x) − t·x; from 80 on the logarithm is x to the last digit of an f64.
pub fn binary_cross_entropy<R: Real>(x: R, t: R) -> R {
    let log = if x > R::from(80.0) {
        x
    } else {
        x.exp().ln_1p()
    };
    log - t * x
}

/// σ'(x) = σ(x)·σ(−x).
pub fn sigmoid_slope<R: Real>(x: R) -> R {
    sigmoid(x) * sigmoid(-x)
}

/// tanh x = 1 − 2 / (1 + e^2x).
pub fn tanh<R: Real>(x: R) -> R {
    let two = R::from(2.0);
    one::<R>() - two / (one::<R>() + (two * x).exp())
}

/// tanh'(x) = 4 σ'(2x).
pub fn tanh_slope<R: Real>(x: R) -> R {
    R::from(4.0) * sigmoid_slope(R::from(2.0) * x)
}

/// y = a ⊙ silu(z).
pub fn silu_mul<R: Real>(a: &[R], z: &[R]) -> Vec<R> {
    a.iter().zip(z).map(|(a, z)| *a * silu(*z)).collect()
}

/// (da, dz) of [`silu_mul`].
pub fn silu_mul_backward<R: Real>(dy: &[R], a: &[R], z: &[R]) -> (Vec<R>, Vec<R>) {
    let da = (0..dy.len()).map(|i| dy[i] * silu(z[i]));
    let dz = (0..dy.len()).map(|i| dy[i] * a[i] * silu_slope(z[i]));
    (da.collect(), dz.collect())
}

/// out\[c\] = Σ_r x\[r, c\], x: (rows, cols).
pub fn sum_rows<R: Real>(x: &[R], cols: usize) -> Vec<R> {
    let mut out = vec![zero(); cols];
    for row in x.chunks_exact(cols) {
        for (out, x) in out.iter_mut().zip(row) {
            *out += *x;
        }
    }
    out
}
