//! Normalisation on a GPU: which variant of the kernels, and how many threads take a row.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel, properties};
use serpens_core::{DType, Result, Tensor, View, ViewMut, kernel_params};

use super::OP;
use crate::{check, fold};

static SOURCE: Source = Source::new(
    "rms_norm",
    concat!(
        include_str!("../shared/packet.cuh"),
        include_str!("kernel.cu")
    ),
)
.params(&[RmsNormParams::declare, RmsNormBackwardParams::declare])
// Odd columns.
.may_spill(|program| program.number("VEC") == Some(1));

/// Values of a thread, as the kernels have them.
const VALUES: usize = 8;
/// Threads of a block at most.
const THREADS: usize = 1024;

/// What [`forward`] reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// (rows, d_model) in f32 or bf16.
    pub x: View<'a>,
    /// (rows, d_model) in f32.
    pub residual: Option<View<'a>>,
    /// The weight: (d_model) in f32.
    pub w: View<'a>,
    /// What is added to the mean square.
    pub eps: f32,
}

/// What [`backward`] reads besides gradients.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The normalised input: (rows, d_model), f32, or of x's type where it is x itself.
    pub h: View<'a>,
    /// The weight: (d_model) in f32.
    pub w: View<'a>,
    /// (mean(h²) + eps)^−½: (rows) in f32.
    pub rstd: View<'a>,
}

/// Where [`backward`] writes, all overwritten.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// The gradient of h: (rows, d_model) in f32.
    pub dh: Option<ViewMut<'a>>,
    /// The same in bf16.
    pub dx: Option<ViewMut<'a>>,
    /// (d_model) in f32.
    pub dw: ViewMut<'a>,
}

kernel_params! {
    struct RmsNormParams {
        x: DevicePtr as "const IN*", // (rows, cols)
        residual: DevicePtr as "const float*", // (rows, cols), or null
        weight: DevicePtr as "const float*", // (cols)
        h: DevicePtr as "float*", // (rows, cols); null without a residual
        y: DevicePtr as "OUT*", // (rows, cols)
        rstd: DevicePtr as "float*", // (rows), or null
        x_stride: i64,
        residual_stride: i64,
        rows: i64,
        cols: i32,
        eps: f32,
    }

    struct RmsNormBackwardParams {
        dy: DevicePtr as "const OUT*", // (rows, cols)
        dh_extra: DevicePtr as "const float*", // (rows, cols), or null: what arrives at h from elsewhere
        h: DevicePtr as "const SUM*", // (rows, cols)
        weight: DevicePtr as "const float*", // (cols)
        rstd: DevicePtr as "const float*", // (rows)
        dh: DevicePtr as "float*", // (rows, cols), or null: the gradient in f32
        dx: DevicePtr as "bf16*", // (rows, cols), or null: the same in bf16
        partials: DevicePtr as "float*", // (gridDim.x, cols): the gradient of the weight
        h_stride: i64,
        rows: i64,
        cols: i32,
    }
}

/// h = x + residual, y = h · r ⊙ w, rstd\[row\] = r = (mean(h²) + eps)^−½. h and r are written where
/// they are asked for.
///
/// # Errors
/// Operands of other types or on other devices; whatever the device fails with.
pub fn forward(
    inputs: &Inputs,
    h_out: Option<ViewMut>,
    y: ViewMut,
    rstd: Option<ViewMut>,
) -> Result<()> {
    let Inputs { x, residual, w, .. } = *inputs;
    let f32s = |what, view| check::address(OP, what, view, DType::F32, y.device());
    let types = [x.dtype(), y.dtype(), DType::F32];
    let entries = ["rms_norm_forward", "rms_norm_forward_wide"];
    let (kernel, threads) = choose(entries, types, y.as_view(), &[Some(x), residual])?;
    let residual_address = residual.as_ref().map(|view| f32s("residual", view));
    let params = RmsNormParams {
        x: check::address(OP, "x", &x, x.dtype(), y.device())?,
        residual: residual_address.transpose()?.unwrap_or(DevicePtr::NULL),
        weight: f32s("weight", &w)?,
        h: h_out.map_or(DevicePtr::NULL, |h| h.ptr()),
        y: y.ptr(),
        rstd: rstd.map_or(DevicePtr::NULL, |rstd| rstd.ptr()),
        x_stride: x.stride() as i64,
        residual_stride: residual.map_or(0, |view| view.stride() as i64),
        rows: x.rows() as i64,
        cols: x.cols() as i32,
        eps: inputs.eps,
    };
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to; the kernel
    // waits for those before it.
    unsafe { kernel.launch_early([x.rows() as u32, 1, 1], threads, 0, &params) }
}

/// The gradient of h, `dh_extra` included, in either type, and dw = Σ_rows dy ⊙ h·r.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    dy: View,
    dh_extra: Option<View>,
    saved: &Saved,
    gradients: Gradients,
) -> Result<()> {
    let Saved { h, w, rstd } = *saved;
    let (device, rows, cols) = (dy.device(), dy.rows(), dy.cols());
    let types = [DType::F32, dy.dtype(), h.dtype()];
    let entries = ["rms_norm_backward", "rms_norm_backward_wide"];
    let (kernel, threads) = choose(entries, types, dy, &[Some(h), dh_extra])?;
    // Half as many as the device holds: enough to keep its memory busy, with fewer partial sums.
    let resident = kernel.blocks_per_multiprocessor(threads, 0)?.div_ceil(2);
    let blocks = rows.min((resident * properties(device)?.multiprocessors) as usize);
    let mut partials = Tensor::empty([blocks, cols], DType::F32, device)?;
    let pointer = |view: &Option<ViewMut>| view.as_ref().map_or(DevicePtr::NULL, ViewMut::ptr);
    let extra =
        dh_extra.map(|view| check::address(OP, "the sum's gradient", &view, DType::F32, device));
    let params = RmsNormBackwardParams {
        dy: dy.ptr(),
        dh_extra: extra.transpose()?.unwrap_or(DevicePtr::NULL),
        h: h.ptr(),
        weight: w.ptr(),
        rstd: rstd.ptr(),
        dh: pointer(&gradients.dh),
        dx: pointer(&gradients.dx),
        partials: partials.view_mut()?.ptr(),
        h_stride: h.stride() as i64,
        rows: rows as i64,
        cols: cols as i32,
    };
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to, and the
    // partials have a row for every block.
    unsafe { kernel.launch([blocks as u32, 1, 1], threads, 0, &params)? };
    fold::fold(&partials, cols, gradients.dw, None)
}

/// The kernel for rows like these, and its threads: the widest accesses that every matrix allows, and as many warps as
/// a row fills, or the second of the entries where a row is too long for one block.
fn choose(
    [short, wide]: [&'static str; 2],
    types: [DType; 3],
    first: View<'_>,
    others: &[Option<View<'_>>],
) -> Result<(Kernel, u32)> {
    let cols = first.cols();
    let fits = |vec: &usize| {
        let aligned = |view: &View<'_>| view.aligned(vec * view.dtype().size());
        cols.is_multiple_of(*vec) && aligned(&first) && others.iter().flatten().all(aligned)
    };
    let vec = [4, 2].into_iter().find(fits).unwrap_or(1);
    let entry = if cols > THREADS * VALUES { wide } else { short };
    let defines = defines(types, vec);
    let defines: Vec<_> = defines.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let threads = cols.div_ceil(VALUES).next_multiple_of(32);
    let kernel = kernel(first.device(), &SOURCE, entry, &defines)?;
    Ok((kernel, threads.clamp(32, THREADS) as u32))
}

/// The types are those of x, y and h.
fn defines([x, y, h]: [DType; 3], vec: usize) -> Vec<(&'static str, String)> {
    vec![
        ("IN", x.cuda_name().to_owned()),
        ("OUT", y.cuda_name().to_owned()),
        ("SUM", h.cuda_name().to_owned()),
        ("VEC", vec.to_string()),
    ]
}
