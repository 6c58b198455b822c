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

elementwise!(Exp, s, x, exp(s, x));
// e^x, of a product that f32 would round.
elementwise!(
    ExpOfProduct,
    s,
    x,
    exp2_product::<S, { range::NEAR }>(s, x, s.splat_f32s(LOG2_E), s.splat_f32s(LOG2_E_REST))
);
/// 2^(-3 x).
#[derive(Clone, Copy)]
struct Exp2OfProduct<const RANGE: u8>;

impl<const RANGE: u8> Elementwise for Exp2OfProduct<RANGE> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::f32s) -> S::f32s {
        exp2_product::<S, RANGE>(s, x, s.splat_f32s(-3.0), s.splat_f32s(0.0))
    }
}

const ANY: Exp2OfProduct<{ range::ANY }> = Exp2OfProduct;
const FAR: Exp2OfProduct<{ range::FAR }> = Exp2OfProduct;
const NEAR: Exp2OfProduct<{ range::NEAR }> = Exp2OfProduct;

elementwise!(Ln, s, x, ln(s, x));
elementwise!(Log1p, s, x, log1p(s, x));
elementwise!(Softplus, s, x, softplus(s, x).0);
elementwise!(SoftplusSlope, s, x, softplus(s, x).1);
elementwise!(Sigmoid, s, x, sigmoid(s, x));
elementwise!(Silu, s, x, silu(s, x));
elementwise!(SiluBesideSlope, s, x, silu_and_slope(s, x).0);
elementwise!(SiluSlope, s, x, silu_and_slope(s, x).1);
elementwise!(Sine, s, x, sin_cos(s, x).0);
elementwise!(Cosine, s, x, sin_cos(s, x).1);

/// `f` of every value, on every instruction set.
fn on_every_isa<F: Elementwise>(f: F, x: &[f32], mut check: impl FnMut(Isa, &[f32])) {
    for isa in Isa::available() {
        let mut y = vec![0.0; x.len()];
        isa.run(Run { f, x, y: &mut y });
        check(isa, &y);
    }
}

/// A fine grid of [low, high].
fn grid((low, high): (f32, f32)) -> Vec<f32> {
    let count = 100_003; // odd, so that the last vector is a partial one
    (0..count)
        .map(|i| low + (high - low) * i as f32 / (count - 1) as f32)
        .collect()
}

/// Floats of every sign and exponent, infinities and what lies beside the bounds of the functions among them, and a
/// fine grid of those whose exponentials are neither 0 nor ∞.
fn whole_range() -> Vec<f32> {
    let mut x: Vec<f32> = (0..=u32::MAX)
        .step_by(9973)
        .map(f32::from_bits)
        .filter(|x| !x.is_nan())
        .collect();
    for edge in [
        0.0_f32, 1e-38, 80.0, 87.33654, 87.68, 88.0, 88.376, 88.72283, 89.0, 89.5, 1e38,
    ] {
        x.extend([edge, -edge, edge.next_up(), -edge.next_up()]);
        x.extend([edge.next_down(), -edge.next_down()]);
    }
    x.extend([f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN]);
    x.extend(grid((-104.0, 89.0)));
    x
}

/// Holds `f` to relative errors below `bound`, and at most twice the largest of `plain`, over the whole range of
/// floats; where the exact value is no normal number, to an error of the smallest of these, or to ∞.
fn assert_exact_everywhere<F: Elementwise>(
    name: &str,
    f: F,
    exact: impl Fn(f64) -> f64,
    plain: impl Fn(f32) -> f32,
    bound: f64,
) {
    let x = whole_range();
    let exact: Vec<f64> = x.iter().map(|&x| exact(x.into())).collect();
    let normal = |exact: f64| {
        let size = exact.abs();
        (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&size)
    };
    let plainly = x.iter().zip(&exact).filter(|(_, exact)| normal(**exact));
    let plainly = plainly.map(|(&x, &exact)| relative(plain(x).into(), exact));
    let allowed = bound.min(2.0 * plainly.fold(0.0, f64::max));
    on_every_isa(f, &x, |isa, y| {
        for ((&x, &y), &exact) in x.iter().zip(y).zip(&exact) {
            let right = if normal(exact) {
                relative(y.into(), exact) <= allowed
            } else if exact.abs() > 1.0 {
                f64::from(y) == f64::from(exact as f32)
            } else {
                (f64::from(y) - exact).abs() < f32::MIN_POSITIVE.into()
            };
            assert!(
                right,
                "{name}({x:e}) on {}: {y:e}, exact {exact:e}, allowed {allowed:e}",
                isa.name()
            );
        }
    });
}

/// The largest of `error(computed, exact)` over a fine grid, on every instruction set.
fn worst<F: Elementwise>(
    f: F,
    exact: impl Fn(f64) -> f64,
    range: (f32, f32),
    error: impl Fn(f64, f64) -> f64,
) -> f64 {
    let x = grid(range);
    let mut worst: f64 = 0.0;
    on_every_isa(f, &x, |isa, y| {
        for (&x, &y) in x.iter().zip(y) {
            let e = error(y.into(), exact(x.into()));
            assert!(!e.is_nan(), "{} at {x}: {y}", isa.name());
            worst = worst.max(e);
        }
    });
    worst
}

fn relative(y: f64, exact: f64) -> f64 {
    ((y - exact) / exact).abs()
}

fn absolute(y: f64, exact: f64) -> f64 {
    (y - exact).abs()
}

fn softplus_of(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid_of(x: f64) -> f64 {
    if x < 0.0 {
        x.exp() / (1.0 + x.exp())
    } else {
        1.0 / (1.0 + (-x).exp())
    }
}

#[test]
fn exponentials_are_exact_over_the_whole_range() {
    assert_exact_everywhere("exp", Exp, f64::exp, f32::exp, 1.1e-7);
    // The powers of two end at 2^127.5, and those of a product that is not rounded have no plain evaluation.
    let exact = |x: f64| (-3.0 * x).exp2();
    assert!(worst(ANY, exact, (-42.4999, 42.0), relative) < 1.1e-7);
    assert!(worst(ExpOfProduct, f64::exp, (-83.0, 83.0), relative) < 1.1e-7);
}

#[test]
fn softplus_and_sigmoid_are_exact_over_the_whole_range() {
    let softplus_in_f32 = |x: f32| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let sigmoid_in_f32 = |x: f32| 1.0 / (1.0 + (-x).exp());
    assert_exact_everywhere("softplus", Softplus, softplus_of, softplus_in_f32, 6e-7);
    let slope = ("the slope of softplus", SoftplusSlope);
    assert_exact_everywhere(slope.0, slope.1, sigmoid_of, sigmoid_in_f32, 6e-7);
    assert_exact_everywhere("sigmoid", Sigmoid, sigmoid_of, sigmoid_in_f32, 3e-7);
}

#[test]
fn silu_and_its_slope_are_exact_over_the_whole_range() {
    let mut x = whole_range();
    x.retain(|x| x.is_finite());
    let silu_of = |x: f64| x * sigmoid_of(x);
    // The slope's two terms, which cancel beside its zero.
    let terms = |x: f64| [sigmoid_of(x), silu_of(x) * sigmoid_of(-x)];
    let check = |name: &str, isa: Isa, y: &[f32], terms: &dyn Fn(f64) -> [f64; 2]| {
        for (&x, &y) in x.iter().zip(y) {
            let [a, b] = terms(x.into());
            // Nothing is left where e^-x is beyond the largest number.
            let bound = if x < -88.722 { 1.0 } else { 3e-7 };
            let allowed = (bound * (a.abs() + b.abs())).max(f32::MIN_POSITIVE.into());
            let right = absolute(y.into(), a + b) <= allowed;
            let isa = isa.name();
            assert!(right, "{name}({x:e}) on {isa}: {y:e}, exact {:e}", a + b);
        }
    };
    let value = |x: f64| [silu_of(x), 0.0];
    on_every_isa(Silu, &x, |isa, y| check("silu", isa, y, &value));
    on_every_isa(SiluBesideSlope, &x, |isa, y| check("silu", isa, y, &value));
    on_every_isa(SiluSlope, &x, |isa, y| check("its slope", isa, y, &terms));
    on_every_isa(Silu, &[-1e38, f32::MIN, -1e4], |isa, y| {
        assert!(
            y.iter().all(|y| y.to_bits() == (-0.0_f32).to_bits()),
            "{isa:?}"
        );
    });
}

#[test]
fn exponents_give_the_same_in_every_range_that_they_lie_in() {
    fn values<F: Elementwise>(f: F, x: &[f32]) -> Vec<Vec<f32>> {
        let mut all = Vec::new();
        on_every_isa(f, x, |_, y| all.push(y.to_vec()));
        all
    }
    let within = |bound: f32| -> Vec<f32> {
        let inside = |x: &f32| (3.0 * x).abs() <= bound;
        whole_range().into_iter().filter(inside).collect()
    };
    let far = within(1e12);
    let any = values(ANY, &far);
    assert!(values(FAR, &far) == any && any.iter().all(|y| *y == any[0]));
    // Halves go to either side.
    let near = within(120.0);
    for (x, y) in values(NEAR, &near).iter().zip(values(ANY, &near)) {
        assert!(
            x.iter()
                .zip(y)
                .all(|(x, y)| (x / y - 1.0).abs() <= f32::EPSILON)
        );
    }
}

#[test]
fn exponentials_of_extremes_are_their_limits() {
    let x = [f32::NEG_INFINITY, -1e38, 1e38, f32::INFINITY];
    let one = 1.0_f32;
    let limits = |f: &str, y: [f32; 4]| (f.to_owned(), y.map(f32::to_bits));
    let mut seen = Vec::new();
    macro_rules! see {
        ($($f:expr => $limits:expr),*) => {$(
            on_every_isa($f, &x, |isa, y| {
                let name = format!("{} on {}", stringify!($f), isa.name());
                let y: [f32; 4] = y.try_into().unwrap();
                seen.push((limits(&name, y), limits(&name, $limits)));
            });
        )*};
    }
    see!(
        Exp => [0.0, 0.0, f32::INFINITY, f32::INFINITY],
        ANY => [f32::INFINITY, f32::INFINITY, 0.0, 0.0],
        Softplus => [0.0, 0.0, 1e38, f32::INFINITY],
        SoftplusSlope => [0.0, 0.0, one, one],
        Sigmoid => [0.0, 0.0, one, one]
    );
    for (got, expected) in seen {
        assert_eq!(got, expected);
    }
}

#[test]
fn a_nan_of_any_payload_stays_one() {
    let x = [
        0x7fc0_0000,
        0x7fc0_0001,
        0xffc0_0000,
        0xffff_ffff,
        0x7f80_01ff,
    ]
    .map(f32::from_bits);
    let check = |isa: Isa, y: &[f32]| assert!(y.iter().all(|y| y.is_nan()), "{isa:?}: {y:?}");
    on_every_isa(Exp, &x, check);
    on_every_isa(ANY, &x, check);
    on_every_isa(Softplus, &x, check);
    on_every_isa(SoftplusSlope, &x, check);
    on_every_isa(Sigmoid, &x, check);
    on_every_isa(Silu, &x, check);
    on_every_isa(SiluSlope, &x, check);
}

#[test]
fn logarithms_keep_their_stated_error() {
    assert!(worst(Ln, f64::ln, (1.5, 1e6), relative) < 3e-7);
    assert!(worst(Ln, f64::ln, (1e-6, 0.6), relative) < 3e-7);
    assert!(worst(Ln, f64::ln, (0.5, 2.0), absolute) < 1e-7);
    assert!(worst(Log1p, f64::ln_1p, (1e-9, 1.0), relative) < 2e-7);
}

#[test]
fn sine_and_cosine_keep_their_stated_error() {
    for range in [(-1.0, 1.0), (-100.0, 100.0), (9_000.0, 10_000.0)] {
        assert!(worst(Sine, f64::sin, range, absolute) < 3e-7);
        assert!(worst(Cosine, f64::cos, range, absolute) < 3e-7);
    }
}

#[test]
fn stored_values_are_widened_exactly() {
    struct Widen<'a>(&'a [bf16], Vec<f32>);
    impl WithSimd for Widen<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, s: S) -> Vec<f32> {
            for (x, y) in self
                .0
                .chunks(S::F32_LANES)
                .zip(self.1.chunks_mut(S::F32_LANES))
            {
                store(s, y, bf16::lanes(s, x));
            }
            self.1
        }
    }
    let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    for isa in Isa::available() {
        for len in [all.len(), 37, 5, 1] {
            let wide = isa.run(Widen(&all[..len], vec![1.0; len]));
            let exact = all[..len].iter().map(|x| u32::from(x.to_bits()) << 16);
            assert!(wide.iter().map(|x| x.to_bits()).eq(exact), "{isa:?}");
        }
    }
}

#[test]
fn stored_values_are_rounded_to_nearest_even() {
    struct Narrow<'a>(&'a [f32], Vec<bf16>);
    impl WithSimd for Narrow<'_> {
        type Output = Vec<bf16>;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, s: S) -> Vec<bf16> {
            for (x, y) in self
                .0
                .chunks(S::F32_LANES)
                .zip(self.1.chunks_mut(S::F32_LANES))
            {
                bf16::store(s, y, load(s, x));
            }
            self.1
        }
    }
    // Every upper half with lower ones around the middle, NaN that only the lower half tells among them.
    let lower = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    let of_upper = |upper: u32| lower.map(|lower| f32::from_bits(upper << 16 | lower));
    let all: Vec<f32> = (0..=u32::from(u16::MAX)).flat_map(of_upper).collect();
    for isa in Isa::available() {
        for len in [all.len(), 37, 5, 1] {
            let short = isa.run(Narrow(&all[..len], vec![bf16::ONE; len]));
            for (short, x) in short.iter().zip(&all) {
                let expected = bf16::from_f32(*x);
                let same = short.to_bits() == expected.to_bits();
                assert!(same || (x.is_nan() && short.is_nan()), "{isa:?}: {x}");
            }
        }
    }
}
