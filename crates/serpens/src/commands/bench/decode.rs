//! Decoding: tokens that are drawn one after another, as `serpens generate` does it, against what reading memory allows.

use std::fs;
use std::ops::ControlFlow;
use std::time::Instant;

use serde_json::json;
use serpens_core::{DType, Device};
use serpens_formats::Encoding;
use serpens_infer::{
    Batching, Error as InferError, Request, SequenceState, Told, generate, most_slots,
};
use serpens_nn::{MambaLm, MambaLmConfig, Module, ToInfer};
use serpens_ops::linear::Held;
use serpens_ops::quantized_linear::Blocks;

use super::cases::token;
use super::limits::memory;
use super::published::VOCABULARY;
use super::{Bench, Row, Table, median};
use crate::machine::check_fits;
use crate::progress::waiting;
use crate::refusal::Refusal;
use crate::{Error, Result};

/// How matrices are held where that is not given.
const WEIGHTS: [Encoding; 5] = [
    Encoding::F32,
    Encoding::BF16,
    Encoding::Blocks(Blocks::Q8_0),
    Encoding::Blocks(Blocks::Q4_0),
    Encoding::Blocks(Blocks::Q4_K),
];
/// The part of the values from which on an encoding is named that is not the one asked for.
const NAMED: f64 = 0.05;
/// Sequences side by side, as many of the first as the processor is asked for.
const BATCHES: [usize; 5] = [1, 8, 64, 128, 512];
const ON_PROCESSOR: usize = 3;
/// Prompts' lengths, as many of the first as a quick run takes.
const LENGTHS: [usize; 4] = [64, 1024, 8192, 65_536];
const QUICK: usize = 2;
/// Tokens that are not counted at first, and of each sequence at most.
const WARM: usize = 3;
const MOST_STEPS: usize = 1 << 20;
/// Seconds that a run lasts at least.
const SHORTEST: f64 = 0.02;

/// By weights and batch.
pub(super) fn by_batch(bench: &Bench<'_>) -> Result<Table> {
    let batches = match bench.clock.device {
        Device::Cpu => &BATCHES[..ON_PROCESSOR],
        Device::Cuda(_) => &BATCHES,
    };
    let batches = bench
        .shapes
        .batch
        .map_or(batches.to_vec(), |batch| vec![batch]);
    let mut rows = Vec::new();
    let named = bench.shapes.weights.map(|weights| vec![weights]);
    for weights in named.unwrap_or(WEIGHTS.to_vec()) {
        let Some(model) = model(bench, weights)? else {
            continue;
        };
        let start = SequenceState::new(&model)?;
        for batch in &batches {
            rows.push(decode(bench, (&model, weights), *batch, &start, "")?);
        }
    }
    Ok(Table {
        title: "Decoding (of bandwidth: bytes of weights and states over those that memory gives then; above 1 they come from caches)",
        rows,
    })
}

/// Behind prompts of several lengths.
pub(super) fn by_length(bench: &Bench<'_>) -> Result<Table> {
    let lengths = if bench.quick {
        &LENGTHS[..QUICK]
    } else {
        &LENGTHS
    };
    let weights = bench.shapes.weights.unwrap_or(Encoding::BF16);
    let batch = bench.shapes.batch.unwrap_or(1);
    let mut rows = Vec::new();
    if let Some(model) = model(bench, weights)? {
        for length in bench.shapes.lengths(lengths) {
            let ids = (0..length).map(|i| token(i, model.config().vocab_size));
            let ids: Vec<u32> = ids.collect();
            let name = format!("reading {length} tokens");
            let state = waiting(&name, || SequenceState::new(&model)?.read(&model, &ids))?;
            let behind = format!(", behind {length} tokens");
            rows.push(decode(bench, (&model, weights), batch, &state, &behind)?);
        }
    }
    Ok(Table {
        title: "Decoding behind prompts",
        rows,
    })
}

/// The 130m shape, or the one that was named, with random weights; none where the device does not multiply with such.
fn model(bench: &Bench<'_>, weights: Encoding) -> Result<Option<MambaLm>> {
    let shapes = bench.shapes;
    let (width, layers) = (shapes.width.unwrap_or(768), shapes.layers.unwrap_or(24));
    let how = ToInfer {
        device: bench.clock.device,
        precision: bench.precision,
        weights: Some(weights),
    };
    if let Err(wrong) = how.check() {
        return shapes.weights.map_or(Ok(None), |_| Err(wrong.into()));
    }
    let config = MambaLmConfig::new(width, layers, shapes.vocab.unwrap_or(VOCABULARY));
    let mut model = config.init(Device::Cpu, 0)?;
    model.to_infer(how)?;
    Ok(Some(model))
}

/// Tokens per second of so many sequences together, all of which go on from one state, of a model whose weights were
/// asked to be so.
fn decode(
    bench: &Bench<'_>,
    (model, weights): (&MambaLm, Encoding),
    batch: usize,
    start: &SequenceState,
    behind: &str,
) -> Result<Row> {
    let config = model.config();
    let states = bench.shapes.states.unwrap_or(DType::F32);
    let allowed = 1..=most_slots(bench.clock.device) as u64;
    if !allowed.contains(&(batch as u64)) {
        let found = batch as u64;
        return Err(Error::refused("--batch", Refusal::Range { found, allowed }));
    }
    let slot = model.stepper()?.slots(model, 1, states)?.bytes_per_slot();
    if bench.clock.device == Device::Cpu {
        // Slots are taken one by one there, and those that are left behind are there too while they become more.
        let each = 2 * (slot + size_of::<f32>() * config.vocab_size);
        check_fits("--batch", batch as f64, each as f64, bench.clock.device)?;
    }
    let before = memory(&bench.clock)?;
    let batching = Batching {
        slots: batch,
        states,
        ..Batching::default()
    };
    let (seconds, joules) = generated(bench, model, batching, start)?;
    // It is not the same at all times, where others use it too.
    let memory = before.max(memory(&bench.clock)?);
    let matrices = bytes(model)?;
    // A state is read and written.
    let moved = matrices + (2 * batch * slot) as f64;
    let (layers, width, vocabulary) = (config.n_layer, config.d_model, config.vocab_size);
    let mut others = model.held_otherwise(weights)?;
    others.retain(|_, part| *part >= NAMED);
    let others = others.iter();
    let others = others.map(|(held, part)| format!(" ({:.0} % in {held})", 100.0 * part));
    let (asked, others) = (weights.to_string(), String::from_iter(others));
    let asked = asked.to_lowercase();
    let narrow = match states {
        DType::F32 => String::new(),
        narrow => format!(", states in {narrow}"),
    };
    let shape = format!("{layers} × {width}, V {vocabulary}");
    let work = format!("{asked}{others}, B {batch}, {shape}{narrow}{behind}");
    let mut row = Row::new(work, batch as f64 / seconds, "tokens/s");
    row.sizes = Some(json!({ "weights": asked, "batch": batch, "states": states.to_string() }));
    Ok(row
        .with("ms", 1e3 * seconds)
        .with("of bandwidth", moved / seconds / memory)
        .with("GB/s of memory", memory / 1e9)
        .with("MB of weights", matrices / 1e6)
        .with("J per token", joules.map(|all| all / batch as f64)))
}

/// The median time in seconds from one token of every slot to the next, drawn at temperature 1, and joules for that.
fn generated(
    bench: &Bench<'_>,
    model: &MambaLm,
    batching: Batching<'_>,
    start: &SequenceState,
) -> Result<(f64, Option<f64>)> {
    let runs = bench.clock.runs;
    let (mut times, mut energy, mut joules) = (Vec::new(), None, None);
    let request = Request {
        prompt: vec![0],
        state: Some(start.clone()),
        samples: batching.slots,
        tokens: MOST_STEPS,
        ..Request::default()
    };
    let enough = |times: &[Instant]| {
        let counted = times.get(WARM..).unwrap_or_default();
        let lasted = counted.first().map_or(0.0, |it| it.elapsed().as_secs_f64());
        counted.len() > runs && lasted >= runs as f64 * SHORTEST
    };
    generate(model, [request], batching, |of, told| {
        if of.sample == 0 && matches!(told, Told::Token(_)) {
            times.push(Instant::now());
            if times.len() == WARM + 1 && bench.clock.device == Device::Cpu {
                energy = Energy::now(); // the counters are the processors'
            }
            if enough(&times) {
                joules = energy.as_ref().and_then(Energy::joules_since);
            }
        }
        // Where this is the last token, it is that of all.
        Ok::<_, InferError>(match enough(&times) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    let counted = times.get(WARM..).unwrap_or_default();
    let steps = (counted.len() - 1) / runs;
    let run = |run: usize| counted[(run + 1) * steps] - counted[run * steps];
    let seconds = (0..runs).map(|i| run(i).as_secs_f64() / steps as f64);
    let all = (counted.len() - 1) as f64;
    Ok((median(seconds.collect()), joules.map(|joules| joules / all)))
}

/// Bytes of the parameters that a step reads.
fn bytes(model: &MambaLm) -> Result<f64> {
    let mut matrices = 0;
    let tied = model.config().tie_embeddings;
    model.visit("", &mut |name, param| {
        // Of a table that is no head a step reads single rows.
        if tied || name != "backbone.embeddings.weight" {
            matrices += match param.held()? {
                Held::Plain(values) => values.len() * values.dtype().size(),
                Held::Packed(packed) => packed.bytes(),
            };
        }
        Ok(())
    })?;
    Ok(matrices as f64)
}

/// The counter of the processors' energy, where the system shows it.
struct Energy(u64);

impl Energy {
    fn now() -> Option<Self> {
        let packages = fs::read_dir("/sys/class/powercap").ok()?.flatten();
        // One for each package; what has two colons is a part of one.
        let names =
            packages.filter(|it| it.file_name().to_string_lossy().matches(':').count() == 1);
        let counts = names.map(|it| fs::read_to_string(it.path().join("energy_uj")).ok());
        let counts = counts.map(|text| text?.trim().parse::<u64>().ok());
        let counts: Option<Vec<u64>> = counts.collect();
        let counts = counts.filter(|counts| !counts.is_empty());
        counts.map(|counts| Self(counts.iter().sum()))
    }

    /// Joules since then; none where a counter began anew.
    fn joules_since(&self) -> Option<f64> {
        let microjoules = Self::now()?.0.checked_sub(self.0)?;
        Some(microjoules as f64 / 1e6)
    }
}
