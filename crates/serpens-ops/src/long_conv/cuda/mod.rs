//! The causal long convolution on a GPU.
//!
//! Short sequences are convolved by definition. Longer ones by Fourier transforms of as many complex points as a
//! sequence has steps (rounded up to a power of two), see `fft.cuh`: in one block where they fit its shared
//! memory, else as columns and rows with a work array between them. A correlation multiplies by the conjugate spectrum.
//! Lanes run over channels.

mod block;
mod columns;
mod direct;
mod groups;
mod tile;

use serpens_core::{DType, Device, Result, View, ViewMut};

use super::{LongConvDims, OP};
use crate::check;

/// The longest sequence convolved by definition, as the kernels have it.
const DIRECT_LENGTH: usize = 64;

/// The longest sequence transformed in one block; where a channel's share of the shared memory is larger, too few
/// channels fit beside each other to read memory well.
const BLOCK_LENGTH: usize = 2048;

/// y = k * u along each channel: u, y (batch · length, channels) of one type, k (length, channels) in f32.
pub(super) fn forward(u: View<'_>, k: View<'_>, y: ViewMut<'_>, dims: LongConvDims) -> Result<()> {
    if dims.is_empty() {
        return Ok(());
    }
    check::float(OP, "u", u.dtype())?;
    let job = Job::new(&u, &k, dims)?;
    match Method::new(dims.length)? {
        Method::Direct => direct::convolve(job, u, k, y, false),
        Method::Block { size } => block::convolve(job, size, u, k, y, false),
        Method::Columns(plan) => columns::convolve(job, plan, u, k, y, false),
    }
}

/// The gradients for the gradient `dy` of y: du of u's type, dk (length, channels) without gaps in f32; what is `None`
/// is not computed.
pub(super) fn backward(
    u: View<'_>,
    k: View<'_>,
    dy: View<'_>,
    du: Option<ViewMut<'_>>,
    dk: Option<ViewMut<'_>>,
    dims: LongConvDims,
) -> Result<()> {
    let Some(dk) = dk else {
        return du.map_or(Ok(()), |du| backward_input(k, dy, du, dims));
    };
    if dims.is_empty() {
        return groups::zero(dk);
    }
    check::dtype(OP, "dy", u.dtype(), dy.dtype())?;
    let job = Job::new(&u, &k, dims)?;
    match Method::new(dims.length)? {
        Method::Direct => {
            if let Some(du) = du {
                direct::convolve(job, dy, k, du, true)?;
            }
            direct::correlate(job, u, dy, dk)
        }
        Method::Block { size } => block::correlate(job, size, [u, dy], k, du, dk),
        Method::Columns(plan) => columns::correlate(job, plan, [u, dy], k, du, dk),
    }
}

/// du alone: the correlation of dy with k.
fn backward_input(k: View<'_>, dy: View<'_>, du: ViewMut<'_>, dims: LongConvDims) -> Result<()> {
    if dims.is_empty() {
        return Ok(());
    }
    let job = Job::new(&dy, &k, dims)?;
    match Method::new(dims.length)? {
        Method::Direct => direct::convolve(job, dy, k, du, true),
        Method::Block { size } => block::convolve(job, size, dy, k, du, true),
        Method::Columns(plan) => columns::convolve(job, plan, dy, k, du, true),
    }
}

/// What every launch of a convolution needs to know.
#[derive(Clone, Copy)]
struct Job {
    batch: usize,
    length: i32,
    channels: i32,
    device: Device,
    /// Of the sequences.
    dtype: DType,
}

impl Job {
    fn new(u: &View<'_>, k: &View<'_>, dims: LongConvDims) -> Result<Self> {
        let device = u.device();
        check::address(OP, "k", k, DType::F32, device)?;
        Ok(Self {
            batch: dims.batch,
            length: check::int(OP, "the length", dims.length)?,
            channels: check::int(OP, "the number of channels", dims.channels)?,
            device,
            dtype: u.dtype(),
        })
    }

    /// Tiles of `width` channels.
    fn tiles(self, width: usize) -> usize {
        (self.channels as usize).div_ceil(width)
    }
}

/// How sequences of one length are convolved.
enum Method {
    Direct,
    Block { size: usize },
    Columns(columns::ColumnsPlan),
}

impl Method {
    fn new(length: usize) -> Result<Self> {
        if length <= DIRECT_LENGTH {
            return Ok(Method::Direct);
        }
        if length <= BLOCK_LENGTH {
            let size = length.next_power_of_two();
            return Ok(Method::Block { size });
        }
        columns::ColumnsPlan::new(length).map(Method::Columns)
    }
}

fn grid(blocks: usize) -> [u32; 3] {
    [blocks as u32, 1, 1]
}
