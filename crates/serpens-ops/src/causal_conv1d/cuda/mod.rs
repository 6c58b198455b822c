//! Convolution on a GPU: which variant of the kernels, and how many threads share a sequence.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Device, Result, Tensor, View, ViewMut, kernel_params};

use super::{ConvDims, ConvOperands, OP};
use crate::check::{self, accessible};
use crate::fold;

mod step;

pub use step::{step, step_of_product};

static SOURCE: Source = Source::new(
    "causal_conv1d",
    concat!(
        include_str!("../../shared/packet.cuh"),
        include_str!("kernel.cu")
    ),
)
.params(&[ConvForwardParams::declare, ConvBackwardParams::declare])
// But what models run: few taps, accesses of several values.
.may_spill(|program| program.number("WIDTH") > Some(4) || program.number("VEC") == Some(1));

/// Threads of a block, as the kernels have them.
const THREADS: usize = 128;
/// Threads side by side over the channels: more would leave fewer segments to a block without reading faster.
const LANES: usize = 32;
/// Steps below which a segment is not cut: each reads the `width − 1` steps around it once more.
const SHORTEST: usize = 16;

/// A convolution as the kernels of a GPU take it: sequences as batch·length rows, and for each a byte that is not zero
/// where a packed sequence starts, as time runs ([`crate::Starts::bytes`]).
pub type Conv<'a> = super::Conv<View<'a>, View<'a>>;

kernel_params! {
    struct ConvParams {
        x: DevicePtr as "const IO*", // (batch · length, channels)
        weight: DevicePtr as "const float*", // (channels, WIDTH)
        bias: DevicePtr as "const float*", // (channels), or null
        initial_state: DevicePtr as "const float*", // (batch, PAST, channels), or null
        starts: DevicePtr as "const u8*", // (batch, length); unused without STARTS
        x_stride: i64,
        batch: i64,
        channels: i64,
        length: i32,
        segment: i32, // steps of a thread
        segments: i32, // of a sequence
        lanes: i32,
        reverse: i32,
    }

    struct ConvForwardParams {
        conv: ConvParams,
        y: DevicePtr as "IO*", // (batch · length, channels)
        y_stride: i64,
        final_state: DevicePtr as "float*", // (batch, PAST, channels), or null
    }

    struct ConvBackwardParams {
        conv: ConvParams,
        dy: DevicePtr as "const IO*", // (batch · length, channels)
        dx: DevicePtr as "IO*", // (batch · length, channels)
        dy_stride: i64,
        dx_stride: i64,
        dfinal_state: DevicePtr as "const float*", // (batch, PAST, channels), or null
        dinitial_state: DevicePtr as "float*", // (batch, PAST, channels), or null
        partials: DevicePtr as "float*", // (gridDim.x, WIDTH + 1, channels): the gradients of the taps and of the bias
    }
}

/// y = act(bias + Σ_k weight\[k\] · x\[t − W + 1 + k\]); the last W − 1 inputs go to `final_state`.
///
/// # Errors
/// Operands of other types or on other devices; whatever the device fails with.
pub fn forward(conv: &Conv, y: ViewMut, final_state: ViewMut) -> Result<()> {
    let problem = Problem::new(conv, &[y.as_view()])?;
    let kernel = problem.kernel("causal_conv1d_forward")?;
    let launch = problem.launch(&kernel)?;
    let params = ConvForwardParams {
        conv: problem.params(&launch)?,
        y: y.ptr(),
        y_stride: y.stride() as i64,
        final_state: final_state.ptr(),
    };
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to.
    unsafe { kernel.launch(launch.grid, THREADS as u32, 0, &params) }
}

/// The gradients of x, of the parameters and of the initial state, from `dy` and, where the final state was used, its
/// gradient.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    conv: &Conv,
    dy: View,
    d_final_state: Option<View>,
    grads: ConvOperands<ViewMut>,
) -> Result<()> {
    let problem = Problem::new(conv, &[dy, grads.x.as_view()])?;
    let (device, x) = (problem.device, conv.operands.x);
    let kernel = problem.kernel("causal_conv1d_backward")?;
    let launch = problem.launch(&kernel)?;
    let sums = [launch.grid[0] as usize, (conv.dims.width + 1) * x.cols()];
    let mut partials = Tensor::empty(sums, DType::F32, device)?;
    let state = d_final_state.map(|state| problem.address("the final state's gradient", &state));
    let params = ConvBackwardParams {
        conv: problem.params(&launch)?,
        dy: check::address(OP, "the output's gradient", &dy, x.dtype(), device)?,
        dx: grads.x.ptr(),
        dy_stride: dy.stride() as i64,
        dx_stride: grads.x.stride() as i64,
        dfinal_state: state.transpose()?.unwrap_or(DevicePtr::NULL),
        dinitial_state: grads
            .initial_state
            .map_or(DevicePtr::NULL, |state| state.ptr()),
        partials: partials.view_mut()?.ptr(),
    };
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to, and the
    // partials have a row for every block along the first axis.
    unsafe { kernel.launch(launch.grid, THREADS as u32, 0, &params)? };
    fold::fold(&partials, x.cols(), grads.weight, grads.bias)
}

/// A convolution with the variant of its kernels.
struct Problem<'a> {
    conv: &'a Conv<'a>,
    device: Device,
    /// Channels of a thread.
    vec: usize,
}

/// How a kernel is launched.
struct Launch {
    segment: usize,
    segments: usize,
    lanes: usize,
    grid: [u32; 3],
}

impl<'a> Problem<'a> {
    /// `others` are the matrices beside x that a thread reads or writes at its channels.
    fn new(conv: &'a Conv<'a>, others: &[View<'_>]) -> Result<Self> {
        check::int(OP, "the length", conv.dims.length)?;
        let x = conv.operands.x;
        let fits = |vec| accessible(&[x], x.cols(), vec) && accessible(others, x.cols(), vec);
        let widest = widest(x.dtype(), conv.dims.width);
        let vec = [4, 2, 1]
            .into_iter()
            .find(|&vec| vec <= widest && fits(vec));
        Ok(Self {
            conv,
            device: x.device(),
            vec: vec.unwrap_or(1),
        })
    }

    fn kernel(&self, entry: &'static str) -> Result<Kernel> {
        let conv = self.conv;
        let flags = (conv.silu, conv.starts.is_some());
        let (dtype, width) = (conv.operands.x.dtype(), conv.dims.width);
        let defines = defines(dtype, self.vec, width, flags);
        let defines: Vec<_> = defines.iter().map(|(k, v)| (*k, v.as_str())).collect();
        kernel(self.device, &SOURCE, entry, &defines)
    }

    /// Cuts the sequences so that the threads fill the device once: shorter segments read more twice.
    fn launch(&self, kernel: &Kernel) -> Result<Launch> {
        let ConvDims {
            batch,
            length,
            channels,
            width,
        } = self.conv.dims;
        let groups = channels / self.vec;
        let slabs = groups.div_ceil(LANES).max(1);
        let lanes = groups.div_ceil(slabs).max(1);
        let rows = THREADS / lanes;
        let resident = kernel.blocks_per_multiprocessor(THREADS as u32, 0)?;
        let blocks = (resident * properties(self.device)?.multiprocessors) as usize / slabs;
        let wanted = (blocks * rows / batch.max(1)).max(1);
        let segment = length.div_ceil(wanted).max(SHORTEST);
        let segment = segment.next_multiple_of(steps(self.vec, width));
        // An empty sequence still hands its state on.
        let segments = length.div_ceil(segment).max(1);
        let grid = [(batch * segments).div_ceil(rows), groups.div_ceil(lanes), 1];
        Ok(Launch {
            segment,
            segments,
            lanes,
            grid: grid.map(|blocks| blocks as u32),
        })
    }

    fn params(&self, launch: &Launch) -> Result<ConvParams> {
        let Conv { dims, operands, .. } = self.conv;
        let optional = |what, view: &Option<View<'_>>| match view {
            Some(view) => self.address(what, view),
            None => Ok(DevicePtr::NULL),
        };
        let (x, starts) = (operands.x, self.conv.starts);
        Ok(ConvParams {
            x: x.ptr(),
            weight: self.address("weight", &operands.weight)?,
            bias: optional("bias", &operands.bias)?,
            initial_state: optional("initial_state", &operands.initial_state)?,
            starts: starts.map_or(DevicePtr::NULL, |starts| starts.ptr()),
            x_stride: x.stride() as i64,
            batch: dims.batch as i64,
            channels: dims.channels as i64,
            length: dims.length as i32,
            segment: launch.segment as i32,
            segments: launch.segments as i32,
            lanes: launch.lanes as i32,
            reverse: self.conv.reverse.into(),
        })
    }

    /// The address of an operand that is f32 whatever x is.
    fn address(&self, what: &'static str, view: &View<'_>) -> Result<DevicePtr> {
        check::address(OP, what, view, DType::F32, self.device)
    }
}

/// Channels of a thread at most: 8 bytes of each matrix, fewer for filters that fill the registers.
fn widest(dtype: DType, width: usize) -> usize {
    match width {
        0..=4 => 8 / dtype.size(),
        5..=8 => 2,
        _ => 1,
    }
}

/// Steps whose inputs are read together, with about the same registers for every width.
fn steps(vec: usize, width: usize) -> usize {
    match width {
        0..=8 => (16 / vec).min(8),
        _ => 1,
    }
}

fn defines(
    dtype: DType,
    vec: usize,
    width: usize,
    (silu, starts): (bool, bool),
) -> Vec<(&'static str, String)> {
    let number = |flag| u8::from(flag).to_string();
    vec![
        ("IO", dtype.cuda_name().to_owned()),
        ("VEC", vec.to_string()),
        ("WIDTH", width.to_string()),
        ("STEPS", steps(vec, width).to_string()),
        ("SILU", number(silu)),
        ("STARTS", number(starts)),
    ]
}
