//! The numbers that definitions are evaluated in: in f64 the truth, in f32 the yardstick of a kernel's error.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// The numbers that a definition is evaluated in.
pub(crate) trait Real:
    Copy
    + From<f32>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + Sum
{
    /// e^self.
    fn exp(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The sine and the cosine.
    fn sin_cos(self) -> (Self, Self);
}

impl Real for f64 {
    fn exp(self) -> Self {
        self.exp()
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn sin_cos(self) -> (Self, Self) {
        self.sin_cos()
    }
}

impl Real for f32 {
    fn exp(self) -> Self {
        self.exp()
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn sin_cos(self) -> (Self, Self) {
        self.sin_cos()
    }
}

/// The number zero.
pub(crate) fn zero<R: Real>() -> R {
    R::from(0.0)
}

/// The number one.
pub(crate) fn one<R: Real>() -> R {
    R::from(1.0)
}
