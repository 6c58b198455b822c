//! Zero-order hold of one state in f64, and how gradients pass through it.

use std::ops::{Add, Mul, Sub};

use crate::lti_kernel::LtiSystem;

/// A complex number; a real system has zero imaginary parts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct C64 {
    pub(super) re: f64,
    pub(super) im: f64,
}

impl C64 {
    pub(super) const ONE: C64 = C64 { re: 1.0, im: 0.0 };

    pub(super) fn exp(self) -> C64 {
        let (sin, cos) = self.im.sin_cos();
        let magnitude = self.re.exp();
        C64 {
            re: magnitude * cos,
            im: magnitude * sin,
        }
    }

    fn norm(self) -> f64 {
        self.re.hypot(self.im)
    }

    fn reciprocal(self) -> C64 {
        let square = self.re * self.re + self.im * self.im;
        C64 {
            re: self.re / square,
            im: -self.im / square,
        }
    }
}

impl Add for C64 {
    type Output = C64;

    fn add(self, other: C64) -> C64 {
        C64 {
            re: self.re + other.re,
            im: self.im + other.im,
        }
    }
}

impl Sub for C64 {
    type Output = C64;

    fn sub(self, other: C64) -> C64 {
        C64 {
            re: self.re - other.re,
            im: self.im - other.im,
        }
    }
}

impl Mul for C64 {
    type Output = C64;

    fn mul(self, other: C64) -> C64 {
        C64 {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }
}

impl Mul<f64> for C64 {
    type Output = C64;

    fn mul(self, factor: f64) -> C64 {
        C64 {
            re: self.re * factor,
            im: self.im * factor,
        }
    }
}

/// Below this |x| the functions of x = ΔA are taken from their series.
const SMALL: f64 = 0.05;

/// Σ_k c_k x^k.
fn series(x: C64, coefficients: &[f64]) -> C64 {
    let constant = |re| C64 { re, im: 0.0 };
    coefficients
        .iter()
        .rev()
        .fold(C64::default(), |sum, &c| sum * x + constant(c))
}

/// (e^x - 1)/x.
fn expm1_over_x(x: C64) -> C64 {
    if x.norm() < SMALL {
        let c = [
            1.0,
            1.0 / 2.0,
            1.0 / 6.0,
            1.0 / 24.0,
            1.0 / 120.0,
            1.0 / 720.0,
            1.0 / 5040.0,
        ];
        return series(x, &c);
    }
    (x.exp() - C64::ONE) * x.reciprocal()
}

/// The derivative of (e^x - 1)/x: (e^x - (e^x - 1)/x)/x.
fn expm1_over_x_slope(x: C64) -> C64 {
    if x.norm() < SMALL {
        let c = [
            1.0 / 2.0,
            1.0 / 3.0,
            1.0 / 8.0,
            1.0 / 30.0,
            1.0 / 144.0,
            1.0 / 840.0,
            1.0 / 5760.0,
        ];
        return series(x, &c);
    }
    (x.exp() - expm1_over_x(x)) * x.reciprocal()
}

/// One state discretised: Ā = exp(ΔA), B̄ = φ B with φ = (Ā - 1)/A.
#[derive(Clone, Copy, Debug)]
pub(super) struct Discrete {
    pub(super) a_bar: C64,
    phi: C64,
    dt: f64,
    a: C64,
    b: C64,
    c: C64,
}

impl LtiSystem<&[f32]> {
    /// 2 for complex systems, whose states stand for conjugate pairs.
    pub(super) fn scale(&self) -> f64 {
        if self.a_im.is_some() { 2.0 } else { 1.0 }
    }

    pub(super) fn discretise(&self, channel: usize, n: usize) -> Discrete {
        let i = channel * self.dims().state + n;
        let complex = |re: &[f32], im: Option<&[f32]>| C64 {
            re: f64::from(re[i]),
            im: im.map_or(0.0, |im| f64::from(im[i])),
        };
        Discrete::new(
            f64::from(self.dt[channel]),
            complex(self.a, self.a_im),
            complex(self.b, self.b_im),
            complex(self.c, self.c_im),
        )
    }
}

/// Holomorphic derivatives: a change dx of the operand changes the loss by Re(γ dx).
pub(super) struct StateGrad {
    pub(super) dt: f64,
    pub(super) a: C64,
    pub(super) b: C64,
    pub(super) c: C64,
}

impl Discrete {
    pub(super) fn new(dt: f64, a: C64, b: C64, c: C64) -> Self {
        let x = a * dt;
        Self {
            a_bar: x.exp(),
            phi: expm1_over_x(x) * dt,
            dt,
            a,
            b,
            c,
        }
    }

    pub(super) fn b_bar(&self) -> C64 {
        self.phi * self.b
    }

    pub(super) fn c(&self) -> C64 {
        self.c
    }

    /// The weight of Ā^t in the kernel, C B̄.
    pub(super) fn weight(&self) -> C64 {
        self.c * self.b_bar()
    }

    /// Gradients from S0 = Σ_t dK_t Ā^t and S1 = Σ_t t dK_t Ā^t, where the kernel is `scale` Re(C B̄ Ā^t).
    pub(super) fn gradients(&self, scale: f64, s0: C64, s1: C64) -> StateGrad {
        let of_weight = s0 * scale;
        let of_b_bar = of_weight * self.c;
        let of_phi = of_b_bar * self.b;
        let of_x = self.weight() * s1 * scale; // through Ā^t = exp(t x), x = ΔA
        let phi_by_a = expm1_over_x_slope(self.a * self.dt) * (self.dt * self.dt);
        StateGrad {
            dt: (of_x * self.a + of_phi * self.a_bar).re,
            a: of_x * self.dt + of_phi * phi_by_a,
            b: of_b_bar * self.phi,
            c: of_weight * self.b_bar(),
        }
    }
}
