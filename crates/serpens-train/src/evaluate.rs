//! How good a model is.

use serpens_core::Tensor;
use serpens_data::{Batch, ByteCorpus, IGNORE, InductionHeads, Split};
use serpens_nn::layers::Sequence;
use serpens_nn::{LmState, MambaLm};
use serpens_ops::cross_entropy::cross_entropy;

use crate::Result;

/// Positions that [`accuracy`] reads at a time.
const CHUNK: usize = 512;

/// Sums over targets.
#[derive(Clone, Copy, Default)]
struct Score {
    nats: f64,
    count: usize,
    correct: usize,
}

/// Bits per byte on a part of a corpus, read from beginning to end in `streams` rows with carried state, `length` bytes at a
/// time: Σ -log2 p(byte | the bytes of its row before it), over the number of bytes predicted, each once.
pub fn bits_per_byte(
    model: &MambaLm,
    corpus: &ByteCorpus,
    split: Split,
    streams: usize,
    length: usize,
) -> Result<f64> {
    let mut state = model.initial_state(streams)?;
    let mut score = Score::default();
    for batch in corpus.slices(split, streams, length)? {
        read(model, &batch, 0..batch.length, &mut state, &mut score)?;
    }
    Ok(score.nats / score.count.max(1) as f64 / std::f64::consts::LN_2)
}

/// The share of the counted targets of these batches that have the largest logit.
pub fn accuracy(model: &MambaLm, batches: impl IntoIterator<Item = Batch>) -> Result<f64> {
    let mut score = Score::default();
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
    let mut score = Score::default();
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

fn read_in_chunks(model: &MambaLm, batch: &Batch, chunk: usize, score: &mut Score) -> Result<()> {
    let mut state = model.initial_state(batch.batch)?;
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
    score: &mut Score,
) -> Result<()> {
    let piece = |values: &[u32]| -> Vec<u32> {
        let rows = values.chunks(batch.length.max(1));
        rows.flat_map(|row| &row[positions.clone()])
            .copied()
            .collect()
    };
    let (inputs, targets) = (piece(&batch.inputs), piece(&batch.targets));
    let (shape, device) = ([batch.batch, positions.len()], model.device());
    let ids = Tensor::from_slice(shape, &inputs, device)?;
    let hidden = model.hidden(&ids.into(), &Sequence::default(), Some(state))?;
    if targets.iter().all(|&target| target == IGNORE) {
        return Ok(());
    }
    let targets = Tensor::from_slice(shape, &targets, device)?;
    let totals = cross_entropy(model.logits(&hidden)?, &targets)?.read()?;
    score.nats += totals.sum;
    score.count += totals.count;
    score.correct += totals.correct;
    Ok(())
}
