//! Pooling on a GPU.

use serpens_core::cuda::{DevicePtr, Kernel, KernelParams, Source, kernel};
use serpens_core::{DType, Device, Result, Tensor, View, ViewMut, kernel_params};

use super::parts::PART;
use super::{Attended, OP, Parts, Pooling};
use crate::check;

static SOURCE: Source = Source::new("pooling", include_str!("kernel.cu"))
    .params(&[
        PoolingParams::declare,
        PoolingSumParams::declare,
        PoolingBackwardParams::declare,
    ])
    .constants(&[
        ("BLOCK", BLOCK as i32),
        ("PART", PART as i32),
        ("LAST", Pooling::Last as i32),
        ("MEAN", Pooling::Mean as i32),
        ("ATTENTION", Pooling::Attention as i32),
    ]);

/// Threads of a block, and of one that adds up parts.
const BLOCK: usize = 256;
const SUM_BLOCK: u32 = 1024;
/// Threads of a block that share a row.
const LANES: usize = 32;
/// Blocks that share a part's rows in the backward pass.
const SHARERS: u32 = 4;

kernel_params! {
    struct PartsParams {
        // Of packed sequences, else null: where each begins, its first part, the sequence of each part.
        bounds: DevicePtr as "const u32*",
        firsts: DevicePtr as "const u32*",
        owners: DevicePtr as "const u32*",
        length: u32, // rows of a sequence that is not packed
        of_each: u32, // its parts
    }

    struct PoolingParams {
        x: DevicePtr as "const IO*", // (rows, width)
        scores: DevicePtr as "const SCORE*", // (rows), or null
        sums: DevicePtr as "float*", // (parts, width)
        norms: DevicePtr as "float*", // (parts, 2)
        parts: PartsParams,
        x_stride: i64,
        scores_stride: i64,
        width: i64,
        whole: u32, // whether each part is a sequence, whose row is asked for
    }

    struct PoolingSumParams {
        part_sums: DevicePtr as "const float*", // (parts, width)
        part_norms: DevicePtr as "const float*", // (parts, 2)
        y: DevicePtr as "float*", // (sequences, width)
        norms: DevicePtr as "float*", // (sequences, 2)
        parts: PartsParams,
        width: i64,
    }

    struct PoolingBackwardParams {
        x: DevicePtr as "const IO*", // (rows, width), of attention
        scores: DevicePtr as "const SCORE*", // (rows), of attention
        y: DevicePtr as "const float*", // (sequences, width), of attention
        norms: DevicePtr as "const float*", // (sequences, 2)
        dy: DevicePtr as "const float*", // (sequences, width)
        dx: DevicePtr as "IO*", // (rows, width)
        dscores: DevicePtr as "SCORE*", // (rows), of attention
        parts: PartsParams,
        x_stride: i64,
        scores_stride: i64,
        dx_stride: i64,
        dscores_stride: i64,
        width: i64,
    }
}

impl PartsParams {
    fn new(parts: &Parts) -> Self {
        let table = parts.on_gpu().map(|table| table.map(|view| view.ptr()));
        let [bounds, firsts, owners] = table.unwrap_or([DevicePtr::NULL; 3]);
        Self {
            bounds,
            firsts,
            owners,
            length: parts.length as u32,
            of_each: parts.of_each() as u32,
        }
    }
}

/// y\[s\], and of each sequence the largest score and the sum of e^(score − that), which are 0 and the number of rows
/// summed where there are no scores; y and norms without gaps between their rows.
///
/// # Errors
/// Operands of other types or on different devices; whatever the device fails with.
pub fn forward(
    kind: Pooling,
    x: View<'_>,
    scores: Option<View<'_>>,
    parts: &Parts,
    y: ViewMut<'_>,
    norms: ViewMut<'_>,
) -> Result<()> {
    let (device, io, width) = (x.device(), x.dtype(), x.cols());
    let score = scores.map_or(DType::F32, |scores| scores.dtype());
    check::float(OP, "x", io)?;
    check::float(OP, "scores", score)?;
    let f32s = |what, view: &View<'_>| check::address(OP, what, view, DType::F32, device);
    let (y_address, norms_address) = (f32s("y", &y.as_view())?, f32s("norms", &norms.as_view())?);
    // Of the last rows alone there is one part for each sequence.
    let count = match kind {
        Pooling::Last => parts.sequences(),
        _ => parts.count(),
    };
    let whole = count == parts.sequences();
    let mut between = None;
    if !whole {
        let empty = |cols| Tensor::empty([count, cols], DType::F32, device);
        between = Some([empty(width)?, empty(2)?]);
    }
    let [sums, part_norms] = match &mut between {
        Some([sums, norms]) => [sums.view_mut()?.ptr(), norms.view_mut()?.ptr()],
        None => [y_address, norms_address],
    };
    let params = PoolingParams {
        x: x.ptr(),
        scores: address("scores", scores.as_ref(), score, device)?,
        sums,
        norms: part_norms,
        parts: PartsParams::new(parts),
        x_stride: x.stride() as i64,
        scores_stride: scores.map_or(0, |scores| scores.stride() as i64),
        width: width as i64,
        whole: whole.into(),
    };
    let vec = vector(&[x, y.as_view()]);
    let program = |entry| program(device, entry, kind, [io, score], vec);
    let tiles = width.div_ceil(LANES * vec) as u32;
    let grid = [count as u32, tiles, 1];
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to, and there are
    // sums and norms for every part.
    unsafe { program("pooling_parts")?.launch(grid, BLOCK as u32, 0, &params)? };
    if whole {
        return Ok(());
    }
    let params = PoolingSumParams {
        part_sums: sums,
        part_norms,
        y: y_address,
        norms: norms_address,
        parts: PartsParams::new(parts),
        width: width as i64,
    };
    let grid = [parts.sequences() as u32, width.div_ceil(LANES) as u32, 1];
    // SAFETY: as above.
    unsafe { program("pooling_sequences")?.launch(grid, SUM_BLOCK, 0, &params) }
}

/// dx\[t\] = p\[t\] dy\[s\] and, of attention, dscores\[t\] = p\[t\] ⟨x\[t\] − y\[s\], dy\[s\]⟩ for every row t, of
/// sequence s; `norms` as [`forward`] gives them; dy, y and norms without gaps between their rows.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    kind: Pooling,
    parts: &Parts,
    norms: View<'_>,
    dy: View<'_>,
    attended: Option<Attended<View<'_>, ViewMut<'_>>>,
    dx: ViewMut<'_>,
) -> Result<()> {
    let (device, io, width) = (dx.device(), dx.dtype(), dx.cols());
    let attended = attended.as_ref();
    let (x, y) = (attended.map(|a| &a.x), attended.map(|a| &a.y));
    let scores = attended.map(|a| &a.scores);
    let dscores = attended.map(|a| a.dscores.as_view());
    let score = scores.map_or(DType::F32, |scores| scores.dtype());
    check::float(OP, "dx", io)?;
    check::float(OP, "scores", score)?;
    let stride = |view: Option<&View<'_>>| view.map_or(0, |view| view.stride() as i64);
    let params = PoolingBackwardParams {
        x: address("x", x, io, device)?,
        scores: address("scores", scores, score, device)?,
        y: address("y", y, DType::F32, device)?,
        norms: address("norms", Some(&norms), DType::F32, device)?,
        dy: address("dy", Some(&dy), DType::F32, device)?,
        dx: dx.ptr(),
        dscores: address("dscores", dscores.as_ref(), score, device)?,
        parts: PartsParams::new(parts),
        x_stride: stride(x),
        scores_stride: stride(scores),
        dx_stride: dx.stride() as i64,
        dscores_stride: stride(dscores.as_ref()),
        width: width as i64,
    };
    let aligned = [x.unwrap_or(&dy), y.unwrap_or(&dy), &dy].map(|view| *view);
    let vec = vector(&aligned).min(vector(&[dx.as_view()]));
    let kernel = program(device, "pooling_backward", kind, [io, score], vec)?;
    let grid = [parts.count() as u32, SHARERS, 1];
    // SAFETY: as in `forward`.
    unsafe { kernel.launch(grid, BLOCK as u32, 0, &params) }
}

/// The address of an operand that there may be none of.
fn address(
    what: &'static str,
    view: Option<&View<'_>>,
    dtype: DType,
    device: Device,
) -> Result<DevicePtr> {
    let address = view.map(|view| check::address(OP, what, view, dtype, device));
    Ok(address.transpose()?.unwrap_or(DevicePtr::NULL))
}

/// Values of an access.
fn vector(views: &[View<'_>]) -> usize {
    let wide = check::accessible(views, views[0].cols(), 4);
    if wide { 4 } else { 1 }
}

fn program(
    device: Device,
    entry: &'static str,
    kind: Pooling,
    [io, score]: [DType; 2],
    vec: usize,
) -> Result<Kernel> {
    let defines = [
        ("IO", io.cuda_name()),
        ("SCORE", score.cuda_name()),
        ("KIND", ["LAST", "MEAN", "ATTENTION"][kind as usize]),
        ("VEC", if vec == 4 { "4" } else { "1" }),
    ];
    kernel(device, &SOURCE, entry, &defines)
}
