//! The functions on matrices of any device.

use serpens_core::{DType, Device, Result, View, ViewMut};

use super::scalars::Scalars;
use super::{cpu, cuda};

/// Declares functions of inputs that give outputs, some with scalars besides or with a last input of a type of its own,
/// with the kernel of its name on every device for each.
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident($($x:ident),+ $(; $with:ident)? => $y:ident $(, $more:ident)?) $($last:expr)?;)+) => {$(
        $(#[$doc])*
        pub(super) fn $name(
            $($x: View<'_>,)+ $y: ViewMut<'_>, $($more: ViewMut<'_>)? $($with: Scalars)?
        ) -> Result<()> {
            match $y.device() {
                Device::Cpu => cpu::$name($($x.mat()?,)+ $y.mat()?, $($more.mat()?)? $($with)?),
                Device::Cuda(_) => {
                    let entry = concat!("elementwise_", stringify!($name));
                    let last = [$($last,)? $y.dtype()][0];
                    let scalars = [$($with,)? Scalars::default()][0];
                    cuda::map(entry, [$($x),+], last, [$y $(, $more)?], scalars)?;
                }
            }
            Ok(())
        }
    )+};
}

functions! {
    /// y = a + b.
    add(a, b => y);
    /// y = a − b.
    sub(a, b => y);
    /// y = a ⊙ b.
    mul(a, b => y);
    /// da = dy ⊙ b, db = dy ⊙ a.
    mul_backward(dy, a, b => da, db);
    /// y = silu(x).
    silu(x => y);
    /// dx = dy ⊙ silu'(x).
    silu_backward(dy, x => dx);
    /// y = a ⊙ silu(z).
    silu_mul(a, z => y);
    /// da = dy ⊙ silu(z), dz = dy ⊙ a ⊙ silu'(z).
    silu_mul_backward(dy, a, z => da, dz);
    /// y = gelu(x).
    gelu(x => y);
    /// dx = dy ⊙ gelu'(x).
    gelu_backward(dy, x => dx);
    /// y = e^x.
    exp(x => y);
    /// y = −e^x.
    neg_exp(x => y);
    /// y = ln x.
    log(x => y);
    /// dx = dy ⊘ x.
    log_backward(dy, x => dx);
    /// y = |x|.
    abs(x => y);
    /// dx = dy ⊙ sign(x).
    abs_backward(dy, x => dx);
    /// y = ln(1 + e^x) − t ⊙ x.
    binary_cross_entropy(x, t => y) DType::F32;
    /// dx = dy ⊙ (σ(x) − t).
    binary_cross_entropy_backward(dy, x, t => dx) DType::F32;
    /// y = σ(x).
    sigmoid(x => y);
    /// dx = dy ⊙ σ'(x).
    sigmoid_backward(dy, x => dx);
    /// y = tanh x.
    tanh(x => y);
    /// dx = dy ⊙ tanh'(x).
    tanh_backward(dy, x => dx);
    /// y = factor · x.
    scale(x; scalars => y);
    /// y = factor · x where it is kept, 0 elsewhere.
    dropout(x; scalars => y);
}

/// out\[c\] = Σ_r x\[r, c\], added to `out` where `accumulate`.
pub(crate) fn sum_rows(x: View<'_>, out: ViewMut<'_>, accumulate: bool) -> Result<()> {
    match out.device() {
        Device::Cpu => cpu::sum_rows(x.mat()?, out.slice()?, accumulate),
        Device::Cuda(_) => cuda::sum_rows(x, out, accumulate)?,
    }
    Ok(())
}
