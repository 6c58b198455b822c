//! The kernel, its gradients and the recurrence on a GPU: lanes over channels, the states discretised in f64 as on the
//! processor.
//!
//! The kernel is Re(q P) summed over states, with the powers P = Ā^j of 16 steps and the fronts q = s C B̄ Ā^t0 of 32
//! such blocks, both rounded once from f64. S0 and S1 are summed in f64 over segments of the time, and the segments in
//! order.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Device, Result, Tensor, View, ViewMut, kernel_params};

use super::{LtiDims, LtiSystem, OP};
use crate::check;

static KERNEL: Source = Source::new(
    "lti_kernel",
    concat!(include_str!("discrete.cuh"), include_str!("kernel.cu")),
)
.params(&[LtiKernelParams::declare, LtiGradientsParams::declare]);
static RECURRENCE: Source = Source::new(
    "lti_recurrence",
    concat!(include_str!("discrete.cuh"), include_str!("recurrence.cu")),
)
.params(&[RecurrenceParams::declare]);

/// Channels of a block of the kernel, one a lane.
const CHANNELS: usize = 32;
const WARPS: usize = 8;
const BLOCK: u32 = (CHANNELS * WARPS) as u32;
/// Steps between two fronts.
const STEPS: usize = 16;
/// Steps of the kernel that one block computes.
const SEGMENT: usize = 32 * STEPS;
/// Fewer steps than these are not worth a block of their own when gradients are summed.
const MIN_SEGMENT: usize = 256;
/// Threads of a block of the recurrence.
const RECURRENCE_BLOCK: usize = 128;

kernel_params! {
    /// The operands as the kernels take them, null for those that are absent.
    pub(super) struct SystemParams {
        dt: DevicePtr as "const float*", // (channels)
        a: DevicePtr as "const float*", // (channels, N); so are the next
        a_im: DevicePtr as "const float*",
        b: DevicePtr as "const float*",
        b_im: DevicePtr as "const float*",
        c: DevicePtr as "const float*",
        c_im: DevicePtr as "const float*",
        d: DevicePtr as "const float*", // (channels)
        channels: i32,
        states: i32,
    }
}

impl SystemParams {
    /// Operands that have been checked.
    pub(super) fn new(
        op: &'static str,
        system: LtiSystem<View<'_>>,
        dims: LtiDims,
    ) -> Result<Self> {
        let pointers = system.map(|_, view| view.ptr()).into_array();
        let [dt, a, a_im, b, b_im, c, c_im, d] =
            pointers.map(|pointer| pointer.unwrap_or(DevicePtr::NULL));
        Ok(Self {
            dt,
            a,
            a_im,
            b,
            b_im,
            c,
            c_im,
            d,
            channels: check::int(op, "the number of channels", dims.channels)?,
            states: check::int(op, "N", dims.state)?,
        })
    }
}

fn grid(blocks: usize) -> [u32; 3] {
    [blocks as u32, 1, 1]
}

kernel_params! {
    struct LtiKernelParams {
        system: SystemParams,
        k: DevicePtr as "float*", // (length, channels)
        length: i64,
    }
}

/// Writes the kernel K, (length, channels).
pub(super) fn forward(system: SystemParams, k: ViewMut<'_>) -> Result<()> {
    let (length, channels) = (k.rows(), k.cols());
    let params = LtiKernelParams {
        system,
        k: k.ptr(),
        length: length as i64,
    };
    let kernel = kernel(k.device(), &KERNEL, "lti_kernel_forward", &[])?;
    let blocks = channels.div_ceil(CHANNELS) * length.div_ceil(SEGMENT);
    // SAFETY: the parameters are the kernel's; K has `length` rows, the operands have the sizes that
    // `SystemParams::new` was told.
    unsafe { kernel.launch(grid(blocks), BLOCK, 0, &params) }
}

kernel_params! {
    struct LtiGradientsParams {
        system: SystemParams,
        dk: DevicePtr as "const float*", // (length, channels)
        sums: DevicePtr as "struct Sums*", // (segments, N, channels)
        length: i64,
        segment: i64,
        segments: i32,
        gradients: SystemGradients,
    }

    /// In the shapes of the operands; null where there is none.
    struct SystemGradients {
        dt: DevicePtr as "float*",
        a: DevicePtr as "float*",
        a_im: DevicePtr as "float*",
        b: DevicePtr as "float*",
        b_im: DevicePtr as "float*",
        c: DevicePtr as "float*",
        c_im: DevicePtr as "float*",
        d: DevicePtr as "float*",
    }
}

/// Writes every gradient from that of the kernel, (length, channels): in the order of the operands, for those that are
/// there.
pub(super) fn backward(
    system: SystemParams,
    dk: View<'_>,
    gradients: LtiSystem<ViewMut<'_>>,
) -> Result<()> {
    let (device, length, channels) = (dk.device(), dk.rows(), dk.cols());
    let tiles = channels.div_ceil(CHANNELS);
    let segments = (8 * properties(device)?.multiprocessors as usize).div_ceil(tiles.max(1));
    let segment = length
        .div_ceil(segments)
        .max(MIN_SEGMENT)
        .next_multiple_of(STEPS);
    let segments = length.div_ceil(segment);
    // (segments, N, channels) of S0 and S1: four values of f64.
    let mut sums = Tensor::empty(
        [segments.max(1), system.states as usize, channels, 8],
        DType::F32,
        device,
    )?;
    let pointers = gradients.map(|_, gradient| gradient.ptr()).into_array();
    let [dt, a, a_im, b, b_im, c, c_im, d] =
        pointers.map(|pointer| pointer.unwrap_or(DevicePtr::NULL));
    let params = LtiGradientsParams {
        system,
        dk: dk.ptr(),
        sums: sums.view_mut()?.ptr(),
        length: length as i64,
        segment: segment as i64,
        segments: check::int(OP, "the number of segments", segments)?,
        gradients: SystemGradients {
            dt,
            a,
            a_im,
            b,
            b_im,
            c,
            c_im,
            d,
        },
    };
    let of_sums = kernel(device, &KERNEL, "lti_kernel_sums", &[])?;
    let of_gradients = kernel(device, &KERNEL, "lti_kernel_gradients", &[])?;
    // SAFETY: the parameters are the kernels'; `sums` has a place for every segment, the gradients have the operands'
    // sizes.
    unsafe {
        of_sums.launch(grid(tiles * segments), BLOCK, 0, &params)?;
        of_gradients.launch(grid(channels.div_ceil(WARPS)), BLOCK, 0, &params)
    }
}

kernel_params! {
    struct RecurrenceParams {
        system: SystemParams,
        u: DevicePtr as "const IO*", // (batch, length, channels)
        y: DevicePtr as "IO*", // likewise
        state: DevicePtr as "float*", // (batch, channels, N), or 2 N with real parts first
        u_stride: i64,
        y_stride: i64,
        batch: i64,
        length: i64,
        items: i64, // sequences of a group of lanes
    }
}

/// Lanes that share the states of a channel, and how many states each of them has.
fn lanes(states: usize) -> [(&'static str, String); 2] {
    let group = states.next_power_of_two().min(32);
    [
        ("GROUP", group.to_string()),
        ("PER_LANE", states.div_ceil(group).to_string()),
    ]
}

/// Runs `batch` sequences; u and y are (batch · length, channels) of one type, `state` is read and overwritten.
pub(super) fn recurrence(
    system: SystemParams,
    batch: usize,
    u: View<'_>,
    y: ViewMut<'_>,
    state: ViewMut<'_>,
) -> Result<()> {
    const OP: &str = "lti_recurrence";
    let (device, states) = (u.device(), system.states.max(1) as usize);
    check::float(OP, "u", u.dtype())?;
    let of_state = check::address(OP, "initial_state", &state.as_view(), DType::F32, device)?;
    let channels = system.channels as usize;
    let group = states.next_power_of_two().min(32);
    let tiles = channels.div_ceil(RECURRENCE_BLOCK / group);
    // A group of lanes discretises once and takes as many sequences as leaves enough blocks for the card.
    let items = (batch * tiles / (16 * properties(device)?.multiprocessors as usize)).max(1);
    let params = RecurrenceParams {
        system,
        u: u.ptr(),
        y: y.ptr(),
        state: of_state,
        u_stride: u.stride() as i64,
        y_stride: y.stride() as i64,
        batch: batch as i64,
        length: (u.rows() / batch.max(1)) as i64,
        items: items as i64,
    };
    let kernel = recurrence_kernel(device, u.dtype(), states)?;
    let blocks = tiles * batch.div_ceil(items);
    // SAFETY: the parameters are the kernel's; u, y and the state have the sizes that the caller has checked.
    unsafe { kernel.launch(grid(blocks), RECURRENCE_BLOCK as u32, 0, &params) }
}

fn recurrence_kernel(device: Device, dtype: DType, states: usize) -> Result<Kernel> {
    let lanes = lanes(states);
    let mut defines = vec![("IO", dtype.cuda_name())];
    defines.extend(lanes.iter().map(|(name, value)| (*name, value.as_str())));
    kernel(device, &RECURRENCE, "lti_recurrence", &defines)
}
