//! What the benches measure: on a GPU the cases that baselines are published for, or those that the options name.

use clap::Args;
use rayon::prelude::*;
use serpens_core::{
    DType, Device, Gradients, Result as CoreResult, Shape, Tape, Tensor, Var, cuda,
};
use serpens_formats::Encoding;
use serpens_nn::{Precision, Recompute, ToInfer};
use serpens_ops::elementwise::cast;

use super::published::{Case, Published};
use super::{Clock, Limits, Row, Table, Work};
use crate::Result;
use crate::cli::whole;
use crate::compute::{STATES, one_of};

/// Other cases than the published ones; what is left out is as in the first of those.
#[derive(Debug, Args)]
#[command(next_help_heading = "Other cases: on a GPU of all work, on the processor of decode")]
pub(super) struct Shapes {
    /// Sequences side by side.
    #[arg(long, value_name = "B", value_parser = size())]
    pub(super) batch: Option<usize>,
    /// Positions, of decode those of the prompt before; several lengths with commas between them.
    #[arg(long, value_name = "L", value_delimiter = ',', value_parser = size())]
    length: Vec<usize>,
    /// Channels of the scan and the convolution.
    #[arg(long, value_name = "E", value_parser = size())]
    pub(super) channels: Option<usize>,
    /// States of each channel.
    #[arg(long, value_name = "N", value_parser = size())]
    pub(super) state: Option<usize>,
    /// Width of blocks and models.
    #[arg(long, value_name = "D", value_parser = size())]
    pub(super) width: Option<usize>,
    /// Layers of models.
    #[arg(long, value_name = "LAYERS", value_parser = size())]
    pub(super) layers: Option<usize>,
    /// Tokens that models know.
    #[arg(long, value_name = "V", value_parser = size())]
    pub(super) vocab: Option<usize>,
    /// How matrices are held to decode, with q4_k the table and the head in q6_k; in several ways where it is left out.
    #[arg(long, value_name = "TYPE", value_parser = one_of(&ToInfer::WEIGHTS))]
    pub(super) weights: Option<Encoding>,
    /// What states are held in to decode: f32 or bf16.
    #[arg(long, value_name = "TYPE", value_parser = one_of(STATES))]
    pub(super) states: Option<DType>,
    /// What training steps compute again instead of keeping it.
    #[arg(long, value_parser = one_of(Recompute::ALL))]
    recompute: Option<Recompute>,
}

/// Sizes that a tensor's axis may have.
fn size() -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    whole(1..=u32::MAX.into())
}

impl Shapes {
    /// The names of the options that were given, and what takes them.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, &'static [Work])> {
        use Work::{Block, Conv, Decode, Prompt, Scan, Train};
        const ALL: &[Work] = &[Scan, Conv, Block, Train, Prompt, Decode];
        let given: [(bool, _, &[Work]); 10] = [
            (self.batch.is_some(), "--batch", ALL),
            (!self.length.is_empty(), "--length", ALL),
            (self.channels.is_some(), "--channels", &[Scan, Conv]),
            (self.state.is_some(), "--state", &[Scan]),
            (self.width.is_some(), "--width", &ALL[2..]),
            (self.layers.is_some(), "--layers", &ALL[3..]),
            (self.vocab.is_some(), "--vocab", &ALL[3..]),
            (self.weights.is_some(), "--weights", &[Decode]),
            (self.states.is_some(), "--states", &[Decode]),
            (self.recompute.is_some(), "--recompute", &[Train]),
        ];
        let given = given.into_iter();
        given.filter_map(|(is, name, works)| is.then_some((name, works)))
    }

    pub(super) fn lengths(&self, otherwise: &[usize]) -> Vec<usize> {
        match self.length.as_slice() {
            [] => otherwise.to_vec(),
            lengths => lengths.to_vec(),
        }
    }
}

/// What a pass is called, its seconds, and its rate as a share of a limit.
type Pass = (&'static str, f64, f64);
/// Their sizes in words, and two passes.
pub(super) type Passes = (String, [Pass; 2]);

/// What is measured, and with what.
pub(super) struct Bench<'a> {
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    pub(super) precision: Precision,
    pub(super) quick: bool,
    pub(super) shapes: &'a Shapes,
    /// Whether neither a shape nor a precision was named: then the published rows are measured.
    pub(super) as_published: bool,
}

impl Bench<'_> {
    /// The table of the published cases; or of the first of them with the sizes that were named, `width` among them,
    /// for each of the lengths named. `share` is the limit that the passes are held against.
    pub(super) fn passes(
        &self,
        title: &'static str,
        published: &[Case],
        width: Option<usize>,
        share: &'static str,
        measure: fn(&Self, [usize; 3], DType) -> Result<Passes>,
    ) -> Result<Table> {
        let ([batch, length, first], _, beside) = published[0];
        let (batch, width) = (self.shapes.batch.unwrap_or(batch), width.unwrap_or(first));
        let dtype = self.precision.activations();
        let named = self.shapes.lengths(&[length]).into_iter();
        let named = named.map(|length| ([batch, length, width], dtype, beside));
        let cases = match self.as_published {
            true => published.to_vec(),
            false => named.collect(),
        };
        let mut rows = Vec::new();
        for (shape, dtype, beside) in cases {
            let (sizes, passes) = measure(self, shape, dtype)?;
            for ((pass, seconds, of_limit), beside) in passes.into_iter().zip(beside) {
                let row = Row::new(format!("{pass}, {sizes}"), 1e3 * seconds, "ms");
                rows.push(self.beside(row, beside).with(share, of_limit));
            }
            self.clock.device.release_unused();
        }
        Ok(Table { title, rows })
    }

    /// Seconds of a forward, and of it and its backward together, over all of these inputs, each with the gradient of
    /// its output.
    pub(super) fn forward_and_both(
        &self,
        inputs: &[[Tensor; 2]],
        forward: impl Fn(&Tape, Var) -> CoreResult<Var>,
    ) -> Result<[f64; 2]> {
        let forward = |x: &Tensor| {
            let tape = Tape::new();
            let y = forward(&tape, tape.leaf(x.clone()))?;
            Ok((tape, y))
        };
        let alone = |()| inputs.iter().try_for_each(|[x, _]| forward(x).map(drop));
        let mut gradients = Gradients::new();
        let both = |()| {
            inputs.iter().try_for_each(|[x, dy]| {
                gradients.clear();
                let (tape, y) = forward(x)?;
                tape.backward_from(vec![(&y, dy.clone())], &mut gradients)
            })
        };
        let clock = &self.clock;
        Ok([
            clock.recorded(|| Ok(()), alone)?,
            clock.recorded(|| Ok(()), both)?,
        ])
    }

    /// What training steps compute again.
    pub(super) fn recompute(&self) -> Recompute {
        self.shapes.recompute.unwrap_or(Recompute::None)
    }

    /// How many sets of operands of this size to take turns with, so that none is in the cache when its turn comes.
    pub(super) fn sets(&self, bytes: usize) -> Result<usize> {
        let cache = cuda::properties(self.clock.device)?.cache;
        Ok((2 * cache).div_ceil(bytes.max(1)).clamp(1, 64))
    }

    /// How a pass that has to move so many bytes at least stands against copying them.
    pub(super) fn moving(&self, pass: &'static str, seconds: f64, bytes: usize) -> Pass {
        (pass, seconds, bytes as f64 / seconds / self.limits.memory)
    }

    /// With the published figures, where the row is one of theirs.
    pub(super) fn beside(&self, row: Row, (official, wanted): Published) -> Row {
        match self.as_published {
            true => row.with("official", official).with("wanted", wanted),
            false => row,
        }
    }
}

/// The token at a position of a text without meaning.
pub(super) fn token(position: usize, vocabulary: usize) -> u32 {
    (position.wrapping_mul(7919) % vocabulary) as u32
}

/// Values between -1 and 1 that look random: the same for the same seed.
pub(super) fn values(
    shape: impl Into<Shape>,
    seed: u32,
    dtype: DType,
    device: Device,
) -> Result<Tensor> {
    let shape = shape.into();
    let value = |i: usize| {
        let mixed = (i as u32 ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        (mixed ^ mixed >> 15) as i32 as f32 / 2.0_f32.powi(31)
    };
    let all = (0..shape.count()).into_par_iter().map(value);
    let all = Tensor::from_slice(shape, &all.collect::<Vec<f32>>(), device)?;
    Ok(cast(&all.into(), dtype)?.into_tensor()?)
}
