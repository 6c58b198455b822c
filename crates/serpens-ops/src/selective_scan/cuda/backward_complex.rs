//! The gradients of the scan with a complex A: one kernel, and the sums of what its blocks leave.

use serpens_core::cuda::{KernelParams, Source};
use serpens_core::{DType, Result};

use super::flag;
use super::launch::Program;
use super::walk::{BackwardScan, ScanBackwardParams, Walk};
use crate::selective_scan::operands::CHUNK;

static SOURCE: Source = Source::new(
    "selective_scan_backward_complex",
    concat!(
        include_str!("decay.cuh"),
        include_str!("backward_complex.cu")
    ),
)
.params(&[ScanBackwardParams::declare])
.constants(&[("CHUNK", CHUNK as i32), ("SUB", SUB as i32)])
// But what models run, as with a real A: bf16, 16 numbers of the state, step sizes behind softplus.
.may_spill(|program| {
    let hot = program.number("STATE") == Some(16)
        && program.number("SOFTPLUS") == Some(1)
        && program.define("IO") == Some(DType::BF16.cuda_name());
    !hot
});

/// Steps of which all is in registers and in shared memory.
const SUB: usize = 8;

/// How a block is made; the names are those of the kernel's macros.
struct ComplexBackwardPlan {
    split: usize,
    per_lane: usize,
    warps: usize,
}

impl ComplexBackwardPlan {
    /// A lane for each number of the state as far as a warp goes; at most 32 channels, and what shared memory holds.
    fn new(state: usize) -> Self {
        let padded = state.next_power_of_two();
        let split = padded.min(32);
        Self {
            split,
            per_lane: padded / split,
            warps: split.min(8).min(512 / padded),
        }
    }

    fn channels(&self) -> usize {
        self.warps * 32 / self.split
    }

    /// The size of the kernel's `Shared`.
    fn shared_bytes(&self, state: usize) -> usize {
        4 * SUB * (5 * self.channels() + (1 + self.warps) * 4 * state)
    }

    fn defines(
        &self,
        state: usize,
        dtype: DType,
        [gated, softplus, starts]: [bool; 3],
    ) -> Vec<(&'static str, String)> {
        vec![
            ("IO", dtype.cuda_name().to_owned()),
            ("STATE", state.to_string()),
            ("SPLIT", self.split.to_string()),
            ("PER_LANE", self.per_lane.to_string()),
            ("WARPS", self.warps.to_string()),
            ("GATED", flag(gated)),
            ("SOFTPLUS", flag(softplus)),
            ("STARTS", flag(starts)),
        ]
    }
}

/// Computes every gradient.
pub(super) fn backward(back: &BackwardScan<'_>) -> Result<()> {
    let scan = back.scan;
    let (dims, x) = (&scan.dims, &scan.operands);
    let plan = ComplexBackwardPlan::new(dims.state);
    let group_blocks = dims.group_channels().div_ceil(plan.channels());
    let options = [x.z.is_some(), scan.softplus, scan.starts.is_some()];
    let program = Program {
        source: &SOURCE,
        name: "selective_scan_backward_complex",
        defines: plan.defines(dims.state, back.dout.dtype(), options),
        threads: 32 * plan.warps,
        shared: plan.shared_bytes(dims.state),
    };
    // SAFETY: the program is the kernel's; the caller has checked the sizes of the views.
    unsafe { Walk::new(back, group_blocks, 1)?.launch(&program) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_fit_every_state_size() {
        for state in 1..=256 {
            let plan = ComplexBackwardPlan::new(state);
            assert!(plan.split * plan.per_lane >= state && plan.warps >= 1);
            assert!(plan.channels() <= 32);
            assert!(plan.shared_bytes(state) <= 99 * 1024, "{state}");
        }
    }
}
