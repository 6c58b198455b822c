//! Every function on every instruction set of this machine, against the f64 value.

use super::*;

struct Run<'a, F> {
    f: F,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<F: Elementwise> WithSimd for Run<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        Map {
            f: self.f,
            x: self.x,
            y: self.y,
        }
        .with_simd(s);
    }
}

macro_rules! elementwise {
    ($name:ident, $s:ident, $x:ident, $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Elementwise for $name {
            #[inline(always)]
            fn apply<S: Simd>(self, $s: S, $x: S::f32s) -> S::f32s {
                $body
            }
        }
    };
}

elementwise!(Exp2, s, x, exp2(s, x));
elementwise!(Exp, s, x, exp(s, x));
elementwise!(Ln, s, x, ln(s, x));
elementwise!(Log1p, s, x, log1p(s, x));
elementwise!(Softplus, s, x, softplus(s, x));
elementwise!(Sigmoid, s, x, sigmoid(s, x));
elementwise!(Sine, s, x, sin_cos(s, x).0);
elementwise!(Cosine, s, x, sin_cos(s, x).1);

/// The largest of `error(computed, exact, x)` over a fine grid of [low, high], on every instruction set.
fn worst<F: Elementwise>(
    f: F,
    exact: impl Fn(f64) -> f64,
    (low, high): (f32, f32),
    error: impl Fn(f64, f64, f64) -> f64,
) -> f64 {
    let count = 100_003; // odd, so that the last vector is a partial one
    let x: Vec<f32> = (0..count)
        .map(|i| low + (high - low) * i as f32 / (count - 1) as f32)
        .collect();
    let mut worst: f64 = 0.0;
    for isa in Isa::available() {
        let mut y = vec![0.0; count];
        isa.run(Run {
            f,
            x: &x,
            y: &mut y,
        });
        for (&x, &y) in x.iter().zip(&y) {
            let x = f64::from(x);
            let e = error(f64::from(y), exact(x), x);
            assert!(!e.is_nan(), "{} at {x}: {y}", isa.name());
            worst = worst.max(e);
        }
    }
    worst
}

fn relative(y: f64, exact: f64, _x: f64) -> f64 {
    ((y - exact) / exact).abs()
}

fn absolute(y: f64, exact: f64, _x: f64) -> f64 {
    (y - exact).abs()
}

#[test]
fn exponentials_keep_their_stated_error() {
    assert!(worst(Exp2, f64::exp2, (-125.0, 127.0), relative) < 1.2e-7);
    let scaled = |y, exact, x: f64| relative(y, exact, x) / (x.abs() / 2.0).max(1.0);
    assert!(worst(Exp, f64::exp, (-86.0, 87.0), scaled) < 2e-7);
    assert!(worst(Exp, f64::exp, (-1.0, 1.0), relative) < 2e-7);
}

#[test]
fn logarithms_keep_their_stated_error() {
    assert!(worst(Ln, f64::ln, (1.5, 1e6), relative) < 3e-7);
    assert!(worst(Ln, f64::ln, (1e-6, 0.6), relative) < 3e-7);
    assert!(worst(Ln, f64::ln, (0.5, 2.0), absolute) < 1e-7);
    assert!(worst(Log1p, f64::ln_1p, (1e-9, 1.0), relative) < 3e-7);
}

#[test]
fn softplus_and_sigmoid_keep_their_stated_error() {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    assert!(
        worst(Softplus, softplus, (-80.0, 80.0), |y, e, x| relative(
            y, e, x
        ) / (x.abs()
            / 2.0)
            .max(1.0))
            < 6e-7
    );
    assert!(worst(Softplus, softplus, (-4.0, 30.0), relative) < 6e-7);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    assert!(worst(Sigmoid, sigmoid, (-10.0, 80.0), relative) < 6e-7);
}

#[test]
fn sine_and_cosine_keep_their_stated_error() {
    for range in [(-1.0, 1.0), (-100.0, 100.0), (9_000.0, 10_000.0)] {
        assert!(worst(Sine, f64::sin, range, absolute) < 3e-7);
        assert!(worst(Cosine, f64::cos, range, absolute) < 3e-7);
    }
}

#[test]
fn exponentials_of_extremes_stay_finite() {
    for isa in Isa::available() {
        let x = [f32::NEG_INFINITY, -1e30, 1e30, f32::INFINITY];
        let mut y = [0.0; 4];
        isa.run(Run {
            f: Exp,
            x: &x,
            y: &mut y,
        });
        assert!(y.iter().all(|v| v.is_finite()), "{}: {y:?}", isa.name());
        assert!(y[0] < 1e-37 && y[3] > 1e38);
    }
}
