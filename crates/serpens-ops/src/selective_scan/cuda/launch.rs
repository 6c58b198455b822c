//! How kernels are launched, and what those of the forward scan and of the passes before segments of time are compiled
//! for and take.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, kernel};
use serpens_core::{DType, Device, Result, Tensor, View, kernel_params};

use super::accessible;
use crate::selective_scan::operands::CHUNK;

/// A kernel and how it is launched.
#[derive(Clone)]
pub(super) struct Program {
    pub source: &'static Source,
    pub name: &'static str,
    pub defines: Vec<(&'static str, String)>,
    /// Of a block.
    pub threads: usize,
    pub shared: usize,
}

impl Program {
    /// Queues the kernel.
    ///
    /// # Safety
    /// As for [`serpens_core::cuda::Kernel::launch`].
    pub unsafe fn launch<P: KernelParams>(
        &self,
        device: Device,
        grid: [u32; 3],
        params: &P,
    ) -> Result<()> {
        let defines = self.defines.iter().map(|(k, v)| (*k, v.as_str()));
        let kernel = kernel(device, self.source, self.name, &defines.collect::<Vec<_>>())?;
        // SAFETY: the caller's promise.
        unsafe { kernel.launch(grid, self.threads as u32, self.shared as u32, params) }
    }
}

/// f32 memory for the time of the launches.
pub(super) struct Workspace {
    device: Device,
    tensors: Vec<Tensor>,
}

impl Workspace {
    pub fn new(device: Device) -> Self {
        Self {
            device,
            tensors: Vec::new(),
        }
    }

    /// The address of so many values.
    pub fn take(&mut self, len: usize) -> Result<DevicePtr> {
        let mut tensor = Tensor::empty([len], DType::F32, self.device)?;
        let at = tensor.view_mut()?.ptr();
        self.tensors.push(tensor);
        Ok(at)
    }

    /// The same where they are wanted, or null.
    pub fn take_if(&mut self, wanted: bool, len: usize) -> Result<DevicePtr> {
        match wanted {
            true => self.take(len),
            false => Ok(DevicePtr::NULL),
        }
    }
}

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// The scan.
    Scan,
    /// Before it, what segments of time leave behind.
    Left,
    /// Before the backward scan, what flows back out of them.
    Back,
}

/// What a kernel is compiled for beside the plan.
#[derive(Clone, Copy)]
pub(super) struct KernelOptions {
    pub gated: bool,
    pub softplus: bool,
    pub starts: bool,
    pub held: bool,
    pub pass: Pass,
    pub vec: usize,
    pub bc_vec: usize,
}

/// The most values, a power of two, that one access of at most 16 bytes may take from rows of these views where what is
/// read begins at multiples of `columns`.
pub(super) fn access_width(views: &[View<'_>], columns: usize) -> usize {
    let most = 16 / views[0].dtype().size();
    let widths = std::iter::successors(Some(most), |width| Some(width / 2));
    widths
        .take_while(|&width| width > 1)
        .find(|&width| accessible(views, columns, width))
        .unwrap_or(1)
}

kernel_params! {
    /// The kernels' parameter.
    #[derive(Default)]
    pub(super) struct ScanParams {
        pub u: DevicePtr as "const IO*", // (batch, length, channels), rows apart by u_row; so are the others
        pub delta: DevicePtr as "const IO*",
        pub z: DevicePtr as "const IO*",
        pub y: DevicePtr as "IO*",
        pub b: DevicePtr as "const IO*", // (batch, length, groups N)
        pub c: DevicePtr as "const IO*",
        pub a: DevicePtr as "const float*", // (channels, N)
        pub a_im: DevicePtr as "const float*", // (channels, N) where complex
        pub d: DevicePtr as "const float*", // (channels) or null
        pub delta_bias: DevicePtr as "const float*", // (channels) or null
        pub initial: DevicePtr as "const float*", // (batch, channels, N) or null
        pub starts: DevicePtr as "const u8*", // (batch, length) or null
        pub last: DevicePtr as "float*", // (batch, channels, N)
        pub checkpoints: DevicePtr as "float*", // (batch, length / 32 rounded up, channels, N) or null
        // (segments, batch, channels, N): the state before each segment of time, or null where there is one; in the
        // pass for the gradients what flows back into each
        pub carry: DevicePtr as "float*",
        // (segments, batch, channels): of δ, infinite where the state starts anew; or null
        pub delta_sums: DevicePtr as "float*",
        pub u_row: i64,
        pub delta_row: i64,
        pub z_row: i64,
        pub y_row: i64,
        pub b_row: i64,
        pub c_row: i64,
        pub length: i64,
        pub batch: i32,
        pub channels: i32,
        pub groups: i32,
        pub segments: Segments,
        pub reverse: i32,
    }
}

kernel_params! {
    /// How a sequence is cut into segments of whole chunks, as the kernels take it: `count` segments
    /// of `chunks` chunks, the first `longer` of them one more.
    #[derive(Debug, Default)]
    pub(super) struct Segments {
        count: i32,
        chunks: i32, // of each,
        longer: i32, // but for so many of the first, which have one more
    }
}

impl Segments {
    pub fn new(count: usize, length: usize) -> Self {
        let chunks = length.div_ceil(CHUNK);
        Self {
            count: count as i32,
            chunks: (chunks / count) as i32,
            longer: (chunks % count) as i32,
        }
    }
}
