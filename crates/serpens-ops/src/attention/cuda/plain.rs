//! What launches the plain kernels.

use serpens_core::cuda::{Kernel, KernelParams, Source, kernel};
use serpens_core::{DType, Result, Tensor};

use super::{AttentionParams, Problem};

static SOURCE: Source = Source::new(
    "attention_plain",
    concat!(include_str!("spans.cuh"), include_str!("plain.cu")),
)
.params(&[AttentionParams::declare])
.constants(&[("ROWS", ROWS as i32)])
// What of wide heads does not fit into registers waits in the first-level cache.
.may_spill(|_| true);

/// Queries or keys of a block, and its threads.
const ROWS: usize = 64;
const THREADS: u32 = 256;

fn program(problem: &Problem, entry: &'static str) -> Result<Kernel> {
    let defines = problem.defines([]);
    let defines: Vec<_> = defines.iter().map(|(k, v)| (*k, v.as_str())).collect();
    kernel(problem.device, &SOURCE, entry, &defines)
}

/// A block for each tile of each of some heads.
fn grid(problem: &Problem, heads: usize) -> [u32; 3] {
    [problem.tiles(ROWS) as u32, heads as u32, 1]
}

pub(super) fn forward(problem: &Problem) -> Result<()> {
    let kernel = program(problem, "attention_forward_plain")?;
    // SAFETY: the parameters are the kernel's; the caller has checked the shapes of what they point to.
    unsafe {
        kernel.launch(
            grid(problem, problem.dims.heads),
            THREADS,
            0,
            &problem.params,
        )
    }
}

pub(super) fn backward(problem: &Problem) -> Result<()> {
    let dims = &problem.dims;
    let names = [
        "attention_prepare_plain",
        "attention_keys_plain",
        "attention_queries_plain",
    ];
    let [prepare, keys, queries] = names.map(|name| program(problem, name));
    let mut rows = Tensor::empty([dims.heads, dims.queries()], DType::F32, problem.device)?;
    let params = AttentionParams {
        rows: rows.view_mut()?.ptr(),
        ..problem.params
    };
    let warps = (THREADS / 32) as usize;
    let blocks = (dims.heads * dims.queries()).div_ceil(warps) as u32;
    // SAFETY: the parameters are the kernels'; the caller has checked the shapes of what they point to, and there is a
    // row for every query of every head.
    unsafe {
        prepare?.launch([blocks, 1, 1], THREADS, 0, &params)?;
        keys?.launch(grid(problem, dims.kv_heads), THREADS, 0, &params)?;
        queries?.launch(grid(problem, dims.heads), THREADS, 0, &params)
    }
}
