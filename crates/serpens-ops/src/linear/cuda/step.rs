//! Products with the few rows that decoding has.

use serpens_core::cuda::{Declarations, DevicePtr, Kernel, KernelParams, Source, kernel};
use serpens_core::{DType, Error, Result, Tensor, View, ViewMut, kernel_params};

use super::super::{Norm, OP, Weight};
use super::{Gemm, add_bias, gemm, operand};
use crate::quantized_linear::cuda::Layout;
use crate::{check, rms_norm};

static TENSOR: Source = source(
    "linear_step",
    concat!(include_str!("step.cuh"), include_str!("step.cu")),
)
// Sixteen warps leave a thread 128 registers: a few bytes more are cheaper than fewer warps.
.may_spill(|program| program.number("WARPS") == Some(16));
static BLOCKS: Source = source(
    "linear_step_blocks",
    concat!(
        include_str!("step.cuh"),
        include_str!("../../quantized_linear/cuda/blocks.cuh"),
        include_str!("step_blocks.cu")
    ),
)
.may_spill(|program| program.number("WARPS") == Some(16));
static F32: Source = source(
    "linear_step_f32",
    concat!(include_str!("step.cuh"), include_str!("step_f32.cu")),
);

const fn source(name: &'static str, text: &'static str) -> Source {
    let params: &[fn(&mut Declarations)] = &[LinearStepParams::declare];
    Source::new(name, text).params(params).constants(KINDS)
}

/// Kinds of weights, as kernels have them.
pub(crate) const KINDS: &[(&str, i32)] = &[
    ("BF16_WEIGHT", BF16_WEIGHT),
    ("F32_WEIGHT", F32_WEIGHT),
    ("Q8_0_WEIGHT", Q8_0_WEIGHT),
    ("Q4_0_WEIGHT", Q4_0_WEIGHT),
];
pub(crate) const BF16_WEIGHT: i32 = 0;
const F32_WEIGHT: i32 = 1;
const Q8_0_WEIGHT: i32 = 2;
pub(crate) const Q4_0_WEIGHT: i32 = 3;

/// Rows up to which these kernels are the fastest (docs/kernels.md, "Decoding on a GPU").
const OWN_ROWS: usize = 8;
/// Rows that a block has at most, and of f32.
const TENSOR_ROWS: usize = 16;
const F32_ROWS: usize = 8;
/// Bytes of shared memory that the warps' sums may take.
const SUM_BYTES: usize = 40 << 10;
/// Bytes of shared memory that rows of f32 may take, and rows of integers.
const STAGED_BYTES: usize = 96 << 10;

kernel_params! {
    /// A convolution that the first columns of y pass through.
    pub(crate) struct ConvTail {
        pub(crate) weight: DevicePtr as "const float*", // (channels, CONV)
        pub(crate) bias: DevicePtr as "const float*", // (channels), or null
        pub(crate) state: DevicePtr as "float*", // (slots, CONV - 1, channels)
        pub(crate) u: DevicePtr as "OUT*", // (slots, channels): where those columns go instead
        pub(crate) state_stride: i64,
        pub(crate) u_stride: i64,
        pub(crate) channels: i32,
        pub(crate) silu: i32,
    }

    pub(super) struct LinearStepParams {
        conv: ConvTail, // unused without CONV
        x: DevicePtr as "const X*", // (slots, inputs)
        norm: DevicePtr as "const float*", // (inputs), unused without NORM
        weight: DevicePtr as "const W*", // (outputs, inputs); Q8_0: its plane of values
        scales: DevicePtr as "const SCALES*", // (panels of outputs, groups of inputs, 8); of blocks only
        bias: DevicePtr as "const float*", // (outputs), or null
        y: DevicePtr as "OUT*", // (slots, outputs)
        x_stride: i64,
        y_stride: i64,
        weight_stride: i64,
        slots: i32,
        inputs: i32,
        outputs: i32,
        eps: f32,
    }
}

/// A matrix as kernels read it.
pub(crate) struct StoredWeight<'a> {
    /// Of [`KINDS`].
    pub(crate) kind: i32,
    /// The types of its values and of the scales of a group of blocks.
    pub(crate) types: [&'static str; 2],
    pub(crate) weight: View<'a>,
    /// Bytes before the scales.
    pub(crate) scales: usize,
    /// From row to row of the values.
    pub(crate) stride: usize,
}

impl<'a> StoredWeight<'a> {
    pub(crate) fn new(w: Weight<'a>) -> Result<Self> {
        match w {
            Weight::Plain(weight) => Ok(Self {
                kind: if weight.dtype() == DType::F32 {
                    F32_WEIGHT
                } else {
                    BF16_WEIGHT
                },
                types: [weight.dtype().cuda_name(), "u32"],
                weight,
                scales: 0,
                stride: weight.stride(),
            }),
            Weight::Packed(packed) => {
                let layout = Layout::new(packed.blocks(), [packed.rows(), packed.cols()])?;
                let (kind, scales) = match layout.blocks {
                    2 => (Q8_0_WEIGHT, "u32"),
                    _ => (Q4_0_WEIGHT, "uint2"),
                };
                Ok(Self {
                    kind,
                    types: ["u8", scales],
                    weight: packed.data().view(),
                    scales: layout.values(),
                    stride: layout.row(),
                })
            }
        }
    }
}

/// How a kernel spreads its work: see step.cu.
#[derive(Clone, Copy)]
struct StepPlan {
    rows: usize,
    panels: usize,
    warps: usize,
    depth: usize,
}

impl StepPlan {
    /// For so many rows, inputs and outputs.
    fn new(rows: usize, inputs: usize, outputs: usize, kind: i32) -> Self {
        if kind == F32_WEIGHT {
            let rows = rows.next_power_of_two().min(F32_ROWS);
            return Self {
                rows,
                panels: 2,
                warps: 4,
                depth: 4,
            };
        }
        let mut rows = rows.next_power_of_two().min(TENSOR_ROWS);
        let (mut panels, warps, depth) = match kind {
            BF16_WEIGHT => Self::of_bf16(rows, inputs, outputs),
            _ => Self::of_blocks(rows, inputs, outputs, kind == Q4_0_WEIGHT),
        };
        while kind != BF16_WEIGHT && rows > 1 && rows * integers(inputs) > STAGED_BYTES {
            rows /= 2;
        }
        while warps * rows * Self::panel(kind) * panels * size_of::<f32>() > SUM_BYTES {
            panels /= 2;
        }
        Self {
            rows,
            panels,
            warps,
            depth,
        }
    }

    /// Panels, warps and depth as measured on an H200 for the shapes of published models (docs/kernels.md).
    fn of_bf16(rows: usize, inputs: usize, outputs: usize) -> (usize, usize, usize) {
        let depth = inputs.div_ceil(512).next_power_of_two();
        match (rows, outputs) {
            (_, 16_384..) => (8, 4, 2),
            (_, ..=512) => (1, 16, depth.clamp(2, 8)),
            _ if outputs < 2 * inputs => match inputs {
                ..=4608 => (2, 16, depth.clamp(2, 4)),
                _ => (4, 16, 2),
            },
            _ if inputs > 2304 => (4, 4, 4),
            (..=2, _) if inputs <= 1024 => (2, 4, 8),
            (..=2, _) => (2, 4, 4),
            _ if inputs <= 1024 => (8, 16, 2),
            _ => (8, 8, 2),
        }
    }

    /// The same of blocks, of four bits or of eight.
    fn of_blocks(rows: usize, inputs: usize, outputs: usize, four: bool) -> (usize, usize, usize) {
        match (rows, outputs) {
            (1, 16_384..) if !four => (4, 4, 2),
            (_, 16_384..) if !four => (4, 8, 1),
            (_, 16_384..) => (4, 4, 1),
            (_, ..=512) => (1, 16, 4),
            _ if outputs < 2 * inputs => match inputs {
                ..=2048 => (1, 16, 2),
                2049..=4608 => (1, 16, if four { 2 } else { 4 }),
                _ => (2, 16, 2),
            },
            (..=2, _) if inputs <= 1024 => (1, 4, 4),
            (..=2, _) if inputs <= 2304 && four => (2, 4, 4),
            _ if inputs <= 2304 => (2, 8, 2),
            (..=4, _) => (5, 8, 2),
            _ => (5, 16, 1),
        }
    }

    /// Outputs of a block.
    fn outputs(&self, kind: i32) -> usize {
        match kind {
            F32_WEIGHT => self.panels * self.warps,
            _ => self.panels * Self::panel(kind),
        }
    }

    /// Outputs of a panel.
    fn panel(kind: i32) -> usize {
        match kind {
            BF16_WEIGHT => 8,
            _ => 16,
        }
    }
}

/// Bytes of a row of integers with their scales.
fn integers(inputs: usize) -> usize {
    inputs.next_multiple_of(128) / 32 * (32 + size_of::<f32>())
}

/// y = W norm(x) + b, or y += that. Where W is bf16, norm(x), or else x, is rounded to it;
/// where it is in blocks, it becomes integers as `quantized_linear` says.
///
/// # Errors
/// Operands of other types or on other devices; whatever the device fails with.
pub fn step(
    x: View<'_>,
    norm: Option<Norm<'_>>,
    w: Weight<'_>,
    bias: Option<View<'_>>,
    y: ViewMut<'_>,
    accumulate: bool,
) -> Result<()> {
    let product = Product {
        x,
        norm,
        stored: StoredWeight::new(w)?,
        bias,
        y,
        accumulate,
    };
    match product.compute(None)? {
        Some(product) => product.by_library(),
        None => Ok(()),
    }
}

/// As [`step`], but the first columns of y go through a convolution of this width. False, and nothing
/// is done, where none of our kernels takes them.
pub(crate) fn step_and_convolve(
    x: View<'_>,
    norm: Option<Norm<'_>>,
    w: Weight<'_>,
    bias: Option<View<'_>>,
    y: ViewMut<'_>,
    conv: (usize, ConvTail),
) -> Result<bool> {
    let product = Product {
        x,
        norm,
        stored: StoredWeight::new(w)?,
        bias,
        y,
        accumulate: false,
    };
    Ok(product.compute(Some(conv))?.is_none())
}

/// y = W norm(x) + b, or y += that.
pub(super) struct Product<'a> {
    pub(super) x: View<'a>,
    pub(super) norm: Option<Norm<'a>>,
    pub(super) stored: StoredWeight<'a>,
    bias: Option<View<'a>>,
    pub(super) y: ViewMut<'a>,
    pub(super) accumulate: bool,
}

impl Product<'_> {
    /// Computes it with one of our own kernels; gives it back where there is none that beats the library.
    fn compute(self, conv: Option<(usize, ConvTail)>) -> Result<Option<Self>> {
        if self.is_of_few_rows() {
            self.launch(conv)?;
            return Ok(None);
        }
        match self.tile_plan(conv.as_ref().map(|(_, tail)| tail))? {
            Some(plan) => self.by_tiles(plan, conv).map(|()| None),
            None => Ok(Some(self)),
        }
    }

    /// Whether it is for the kernels of this file: blocks always are.
    fn is_of_few_rows(&self) -> bool {
        let (rows, inputs) = (self.x.rows(), self.x.cols());
        let staged = rows.min(F32_ROWS) * inputs * 4;
        match self.stored.kind {
            BF16_WEIGHT => rows <= OWN_ROWS,
            F32_WEIGHT => rows <= OWN_ROWS && staged <= STAGED_BYTES,
            _ => true,
        }
    }

    fn launch(self, conv: Option<(usize, ConvTail)>) -> Result<()> {
        let (slots, inputs, outputs) = (self.x.rows(), self.x.cols(), self.y.cols());
        let kind = self.stored.kind;
        let plan = StepPlan::new(slots, inputs, outputs, kind);
        let params = self.params(self.x, conv.map(|(_, tail)| tail))?;
        let kernel = self.kernel(&plan, conv.map_or(0, |(width, _)| width))?;
        let staged = self.norm.is_some() || self.x.dtype() == DType::F32;
        let shared = match kind {
            Q8_0_WEIGHT | Q4_0_WEIGHT => plan.rows * integers(inputs),
            _ if !staged => 0,
            F32_WEIGHT => plan.rows.min(slots) * 4 * inputs.next_multiple_of(128),
            _ => plan.rows.min(slots) * 2 * (inputs.next_multiple_of(128) + 32),
        };
        let blocks = outputs.div_ceil(plan.outputs(kind));
        let grid = [slots.div_ceil(plan.rows) as u32, blocks as u32, 1];
        // SAFETY: the parameters are the kernel's, the views valid for the sizes that the caller has checked; the
        // kernel waits for those before it, but for its weights, which no kernel queued shortly before it writes.
        unsafe { kernel.launch_early(grid, 32 * plan.warps as u32, shared as u32, &params) }
    }

    fn kernel(&self, plan: &StepPlan, conv: usize) -> Result<Kernel> {
        let (x, y, stored) = (&self.x, &self.y, &self.stored);
        let norm_aligned = self.norm.is_none_or(|norm| norm.weight.aligned(16));
        let vector = x.cols().is_multiple_of(8)
            && x.aligned(16)
            && stored.weight.aligned(16)
            && norm_aligned;
        let flags = [self.norm.is_some(), self.accumulate, vector].map(usize::from);
        let numbers = [
            plan.rows,
            plan.panels,
            plan.warps,
            plan.depth,
            conv,
            stored.kind as usize,
        ];
        let [norm, accumulate, vector] = flags.map(|flag| flag.to_string());
        let [rows, panels, warps, depth, conv, kind] = numbers.map(|number| number.to_string());
        let defines = [
            ("X", x.dtype().cuda_name()),
            ("OUT", y.dtype().cuda_name()),
            ("W", stored.types[0]),
            ("SCALES", stored.types[1]),
            ("WEIGHT", &kind),
            ("NORM", &norm),
            ("ACCUMULATE", &accumulate),
            ("CONV", &conv),
            ("VECTOR", &vector),
            ("SLOTS", &rows),
            ("PANELS", &panels),
            ("WARPS", &warps),
            ("DEPTH", &depth),
        ];
        let source = match stored.kind {
            F32_WEIGHT => &F32,
            BF16_WEIGHT => &TENSOR,
            _ => &BLOCKS,
        };
        kernel(y.device(), source, "linear_step", &defines)
    }

    /// With x, or the normalised x, as the kernel is to read it.
    pub(super) fn params(&self, x: View<'_>, conv: Option<ConvTail>) -> Result<LinearStepParams> {
        let (y, stored, device) = (&self.y, &self.stored, self.y.device());
        check::device(OP, "x", device, self.x.device())?;
        let x_type = self.norm.map_or(self.x.dtype(), |_| DType::F32);
        check::dtype(OP, "x before a norm", x_type, self.x.dtype())?;
        let f32s = |what, view: Option<View<'_>>| {
            let address = view.map(|view| check::address(OP, what, &view, DType::F32, device));
            Ok::<_, Error>(address.transpose()?.unwrap_or(DevicePtr::NULL))
        };
        let dtype = stored.weight.dtype();
        let weight = check::address(OP, "the weight", &stored.weight, dtype, device)?;
        Ok(LinearStepParams {
            conv: conv.unwrap_or(ConvTail::NONE),
            x: x.ptr(),
            norm: f32s("the norm's weight", self.norm.map(|norm| norm.weight))?,
            weight,
            scales: DevicePtr(weight.0 + stored.scales as u64),
            bias: f32s("bias", self.bias)?,
            y: y.ptr(),
            x_stride: x.stride() as i64,
            y_stride: y.stride() as i64,
            weight_stride: stored.stride as i64,
            slots: check::int(OP, "the number of rows", x.rows())?,
            inputs: check::int(OP, "the number of inputs", x.cols())?,
            outputs: check::int(OP, "the number of outputs", y.cols())?,
            eps: self.norm.map_or(0.0, |norm| norm.eps),
        })
    }

    /// norm(x) as a tensor of the weight's type, where there is a norm.
    pub(super) fn normalised(&self) -> Result<Option<Tensor>> {
        let Some(norm) = self.norm else {
            return Ok(None);
        };
        let (shape, dtype) = ([self.x.rows(), self.x.cols()], self.stored.weight.dtype());
        let mut y = Tensor::empty(shape, dtype, self.y.device())?;
        let inputs = rms_norm::cuda::Inputs {
            x: self.x,
            residual: None,
            w: norm.weight,
            eps: norm.eps,
        };
        rms_norm::cuda::forward(&inputs, None, y.view_mut()?, None)?;
        Ok(Some(y))
    }

    /// By cuBLASLt.
    fn by_library(self) -> Result<()> {
        let (device, w) = (self.y.device(), self.stored.weight);
        let normalised = self.normalised()?;
        let x = normalised.as_ref().map_or(self.x, Tensor::view);
        check::dtype(OP, "x", w.dtype(), x.dtype())?;
        let problem = Gemm {
            m: x.rows(),
            n: w.rows(),
            k: w.cols(),
            a: operand(&x, false),
            b: operand(&w, true),
            c: operand(&self.y.as_view(), false),
            accumulate: self.accumulate,
            tf32: false,
        };
        // SAFETY: the views are valid for these sizes, which the caller has checked, and y is borrowed uniquely.
        unsafe { gemm(device, &problem)? };
        self.bias.map_or(Ok(()), |bias| add_bias(bias, self.y))
    }
}

impl ConvTail {
    /// Whether its kernel may take four channels at a time.
    pub(super) fn allows_fours(&self) -> bool {
        let addresses = [self.weight, self.state, self.u].map(|address| address.0 % 16);
        let columns = [self.channels.into(), self.state_stride, self.u_stride].map(|n| n % 4);
        addresses == [0; 3] && columns == [0; 3]
    }

    const NONE: Self = Self {
        weight: DevicePtr::NULL,
        bias: DevicePtr::NULL,
        state: DevicePtr::NULL,
        u: DevicePtr::NULL,
        state_stride: 0,
        u_stride: 0,
        channels: 0,
        silu: 0,
    };
}
