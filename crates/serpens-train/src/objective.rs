//! What a model is trained to do.

use std::ops::Range;

use serpens_core::{Device, Tensor, Var};
use serpens_data::{Batch, Bounds, IGNORE, Numbers};
use serpens_nn::MambaLm;
use serpens_nn::layers::Sequence;
use serpens_ops::Starts;
use serpens_ops::cross_entropy::{check_targets, cross_entropy};
use serpens_ops::embedding::check_ids;
use serpens_ops::optimizer::Rule;

use crate::{Error, Optimizer, OptimizerConfig, Result, TrainedModel};

// What batches leave out of the loss is what the loss leaves out; neither crate sees the other.
const _: () = assert!(IGNORE == serpens_ops::cross_entropy::IGNORE);

/// What a model is trained to do: which batches it can learn from, and how wrong it is on one.
pub trait Objective {
    /// What learns it.
    type Model: TrainedModel;

    /// Refuses a source whose batches the model could not read or answer.
    ///
    /// # Errors
    /// The model's setting that is too small for these bounds.
    fn check_source(&self, model: &Self::Model, bounds: Bounds) -> Result<()>;

    /// Refuses a batch that the model could not read or answer: a GPU does not look at ids.
    ///
    /// # Errors
    /// The first id that the model does not know, or what else it cannot learn from.
    fn check_batch(&self, model: &Self::Model, batch: &Batch<Numbers>) -> serpens_core::Result<()>;

    /// How wrong the model is on a batch. It is called for every step, within a recording on a GPU: its work may depend
    /// on shapes only. `sequence` says what is computed again, and where packed sequences start.
    ///
    /// # Shapes
    /// inputs (batch, length) of u32, or (batch, length, channels) of f32; targets (batch, length) where there is one
    /// for each position, otherwise a vector, as the source's batches have them
    ///
    /// # Errors
    /// What the model's operations fail with.
    fn loss(
        &self,
        model: &Self::Model,
        inputs: &Var,
        targets: &Tensor,
        sequence: &Sequence<'_>,
    ) -> serpens_core::Result<Loss>;

    /// Settings of the loss in words, which differ where it does: a training is resumed with the same only.
    fn description(&self) -> String {
        String::new()
    }

    /// Brings what the loss reads besides to the device where it is computed.
    ///
    /// # Errors
    /// Memory.
    fn to(&mut self, _device: Device) -> serpens_core::Result<()> {
        Ok(())
    }

    /// How the model's values follow from gradients: as the settings say, where it has no rule of its own.
    fn rule(&self, settings: &OptimizerConfig) -> Box<dyn Rule> {
        settings.rule()
    }
}

/// How wrong a model is on a batch.
pub struct Loss {
    /// What is made small: one value, from which gradients flow.
    pub value: Var,
    /// What is told of it besides, as [`serpens_ops::cross_entropy::Totals::read`] reads it; `None` where there is the
    /// value only, as of a regression.
    pub totals: Option<Tensor>,
}

/// Cross-entropy of every token's successor: −ln p(target | inputs up to here), averaged over the targets that count.
#[derive(Clone, Copy, Debug, Default)]
pub struct NextToken;

impl Objective for NextToken {
    type Model = MambaLm;

    fn check_source(&self, model: &MambaLm, bounds: Bounds) -> Result<()> {
        let tokens = bounds.inputs.max(bounds.targets);
        if tokens <= model.config().vocab_size {
            return Ok(());
        }
        Err(Error::Model(serpens_nn::Error::Config {
            field: "model.vocab_size".to_owned(),
            found: model.config().vocab_size as f64,
            allowed: tokens as f64..=f64::MAX,
        }))
    }

    fn check_batch(&self, model: &MambaLm, batch: &Batch<Numbers>) -> serpens_core::Result<()> {
        check_ids(batch.inputs.ids(), model.config().vocab_size)?;
        check_targets(batch.targets.ids(), model.config().vocab_size)
    }

    fn loss(
        &self,
        model: &MambaLm,
        inputs: &Var,
        targets: &Tensor,
        sequence: &Sequence<'_>,
    ) -> serpens_core::Result<Loss> {
        let logits = model.forward(inputs, sequence, None)?;
        let loss = cross_entropy(logits, targets)?;
        Ok(Loss {
            value: loss.loss,
            totals: Some(loss.totals),
        })
    }
}

/// Where sequences start in these positions of a batch's rows, which go on from what was read before.
pub(crate) fn starts<N>(
    batch: &Batch<N>,
    positions: Range<usize>,
) -> serpens_core::Result<Option<Starts>> {
    let Some(starts) = &batch.starts else {
        return Ok(None);
    };
    let mut ids = Vec::with_capacity(batch.batch * (positions.len() + 1));
    for row in starts.chunks(batch.length.max(1)) {
        let mut id = 0;
        ids.push(id); // the position before
        ids.extend(row[positions.clone()].iter().map(|&starts| {
            id += u32::from(starts);
            id
        }));
    }
    let starts = Starts::from_sequence_ids(&ids, batch.batch)?;
    starts.chunk(1..positions.len() + 1).map(Some)
}

/// A model, what it learns, and the optimiser that changes it.
pub(crate) struct Learner<O: Objective> {
    pub(crate) objective: O,
    pub(crate) model: O::Model,
    pub(crate) optimizer: Optimizer,
}
