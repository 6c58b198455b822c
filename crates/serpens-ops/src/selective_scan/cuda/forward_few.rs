//! The program of the forward scan where there are few channels.

use serpens_core::DType;
use serpens_core::cuda::{KernelParams, Source};

use super::flag;
use super::launch::{KernelOptions, Program, ScanParams};
use crate::selective_scan::operands::CHUNK;

static SOURCE: Source = Source::new(
    "selective_scan_forward_few",
    concat!(
        include_str!("decay.cuh"),
        include_str!("segments.cuh"),
        include_str!("forward.cuh"),
        include_str!("../../shared/barriers.cuh"),
        include_str!("forward_few.cu")
    ),
)
.params(&[ScanParams::declare])
.constants(&[
    ("CHUNK", CHUNK as i32),
    ("CHANNELS", CHANNELS as i32),
    ("WARPS", WARPS as i32),
    ("HELPERS", HELPERS as i32),
    ("TILE", TILE as i32),
    ("BUFFERS", BUFFERS as i32),
])
.may_spill(|program| program.number("VEC") == Some(1) || program.number("HELD") == Some(1));

/// Channels of a block, in pairs.
const CHANNELS: usize = 8;
/// Warps that hold states: two for each pair of channels.
const WARPS: usize = CHANNELS;
/// Warps that prepare tiles and finish them.
const HELPERS: usize = 4;
/// Steps that are prepared at once: a chunk for each of the two warps.
const TILE: usize = 2 * CHUNK;
/// Of prepared tiles.
const BUFFERS: usize = 3;

/// The size of the kernel's `Shared`, at most.
fn shared_bytes(dtype: DType) -> usize {
    let copies = if dtype == DType::BF16 { 3 } else { 1 };
    let (raw_buffers, stages) = (copies + 1, copies + BUFFERS + 1);
    let raw = TILE * ((2 * stages + raw_buffers) * CHANNELS + raw_buffers * 2 * 16);
    let steps = CHANNELS * (TILE + 2) * 8;
    let bc = dtype.size() / 2 * (16 * (TILE + 4) + 32) * 4;
    let y = TILE * if dtype == DType::BF16 { 40 } else { 12 } * 4;
    let barriers = 64;
    raw * dtype.size() + BUFFERS * (steps + bc + TILE * 4 + y) + WARPS * 32 * 4 + barriers
}

pub(super) fn program(state: usize, dtype: DType, options: &KernelOptions) -> Program {
    let shared = shared_bytes(dtype);
    let defines = vec![
        ("IO", dtype.cuda_name().to_owned()),
        ("STATE", state.to_string()),
        ("VEC", options.vec.to_string()),
        ("BC_VEC", options.bc_vec.to_string()),
        ("GATED", flag(options.gated)),
        ("SOFTPLUS", flag(options.softplus)),
        ("STARTS", flag(options.starts)),
        ("HELD", flag(options.held)),
        ("SHARED_BYTES", shared.to_string()),
    ];
    #[cfg(test)]
    let defines = [defines, crate::shared::tests::sanitizer()].concat();
    Program {
        source: &SOURCE,
        name: "selective_scan_forward_few",
        defines,
        threads: 32 * (WARPS + HELPERS),
        shared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_has_the_shared_memory() {
        for dtype in [DType::F32, DType::BF16] {
            assert!(shared_bytes(dtype) <= super::super::plan::SHARED_LIMIT);
        }
    }
}
