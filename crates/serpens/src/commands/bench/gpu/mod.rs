//! The benches of a GPU: the operations, blocks and models that baselines are published for, each beside them.

mod block;
mod clock;
mod conv;
mod machine;
mod prompt;
mod published;
mod scan;
mod train;

use clap::Args;
use rayon::prelude::*;
use serpens_core::{DType, Device, Shape, Tensor, bf16, cuda};
use serpens_nn::{Precision, Recompute};

use super::{Row, Table, Work};
use crate::Result;
use crate::compute::recompute;
use clock::Clock;
use machine::Machine;
use published::{Passes, Published};

/// Other cases than the published ones; what is left out is as in the first of those.
#[derive(Debug, Args)]
#[command(next_help_heading = "On a GPU, instead of the published cases")]
pub(super) struct Shapes {
    /// Sequences side by side.
    #[arg(long, value_name = "B", value_parser = size())]
    batch: Option<u64>,
    /// Positions; several lengths with commas between them.
    #[arg(long, value_name = "L", value_delimiter = ',', value_parser = size())]
    length: Vec<u64>,
    /// Channels of the scan and the convolution.
    #[arg(long, value_name = "E", value_parser = size())]
    channels: Option<u64>,
    /// States of each channel.
    #[arg(long, value_name = "N", value_parser = size())]
    state: Option<u64>,
    /// Width of blocks and models.
    #[arg(long, value_name = "D", value_parser = size())]
    width: Option<u64>,
    /// Layers of models.
    #[arg(long, value_name = "LAYERS", value_parser = size())]
    layers: Option<u64>,
    /// Tokens that models know.
    #[arg(long, value_name = "V", value_parser = size())]
    vocab: Option<u64>,
    /// What training steps compute again instead of keeping it.
    #[arg(long, value_parser = recompute())]
    recompute: Option<Recompute>,
}

/// Sizes that a tensor's axis may have.
fn size() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=u32::MAX.into())
}

impl Shapes {
    /// The names of the options that were given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.batch.is_some(), "--batch"),
            (!self.length.is_empty(), "--length"),
            (self.channels.is_some(), "--channels"),
            (self.state.is_some(), "--state"),
            (self.width.is_some(), "--width"),
            (self.layers.is_some(), "--layers"),
            (self.vocab.is_some(), "--vocab"),
            (self.recompute.is_some(), "--recompute"),
        ];
        given.into_iter().find_map(|(is, name)| is.then_some(name))
    }

    fn batch(&self, otherwise: usize) -> usize {
        or(self.batch, otherwise)
    }

    fn lengths(&self, otherwise: usize) -> Vec<usize> {
        match self.length.as_slice() {
            [] => vec![otherwise],
            lengths => lengths.iter().map(|&length| length as usize).collect(),
        }
    }
}

fn or(given: Option<u64>, otherwise: usize) -> usize {
    given.map_or(otherwise, |size| size as usize)
}

/// What one bench measures: (batch, length, width), and the figures to compare with where they are published.
type Case = ([usize; 3], [Option<Published>; 2]);

/// What is measured, and with what.
pub(super) struct Bench<'a> {
    clock: Clock,
    machine: Machine,
    shapes: &'a Shapes,
    /// Where one was named.
    precision: Option<Precision>,
}

impl<'a> Bench<'a> {
    /// Measures the card itself.
    pub(super) fn new(
        device: Device,
        quick: bool,
        shapes: &'a Shapes,
        precision: Option<Precision>,
    ) -> Result<Self> {
        let runs = if quick { 5 } else { 25 };
        let clock = Clock { device, runs };
        let machine = machine::measure(&clock)?;
        device.release_unused();
        Ok(Self {
            clock,
            machine,
            shapes,
            precision,
        })
    }

    /// The card's own limits.
    pub(super) fn limits(&self) -> Result<Table> {
        self.machine.table(self.clock.device)
    }

    /// One of the works' tables.
    pub(super) fn table(&self, work: Work) -> Result<Table> {
        let table = match work {
            Work::Scan => scan::table(self),
            Work::Conv => conv::table(self),
            Work::Block => block::table(self),
            Work::Train => train::table(self),
            Work::Prompt => prompt::table(self),
        };
        self.clock.device.release_unused();
        table
    }

    /// Whether neither a shape nor a precision was named: then the published rows are measured.
    fn as_published(&self) -> bool {
        self.shapes.given().is_none() && self.precision.is_none()
    }

    /// The published cases; or the first of them with the sizes that were named, `width` among them, for each of the lengths named.
    ///
    /// # Shapes
    /// (batch, length, width)
    fn cases(&self, published: &[([usize; 3], Passes)], width: Option<u64>) -> Vec<Case> {
        if self.as_published() {
            let case = |&(shape, passes): &([usize; 3], Passes)| (shape, passes.map(Some));
            return published.iter().map(case).collect();
        }
        let [batch, length, first] = published[0].0;
        let (batch, width) = (self.shapes.batch(batch), or(width, first));
        let lengths = self.shapes.lengths(length).into_iter();
        let case = |length| ([batch, length, width], [None; 2]);
        lengths.map(case).collect()
    }

    /// The precision named, or the one of most published rows.
    fn precision(&self) -> Precision {
        self.precision.unwrap_or(Precision::Bf16)
    }

    /// How many sets of operands of this size to take turns with, so that none is in the cache when its turn comes.
    fn sets(&self, bytes: usize) -> Result<usize> {
        let cache = cuda::properties(self.clock.device)?.cache;
        Ok((2 * cache).div_ceil(bytes.max(1)).clamp(1, 64))
    }

    /// A row of milliseconds that has to move this many bytes at least.
    fn moving(&self, work: String, seconds: f64, bytes: usize, beside: Option<Published>) -> Row {
        Row::new(work, 1e3 * seconds, "ms")
            .beside(beside)
            .with("of copying", bytes as f64 / seconds / self.machine.copy)
    }
}

impl Row {
    /// With the published figures.
    fn beside(self, published: Option<Published>) -> Self {
        match published {
            Some(Published { official, wanted }) => {
                self.with("official", official).with("wanted", wanted)
            }
            None => self,
        }
    }
}

/// Values between -1 and 1 that look random: the same for the same seed.
fn values(shape: impl Into<Shape>, seed: u32, dtype: DType, device: Device) -> Result<Tensor> {
    let shape = shape.into();
    let value = |i: usize| {
        let mixed = (i as u32 ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        (mixed ^ mixed >> 15) as i32 as f32 / 2.0_f32.powi(31)
    };
    let all = (0..shape.count()).into_par_iter();
    Ok(match dtype {
        DType::BF16 => {
            let values = all.map(|i| bf16::from_f32(value(i)));
            Tensor::from_slice(shape, &values.collect::<Vec<bf16>>(), device)?
        }
        _ => Tensor::from_slice(shape, &all.map(value).collect::<Vec<f32>>(), device)?,
    })
}
