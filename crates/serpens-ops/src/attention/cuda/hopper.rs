//! What launches the kernels of Hopper's tensor cores: their tiles and shared memory as they have them.

use serpens_core::cuda::{Kernel, KernelParams, Program, Source, kernel, properties};
use serpens_core::{DType, Result, Tensor};

use super::{AttentionParams, Problem};

static FORWARD: Source = Source::new(
    "attention_forward",
    concat!(
        include_str!("spans.cuh"),
        include_str!("hopper.cuh"),
        include_str!("forward.cu")
    ),
)
.params(&[AttentionParams::declare])
.constants(&[("KEYS", KEYS as i32)])
.may_spill(of_no_model);

static BACKWARD: Source = Source::new(
    "attention_backward",
    concat!(
        include_str!("spans.cuh"),
        include_str!("hopper.cuh"),
        include_str!("backward.cu")
    ),
)
.params(&[AttentionParams::declare])
.constants(&[
    ("KEYS", KEYS as i32),
    ("STAGES", BACKWARD_STAGES as i32),
    ("SUMS", SUMS as i32),
])
.may_spill(of_no_model);

/// Heads that are not of the usual columns.
fn of_no_model(program: &Program) -> bool {
    !matches!(program.number("HEAD"), Some(64 | 128))
}

/// Keys of a tile.
const KEYS: usize = 128;
/// Columns of a tile's strip, and bytes of its row.
const STRIP: usize = 64;
const STRIP_BYTES: usize = 128;
/// Where tiles begin.
const ALIGNMENT: usize = 1024;
/// Tiles of q and of do on the way back, and sums of dq that each has.
const BACKWARD_STAGES: usize = 2;
const SUMS: usize = 8192;
const BACKWARD_THREADS: u32 = 384;
/// Threads of the kernels before and after it.
const ROW_THREADS: u32 = 256;
/// Queries of a sequence up to which blocks go on from tile to tile: with more, the card spreads tiles more evenly
/// than that hides.
const SHORT: usize = 2048;

/// Bytes of a tile.
fn bytes(problem: &Problem, rows: usize) -> usize {
    strips(problem) * rows * STRIP_BYTES
}

fn strips(problem: &Problem) -> usize {
    problem.dims.head.div_ceil(STRIP)
}

fn program<const N: usize>(
    problem: &Problem,
    source: &'static Source,
    entry: &'static str,
    own: [(&'static str, usize); N],
) -> Result<Kernel> {
    let defines = problem.defines(own);
    #[cfg(test)]
    let defines = [defines, crate::shared::tests::sanitizer()].concat();
    let defines: Vec<_> = defines.iter().map(|(k, v)| (*k, v.as_str())).collect();
    kernel(problem.device, source, entry, &defines)
}

pub(super) fn forward(problem: &Problem) -> Result<()> {
    // Narrow heads leave registers for more queries, wide ones gain by a third stage; see docs/kernels.md.
    let (groups, stages) = if strips(problem) == 1 { (3, 2) } else { (2, 3) };
    let own = [("GROUPS", groups), ("STAGES", stages)];
    let kernel = program(problem, &FORWARD, "attention_forward", own)?;
    let (queries, threads) = (64 * groups, 128 * (groups + 1));
    let shared = ALIGNMENT + bytes(problem, queries) + 2 * stages * bytes(problem, KEYS);
    let tiles = problem.dims.heads * problem.tiles(queries);
    let multiprocessors = properties(problem.device)?.multiprocessors as usize;
    let blocks = match problem.params.stretch as usize {
        ..=SHORT => tiles.min(multiprocessors),
        _ => tiles,
    };
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to, and that rows
    // are aligned to 16 bytes.
    unsafe {
        kernel.launch(
            [blocks as u32, 1, 1],
            threads as u32,
            shared as u32,
            &problem.params,
        )
    }
}

pub(super) fn backward(problem: &Problem) -> Result<()> {
    let (heads, head) = (problem.dims.heads, problem.dims.head);
    let queries = SUMS / STRIP / strips(problem);
    // Threads of a row in `attention_prepare`, eight columns each.
    let lanes = head.div_ceil(8).next_power_of_two();
    let own = [("QUERIES", queries), ("ROW_LANES", lanes)];
    let [prepare, main, finish] = [
        "attention_prepare",
        "attention_backward",
        "attention_finish",
    ]
    .map(|name| program(problem, &BACKWARD, name, own));
    let tiles = problem.tiles(queries);
    let empty = |count: usize, dtype| Tensor::empty([heads * tiles, count], dtype, problem.device);
    let (mut rows, mut sums) = (empty(2 * queries, DType::F32)?, empty(SUMS, DType::F32)?);
    let mut turns = empty(1, DType::U32)?;
    let mut ticket = Tensor::empty([1], DType::U32, problem.device)?;
    let params = AttentionParams {
        rows: rows.view_mut()?.ptr(),
        dq_sums: sums.view_mut()?.ptr(),
        turns: turns.view_mut()?.ptr(),
        ticket: ticket.view_mut()?.ptr(),
        ..problem.params
    };
    let of_rows = (heads * tiles * queries * lanes).div_ceil(ROW_THREADS as usize);
    let blocks = problem.dims.kv_heads * problem.tiles(KEYS);
    let shared = ALIGNMENT
        + 2 * bytes(problem, KEYS)
        + 2 * BACKWARD_STAGES * bytes(problem, queries)
        + 2 * (queries * KEYS * size_of::<u16>())
        + SUMS * size_of::<f32>()
        + BACKWARD_STAGES * 2 * queries * size_of::<f32>();
    // SAFETY: the parameters are the kernels'; the caller has checked the shapes of what they point to, and that rows
    // are aligned to 16 bytes; there are rows, sums and a turn for every tile of every head.
    unsafe {
        prepare?.launch([of_rows as u32, 1, 1], ROW_THREADS, 0, &params)?;
        main?.launch(
            [blocks as u32, 1, 1],
            BACKWARD_THREADS,
            shared as u32,
            &params,
        )?;
        finish?.launch([tiles as u32, heads as u32, 1], ROW_THREADS, 0, &params)
    }
}
