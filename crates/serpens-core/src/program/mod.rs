//! Programs of a GPU: CUDA C++ compiled for the card at hand on first use, and kernels that take one plain struct each.

mod ahead;
mod cache;
mod compile;
mod kernel;
mod params;
mod rehearsal;
mod source;

pub use ahead::compile_ahead;
pub use compile::{Resources, version as nvrtc_version};
pub use kernel::{Kernel, kernel};
pub use params::{Declarations, FieldLayout, KernelParams};
pub use rehearsal::rehearse;
pub(crate) use rehearsal::rehearsing;
pub use source::{Program, Source};
