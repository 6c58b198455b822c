//! Training steps of language models through the trainer: forward, loss, backward, clipping, AdamW, with the tokens
//! brought from the host and the loss read back.

use std::sync::atomic::AtomicBool;

use serpens_core::Device;
use serpens_data::{Batch, Bounds, Numbers, Source};
use serpens_nn::{MambaLmConfig, Module, Recompute};
use serpens_train::{Compute, Event, NextToken, Observer, Run, StepMetrics, TrainConfig, Trainer};

use super::cases::token;
use super::published::{TRAINING_LENGTH, TRAININGS, Training, VOCABULARY};
use super::{Bench, Row, Table, median};
use crate::Result;

/// Steps that are not counted: kernels are compiled, buffers found, the step recorded as a graph.
const WARM_UP: usize = 5;

/// (what it is, width, layers, vocabulary)
const ON_PROCESSOR: [(&str, usize, usize, usize); 2] = [
    ("byte model", 128, 4, 256),
    ("the main job's model", 64, 2, 16),
];

pub(super) fn on_processor(bench: &Bench<'_>) -> Result<Table> {
    let (batch, length) = (8, 256);
    let row = |(name, width, layers, vocabulary)| {
        let config = MambaLmConfig::new(width, layers, vocabulary);
        let flops = 3.0 * config.plan()?.flops_per_token()?;
        let (rate, _, new_buffers) = measure(bench, &config, batch, length, 4)?;
        let of_peak = rate * flops / bench.limits.products(bench.precision);
        let work =
            format!("{name}: {layers} × {width}, V {vocabulary}, batch {batch}, length {length}");
        Ok(Row::new(work, rate, "tokens/s")
            .with("matrix products, of their peak", of_peak)
            .with("new buffers", new_buffers as f64))
    };
    Ok(Table {
        title: "Training, f32: forward, loss, backward, clipping, AdamW",
        rows: ON_PROCESSOR.into_iter().map(row).collect::<Result<_>>()?,
    })
}

pub(super) fn on_gpu(bench: &Bench<'_>) -> Result<Table> {
    let shapes = bench.shapes;
    let (_, published, rate, memory) = TRAININGS[0];
    let named = [shapes.width, shapes.layers, shapes.batch];
    let named = std::array::from_fn(|i| named[i].unwrap_or(published[i]));
    let trainings: &[Training] = match bench.as_published {
        true => &TRAININGS,
        false => &[("model", named, rate, memory)],
    };
    let mut rows = Vec::new();
    for training in trainings {
        for length in shapes.lengths(&[TRAINING_LENGTH]) {
            bench.clock.device.release_unused();
            rows.push(gpu_row(bench, training, length)?);
        }
    }
    let title =
        "Training: forward, loss, backward, clipping, AdamW (official: mamba_ssm 2.3.2 on an H200)";
    Ok(Table { title, rows })
}

fn gpu_row(bench: &Bench<'_>, training: &Training, length: usize) -> Result<Row> {
    let (name, [width, layers, batch], published, memory) = *training;
    let vocabulary = bench.shapes.vocab.unwrap_or(VOCABULARY);
    let config = MambaLmConfig::new(width, layers, vocabulary);
    let (rate, last, _) = measure(bench, &config, batch, length, 1)?;
    let again = match bench.recompute() {
        Recompute::None => String::new(),
        recompute => format!(", recomputing the {recompute}"),
    };
    let precision = bench.precision;
    let work = format!(
        "{name}: {layers} × {width}, V {vocabulary}, B {batch}, L {length}, {precision}{again}"
    );
    let mfu = last.mfu.map(|mfu| mfu * rate / last.tokens_per_second);
    let official = bench.as_published.then_some(memory);
    let row = Row::new(work, rate, "tokens/s");
    Ok(bench
        .beside(row, published)
        .with("ms", 1e3 * (batch * length) as f64 / rate)
        .with("GiB", last.memory as f64 / 2.0_f64.powi(30))
        .with("official GiB", official)
        .with("MFU", mfu))
}

/// Trains a new model; the time is taken of so many steps at once. Gives tokens per second, the figures of the last
/// steps, and how many buffers were asked of the system after the first steps, which fill the pool: a leak.
fn measure(
    bench: &Bench<'_>,
    model: &MambaLmConfig,
    batch: usize,
    length: usize,
    at_once: usize,
) -> Result<(f64, StepMetrics, usize)> {
    let device = bench.clock.device;
    let source = Tokens {
        vocabulary: model.vocab_size,
        batch,
        length,
    };
    let warm_up = WARM_UP.div_ceil(at_once);
    let config = TrainConfig {
        steps: ((warm_up + bench.clock.runs) * at_once) as u64,
        log_every: at_once as u64,
        ..TrainConfig::default()
    };
    let model = model.init(Device::Cpu, 0)?;
    device.reset_high_water();
    let mut trainer = Trainer::new(NextToken, model, Box::new(source), config)?.on(Compute {
        device,
        precision: bench.precision,
        recompute: bench.recompute(),
    })?;
    let mut steps = Steps(device, Vec::new());
    trainer.run(Run {
        dir: None,
        observer: &mut steps,
        stop: &AtomicBool::new(false),
        evaluate: None,
    })?;
    let (first, counted) = (&steps.1[warm_up - 1], &steps.1[warm_up..]);
    let (last, buffers) = &counted[counted.len() - 1];
    let rates = counted.iter().map(|(step, _)| step.tokens_per_second);
    Ok((median(rates.collect()), last.clone(), buffers - first.1))
}

/// The figures of all steps, and how many buffers the device had been asked for by then.
struct Steps(Device, Vec<(StepMetrics, usize)>);

impl Observer for Steps {
    fn event(&mut self, event: &Event<'_>) -> serpens_train::Result<()> {
        if let Event::Stepped(metrics) = event {
            let buffers = self.0.memory().allocations;
            self.1.push(((*metrics).clone(), buffers));
        }
        Ok(())
    }
}

/// Tokens without meaning.
struct Tokens {
    vocabulary: usize,
    batch: usize,
    length: usize,
}

impl Source for Tokens {
    fn batch(&self, index: u64) -> serpens_data::Result<Batch<Numbers>> {
        let from = index as usize * self.batch * self.length;
        let to = from + self.batch * self.length;
        let token = |i| token(i, self.vocabulary);
        Ok(Batch {
            starts: None,
            inputs: (from..to).map(token).collect::<Vec<u32>>(),
            targets: (from + 1..to + 1).map(token).collect::<Vec<u32>>(),
            batch: self.batch,
            length: self.length,
        }
        .into())
    }

    fn bounds(&self) -> Bounds {
        Bounds::tokens(self.vocabulary)
    }

    fn description(&self) -> String {
        "bench".into()
    }
}
