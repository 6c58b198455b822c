//! The numbers that definitions are evaluated in: in f64 the truth, in f32 the yardstick of a kernel's error.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// The numbers that a definition is evaluated in.
pub(crate) trait Real:
    Copy
    + Default
    + PartialOrd
    + From<f32>
    + Into<f64>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + Sum
{
    /// The nearest number.
    fn from_f64(x: f64) -> Self;
    /// e^self.
    fn exp(self) -> Self;
    /// e^self - 1.
    fn exp_m1(self) -> Self;
    /// ln(self).
    fn ln(self) -> Self;
    /// ln(1 + self).
    fn ln_1p(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The sine and the cosine.
    fn sin_cos(self) -> (Self, Self);
}

macro_rules! real {
    ($t:ty) => {
        impl Real for $t {
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn exp_m1(self) -> Self {
                self.exp_m1()
            }
            fn ln(self) -> Self {
                self.ln()
            }
            fn ln_1p(self) -> Self {
                self.ln_1p()
            }
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn sin_cos(self) -> (Self, Self) {
                self.sin_cos()
            }
        }
    };
}
real!(f64);
real!(f32);

/// The number zero.
pub(crate) fn zero<R: Real>() -> R {
    R::from(0.0)
}

/// The number one.
pub(crate) fn one<R: Real>() -> R {
    R::from(1.0)
}
