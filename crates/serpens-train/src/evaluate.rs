//! How good a language model is.

use std::ops::Range;

use serpens_core::Tensor;
use serpens_data::{Batch, ByteSlices, IGNORE};
use serpens_nn::layers::Sequence;
use serpens_nn::{LmState, MambaLm};
use serpens_ops::cross_entropy::{Totals, cross_entropy};

use crate::Result;

/// Bits per byte on what `slices` yields, read with carried state: Σ -log2 p(byte | the bytes of its row before it),
/// over the number of bytes predicted, each once.
///
/// # Errors
/// Text that cannot be read, memory, or a model of fewer than 256 tokens.
pub fn bits_per_byte(model: &MambaLm, slices: ByteSlices) -> Result<f64> {
    let mut state = model.initial_state(slices.rows())?;
    let mut totals = Totals::default();
    for slice in slices {
        let slice = slice?;
        totals = totals.merge(read(model, &slice, 0..slice.length, &mut state)?);
    }
    Ok(totals.mean() / std::f64::consts::LN_2)
}

/// The share of the counted targets of these batches that have the largest logit. `chunk` positions are read at a time
/// and the state is carried on, so that but for the tokens themselves the memory does not depend on the length.
///
/// # Errors
/// Those of the batches; tokens that the model does not know, memory.
pub fn accuracy(
    model: &MambaLm,
    batches: impl IntoIterator<Item = serpens_data::Result<Batch>>,
    chunk: usize,
) -> Result<f64> {
    let (mut totals, chunk) = (Totals::default(), chunk.max(1));
    for batch in batches {
        let batch = batch?;
        let mut state = model.initial_state(batch.batch)?;
        for from in (0..batch.length).step_by(chunk) {
            let to = batch.length.min(from + chunk);
            totals = totals.merge(read(model, &batch, from..to, &mut state)?);
        }
    }
    Ok(totals.correct as f64 / totals.count.max(1) as f64)
}

/// Reads some positions of every row; logits are computed where a target counts only.
fn read(
    model: &MambaLm,
    batch: &Batch,
    positions: Range<usize>,
    state: &mut LmState,
) -> Result<Totals> {
    let (shape, device) = ([batch.batch, positions.len()], model.device());
    let cut = |values: &[u32]| {
        let rows = values.chunks(batch.length.max(1));
        let cut = rows.flat_map(|row| &row[positions.clone()]);
        cut.copied().collect::<Vec<_>>()
    };
    let (inputs, targets) = (cut(&batch.inputs), cut(&batch.targets));
    let ids = Tensor::from_slice(shape, &inputs, device)?;
    let hidden = model.hidden(&ids.into(), &Sequence::default(), Some(state))?;
    if targets.iter().all(|&target| target == IGNORE) {
        return Ok(Totals::default());
    }
    let targets = Tensor::from_slice(shape, &targets, device)?;
    Ok(cross_entropy(model.logits(&hidden)?, &targets)?.read()?)
}
