//! How good a model is.

use serpens_core::{Device, Tensor};
use serpens_data::{Batch, ByteCorpus, IGNORE, InductionHeads, Part};
use serpens_nn::layers::Sequence;
use serpens_nn::{LmState, MambaLm};
use serpens_ops::cross_entropy::{Totals, cross_entropy};

use crate::Result;

/// Positions that [`accuracy`] reads at a time.
const CHUNK: usize = 512;

/// Bits per byte on a part of a corpus, read from beginning to end in `streams` rows with carried state, `length` bytes at a
/// time: Σ -log2 p(byte | the bytes of its row before it), over the number of bytes predicted, each once.
pub fn bits_per_byte(
    model: &MambaLm,
    corpus: &ByteCorpus,
    part: Part,
    streams: usize,
    length: usize,
) -> Result<f64> {
    let mut state = model.initial_state(streams, Device::cpu())?;
    let mut score = Totals::default();
    for batch in corpus.slices(part, streams, length)? {
        read(model, &batch, 0..batch.length, &mut state, &mut score)?;
    }
    Ok(score.mean() / std::f64::consts::LN_2)
}

/// The share of the counted targets of these batches that have the largest logit.
pub fn accuracy(model: &MambaLm, batches: impl IntoIterator<Item = Batch>) -> Result<f64> {
    let mut score = Totals::default();
    for batch in batches {
        read_in_chunks(model, &batch, CHUNK, &mut score)?;
    }
    Ok(score.correct as f64 / score.count.max(1) as f64)
}

/// How [`induction_accuracy`] reads its sequences.
#[derive(Clone, Copy, Debug)]
pub struct LongReading {
    /// Sequences.
    pub samples: usize,
    /// Sequences read side by side.
    pub rows: usize,
    /// Positions read at a time; the state is carried from one piece to the next.
    pub chunk: usize,
}

/// The share of induction-heads sequences of this length whose last token is answered right. But for the tokens themselves,
/// the memory does not depend on the length. The sequences are functions of the task's seed.
pub fn induction_accuracy(
    model: &MambaLm,
    task: &InductionHeads,
    length: usize,
    reading: LongReading,
) -> Result<f64> {
    let mut score = Totals::default();
    let (mut read, mut index) = (0, 0);
    while read < reading.samples {
        let rows = reading.rows.clamp(1, reading.samples - read);
        let batch = task.evaluation_batch(rows, length, index)?;
        read_in_chunks(model, &batch, reading.chunk.max(1), &mut score)?;
        read += rows;
        index += 1;
    }
    Ok(score.correct as f64 / score.count.max(1) as f64)
}

fn read_in_chunks(model: &MambaLm, batch: &Batch, chunk: usize, score: &mut Totals) -> Result<()> {
    let mut state = model.initial_state(batch.batch, Device::cpu())?;
    for from in (0..batch.length).step_by(chunk) {
        let to = batch.length.min(from + chunk);
        read(model, batch, from..to, &mut state, score)?;
    }
    Ok(())
}

/// Reads some positions of every row; logits are computed where a target counts only.
fn read(
    model: &MambaLm,
    batch: &Batch,
    positions: std::ops::Range<usize>,
    state: &mut LmState,
    score: &mut Totals,
) -> Result<()> {
    let piece = |values: &[u32]| -> Vec<u32> {
        let rows = values.chunks(batch.length.max(1));
        rows.flat_map(|row| &row[positions.clone()])
            .copied()
            .collect()
    };
    let (inputs, targets) = (piece(&batch.inputs), piece(&batch.targets));
    let ids = Tensor::from_slice([batch.batch, positions.len()], &inputs, Device::cpu())?;
    let hidden = model.hidden(&ids.into(), &Sequence::default(), Some(state))?;
    let width = hidden.shape().cols();
    let mut counted = Vec::new();
    let mut rows = Vec::new();
    let hidden = hidden.mat()?; // (batch · positions, d_model)
    for (i, &target) in targets.iter().enumerate() {
        if target != IGNORE {
            counted.push(target);
            rows.extend_from_slice(hidden.row(i));
        }
    }
    if counted.is_empty() {
        return Ok(());
    }
    let rows = Tensor::from_slice([counted.len(), width], &rows, Device::cpu())?;
    let targets = Tensor::from_slice([counted.len()], &counted, Device::cpu())?;
    let result = cross_entropy(model.logits(&rows.into())?, &targets)?;
    *score = score.merge(result.read()?);
    Ok(())
}
