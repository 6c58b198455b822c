//! Products with tens of rows, on Hopper's tensor cores.

use serpens_core::cuda::{KernelParams, Properties, Source, kernel, properties};
use serpens_core::{Result, Tensor};

use super::step::{BF16_WEIGHT, ConvTail, LinearStepParams, Product};
use crate::check::accessible;

static SOURCE: Source =
    Source::new("linear_tiles", include_str!("tiles.cu")).params(&[LinearStepParams::declare]);

/// Bytes of a tile's row, outputs of four warps, and blocks of a cluster at most, as the kernel has them.
const ROW_BYTES: usize = 128;
const GROUP: usize = 64;
const CLUSTER: usize = 8;
/// Blocks that fill a card, about one a multiprocessor.
const BLOCKS: usize = 128;
/// Rows beyond which the library's products are as fast, and of large matrices, of so many values.
const MOST_ROWS: [usize; 2] = [512, 64];
const LARGE: usize = 8 << 20;

/// How the kernel spreads its work: see tiles.cu, and docs/kernels.md for what was measured.
#[derive(Clone, Copy)]
pub(super) struct TilePlan {
    rows: usize,
    groups: usize,
    split: usize,
    stages: usize,
}

impl TilePlan {
    fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        let many = outputs >= 2048 && (inputs >= 2048 || rows > 128 || outputs >= 16_384);
        let of_block: usize = match rows {
            ..=32 => 32,
            33..=64 => 64,
            _ if many => 128,
            _ => 64,
        };
        let groups = of_block.div_ceil(GROUP);
        let blocks = rows.div_ceil(of_block) * outputs.div_ceil(GROUP * groups);
        let split = BLOCKS.div_ceil(blocks).next_power_of_two().min(CLUSTER);
        // Of up to 64 rows two blocks of a multiprocessor hide each other's waits; heads have many more of them.
        let split = if outputs < 16_384 { split.max(2) } else { 1 };
        Self {
            rows: of_block,
            groups,
            split,
            stages: if split == CLUSTER { 5 } else { 6 },
        }
    }

    fn shared(&self) -> usize {
        let outputs = GROUP * self.groups;
        let tiles = self.stages * ROW_BYTES * (self.rows + outputs);
        let sums = self.rows * (outputs + 4) * size_of::<f32>();
        tiles.max(sums) + 1024 // tiles begin at multiples of it
    }
}

impl Product<'_> {
    /// How the kernel would compute it, where it is for it.
    pub(super) fn tile_plan(&self, conv: Option<&ConvTail>) -> Result<Option<TilePlan>> {
        let (x, y, weight) = (&self.x, &self.y, &self.stored.weight);
        let (rows, inputs, outputs) = (x.rows(), x.cols(), y.cols());
        let Properties { capability, .. } = properties(y.device())?;
        let fits = capability.0 == 9
            && self.stored.kind == BF16_WEIGHT
            && outputs > 0
            && rows <= MOST_ROWS[usize::from(inputs * outputs >= LARGE)]
            && (self.norm.is_some() || x.dtype() == weight.dtype() && accessible(&[*x], inputs, 8))
            && accessible(&[*weight], inputs, 8)
            && accessible(&[y.as_view()], outputs, 4)
            && conv.is_none_or(ConvTail::allows_fours);
        Ok(fits.then(|| TilePlan::new(rows, inputs, outputs)))
    }

    pub(super) fn by_tiles(self, plan: TilePlan, conv: Option<(usize, ConvTail)>) -> Result<()> {
        let normalised = self.normalised()?;
        let x = normalised.as_ref().map_or(self.x, Tensor::view);
        let params = self.params(x, conv.map(|(_, tail)| tail))?;
        let width = conv.map_or(0, |(width, _)| width);
        let numbers = [plan.rows, plan.groups, plan.split, plan.stages, width];
        let [rows, groups, split, stages, width] = numbers.map(|number| number.to_string());
        let defines = [
            ("X", x.dtype().cuda_name()),
            ("OUT", self.y.dtype().cuda_name()),
            ("W", self.stored.types[0]),
            ("SCALES", self.stored.types[1]),
            ("ACCUMULATE", if self.accumulate { "1" } else { "0" }),
            ("CONV", &width),
            ("ROWS", &rows),
            ("GROUPS", &groups),
            ("SPLIT", &split),
            ("STAGES", &stages),
        ];
        let kernel = kernel(self.y.device(), &SOURCE, "linear_tiles", &defines)?;
        let blocks = [
            x.rows().div_ceil(plan.rows),
            self.y.cols().div_ceil(GROUP * plan.groups),
            plan.split,
        ];
        let (threads, shared) = (128 * plan.groups as u32, plan.shared() as u32);
        // SAFETY: the parameters are the kernel's, the views valid for the sizes that the caller has checked; the
        // kernel waits for those before it, but for its weights, which no kernel queued shortly before it writes.
        unsafe { kernel.launch_early(blocks.map(|count| count as u32), threads, shared, &params) }
    }
}
