//! How good a model is.

use std::ops::Range;

use serpens_core::Tensor;
use serpens_data::{Batch, IGNORE, Numbers, Slices};
use serpens_nn::layers::Sequence;
use serpens_nn::{LmState, MambaLm, Predictor};
use serpens_ops::cross_entropy::{Totals, cross_entropy};
use serpens_ops::embedding::check_ids;

use crate::Result;
use crate::feed::inputs;
use crate::metrics::Metrics;
use crate::objective::starts;

/// Told before each window how many positions were read before it. Its error ends the reading, such as
/// [`Error::Stopped`](crate::Error::Stopped).
pub type Watch<'a> = dyn FnMut(usize) -> Result<()> + 'a;

/// How well a text is predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextTotals {
    /// Its tokens.
    pub tokens: Totals,
    /// The bytes of text that they stand for.
    pub bytes: usize,
}

impl TextTotals {
    /// Σ -log2 p(token) over the bytes.
    pub fn bits_per_byte(&self) -> f64 {
        self.tokens.sum / std::f64::consts::LN_2 / self.bytes as f64
    }
}

/// The tokens that `slices` yields, each once, read with carried state: p(token | those of its row before it, from its
/// document's start on). A model with caches ([`MambaLmConfig::caches`]) reads each slice by itself.
///
/// [`MambaLmConfig::caches`]: serpens_nn::MambaLmConfig::caches
///
/// # Errors
/// Text that cannot be read, memory, or a model of fewer tokens; those of `watch`.
pub fn text(model: &MambaLm, mut slices: Slices, watch: &mut Watch<'_>) -> Result<TextTotals> {
    let mut state = carried(model, slices.rows())?;
    let (mut tokens, mut done, mut bytes) = (Totals::default(), 0, 0);
    while let Some(slice) = slices.next() {
        watch(done)?;
        let slice = slice?;
        tokens = tokens.merge(read(model, &slice, 0..slice.length, state.as_mut())?);
        bytes += slices.text_bytes(&slice);
        done += slice.batch * slice.length;
    }
    Ok(TextTotals { tokens, bytes })
}

/// How well tokens are predicted behind so much context: of windows that are each read from no state, for every power
/// of two 2^k up to their length, the targets at positions 2^k - 1 to 2^(k + 1) - 2, which know 2^k to 2^(k + 1) - 1
/// tokens. Of a row what stands before the first start of another document counts. `chunk` positions are read at a time.
///
/// # Errors
/// Those of the windows and of `watch`; tokens that the model does not know, memory.
pub fn by_context(
    model: &MambaLm,
    windows: impl IntoIterator<Item = serpens_data::Result<Batch>>,
    chunk: usize,
    watch: &mut Watch<'_>,
) -> Result<Vec<(usize, Totals)>> {
    let (mut all, mut done) = (Vec::<(usize, Totals)>::new(), 0);
    for window in windows {
        let window = of_one_document(window?);
        let mut state = model.initial_state(window.batch)?;
        let octaves = (0..).map(|k| (1_usize << k) - 1..(2 << k) - 1);
        let octaves = octaves.take_while(|octave| octave.end <= window.length);
        for (k, octave) in octaves.enumerate() {
            if all.len() == k {
                all.push((1 << k, Totals::default()));
            }
            for from in octave.clone().step_by(chunk.max(1)) {
                let positions = from..octave.end.min(from + chunk.max(1));
                watch(done)?;
                done += window.batch * positions.len();
                let read = read(model, &window, positions, Some(&mut state))?;
                all[k].1 = all[k].1.merge(read);
            }
        }
    }
    all.retain(|(_, totals)| totals.count > 0);
    Ok(all)
}

/// The window with targets up to the end of each row's first document alone.
fn of_one_document(mut window: Batch) -> Batch {
    let Some(starts) = &window.starts else {
        return window;
    };
    let rows = window.targets.chunks_mut(window.length.max(1));
    for (targets, starts) in rows.zip(starts.chunks(window.length.max(1))) {
        let another = starts.iter().skip(1).position(|&starts| starts);
        let first = another.map_or(targets.len(), |place| place + 1);
        targets[first..].fill(IGNORE);
    }
    window
}

/// The counted targets of these batches, and how many of them have the largest logit. `chunk` positions are read at a
/// time and the state is carried on, so that but for the tokens themselves the memory does not depend on the length; a
/// model with caches reads each batch as a whole.
///
/// # Errors
/// Those of the batches and of `watch`; tokens that the model does not know, memory.
pub fn answers(
    model: &MambaLm,
    batches: impl IntoIterator<Item = serpens_data::Result<Batch>>,
    chunk: usize,
    watch: &mut Watch<'_>,
) -> Result<Totals> {
    let (mut totals, mut done, chunk) = (Totals::default(), 0, chunk.max(1));
    for batch in batches {
        let batch = batch?;
        let mut state = carried(model, batch.batch)?;
        let chunk = state.as_ref().map_or(batch.length.max(1), |_| chunk);
        for from in (0..batch.length).step_by(chunk) {
            watch(done)?;
            let to = batch.length.min(from + chunk);
            totals = totals.merge(read(model, &batch, from..to, state.as_mut())?);
            done += batch.batch * (to - from);
        }
    }
    Ok(totals)
}

/// How good the answers to these batches are, each read as a whole.
///
/// # Errors
/// Those of the batches and of `watch`; what the model cannot read, memory.
pub fn predictions(
    model: &Predictor,
    batches: impl IntoIterator<Item = serpens_data::Result<Batch<Numbers>>>,
    watch: &mut Watch<'_>,
) -> Result<Metrics> {
    let (mut metrics, mut done) = (Metrics::of(&model.config().head), 0);
    for batch in batches {
        watch(done)?;
        let batch = batch?;
        metrics.add(&outputs(model, &batch)?, &batch.targets)?;
        done += batch.batch * batch.length;
    }
    Ok(metrics)
}

/// What a model answers to a batch, read as a whole: its outputs, as [`Predictor::forward`] has them.
///
/// # Errors
/// What the model cannot read, memory.
pub fn outputs(model: &Predictor, batch: &Batch<Numbers>) -> Result<Vec<f32>> {
    check_ids(batch.inputs.ids(), model.config().model.vocab_size)?;
    let starts = starts(batch, 0..batch.length)?;
    let sequence = Sequence {
        starts: starts.as_ref(),
        ..Sequence::default()
    };
    let inputs = inputs(batch)?.to(model.device())?;
    let outputs = model.forward(&inputs.into(), &sequence, None)?;
    Ok(outputs.into_tensor()?.to_vec()?)
}

/// The rows that come behind windows, of a model that learnt to tell `x[t + h] − x[t]` ([`serpens_data::Series`]): what it
/// answers at the last row of each, and that row. // (windows, length, channels) → (windows, horizon, channels)
///
/// # Errors
/// As those of [`outputs`].
pub fn forecast(
    model: &Predictor,
    rows: &[f32],
    [windows, length, channels]: [usize; 3],
) -> Result<Vec<f32>> {
    let batch = Batch {
        inputs: Numbers::Values(rows.to_vec()),
        targets: Numbers::Values(Vec::new()),
        starts: None,
        batch: windows,
        length,
    };
    let (outputs, width) = (outputs(model, &batch)?, model.config().head.outputs);
    let windows = rows.chunks(length * channels);
    let told = windows.zip(outputs.chunks(length * width));
    let told = told.flat_map(|(rows, outputs)| {
        let now = rows[(length - 1) * channels..].iter().cycle();
        let changes = &outputs[(length - 1) * width..];
        now.zip(changes).map(|(now, change)| now + change)
    });
    Ok(told.collect())
}

/// The state to read rows from, where it can be carried on whatever comes.
fn carried(model: &MambaLm, rows: usize) -> Result<Option<LmState>> {
    let carries = !model.config().caches();
    Ok(carries.then(|| model.initial_state(rows)).transpose()?)
}

/// Reads some positions of every row; logits are computed where a target counts only.
fn read(
    model: &MambaLm,
    batch: &Batch,
    positions: Range<usize>,
    state: Option<&mut LmState>,
) -> Result<Totals> {
    let (shape, device) = ([batch.batch, positions.len()], model.device());
    let cut = |values: &[u32]| {
        let rows = values.chunks(batch.length.max(1));
        let cut = rows.flat_map(|row| &row[positions.clone()]);
        cut.copied().collect::<Vec<_>>()
    };
    let (inputs, targets) = (cut(&batch.inputs), cut(&batch.targets));
    let ids = Tensor::from_slice(shape, &inputs, device)?;
    let starts = starts(batch, positions.clone())?;
    let sequence = Sequence {
        starts: starts.as_ref(),
        ..Sequence::default()
    };
    let hidden = model.hidden(&ids.into(), &sequence, state)?;
    if targets.iter().all(|&target| target == IGNORE) {
        return Ok(Totals::default());
    }
    let targets = Tensor::from_slice(shape, &targets, device)?;
    Ok(cross_entropy(model.logits(&hidden)?, &targets)?.read()?)
}
