//! The functions on matrices of any device.

use serpens_core::{Device, Result, View, ViewMut};

use super::{cpu, cuda};

/// Declares a function of inputs that gives outputs, with the kernel of its name on every device.
macro_rules! function {
    ($(#[$doc:meta])* $name:ident($($x:ident),+ => $y:ident $(, $more:ident)?)) => {
        $(#[$doc])*
        pub(super) fn $name($($x: View<'_>,)+ $y: ViewMut<'_>, $($more: ViewMut<'_>)?) -> Result<()> {
            match $y.device() {
                Device::Cpu => {
                    cpu::$name($($x.mat()?,)+ $y.mat()?, $($more.mat()?)?);
                    Ok(())
                }
                Device::Cuda(_) => {
                    let entry = concat!("elementwise_", stringify!($name));
                    cuda::map(entry, [$($x),+], [$y $(, $more)?])
                }
            }
        }
    };
}

function!(
    /// y = a + b.
    add(a, b => y)
);
function!(
    /// y = a ⊙ b.
    mul(a, b => y)
);
function!(
    /// da = dy ⊙ b, db = dy ⊙ a.
    mul_backward(dy, a, b => da, db)
);
function!(
    /// y = silu(x).
    silu(x => y)
);
function!(
    /// dx = dy ⊙ silu'(x).
    silu_backward(dy, x => dx)
);
function!(
    /// y = a ⊙ silu(z).
    silu_mul(a, z => y)
);
function!(
    /// da = dy ⊙ silu(z), dz = dy ⊙ a ⊙ silu'(z).
    silu_mul_backward(dy, a, z => da, dz)
);
function!(
    /// y = e^x.
    exp(x => y)
);
function!(
    /// y = −e^x.
    neg_exp(x => y)
);

/// out\[c\] = Σ_r x\[r, c\], added to `out` where `accumulate`.
pub(super) fn sum_rows(x: View<'_>, out: ViewMut<'_>, accumulate: bool) -> Result<()> {
    match out.device() {
        Device::Cpu => {
            cpu::sum_rows(x.mat()?, out.slice()?, accumulate);
            Ok(())
        }
        Device::Cuda(_) => cuda::sum_rows(x, out, accumulate),
    }
}
