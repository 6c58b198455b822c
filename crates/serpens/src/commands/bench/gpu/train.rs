//! Training steps of language models through the trainer: forward, loss, backward, clipping, AdamW, with the tokens brought from
//! the host and the loss read back.

use std::sync::atomic::AtomicBool;

use serpens_core::Device;
use serpens_data::{Batch, Bounds, Source};
use serpens_nn::{MambaLmConfig, Precision, Recompute};
use serpens_train::{Compute, Event, NextToken, Observer, Run, StepMetrics, TrainConfig, Trainer};

use super::super::median;
use super::published::{Published, TRAINING_LENGTH, TRAININGS, VOCABULARY};
use super::{Bench, Row, Table, or};
use crate::Result;

/// Steps that are not counted: kernels are compiled, buffers found, the step recorded as a graph.
const WARM_UP: usize = 5;

/// A model and its batches.
struct Case {
    name: String,
    config: MambaLmConfig,
    batch: usize,
    length: usize,
    published: Option<(Published, f64)>,
}

pub(super) fn table(bench: &Bench<'_>) -> Result<Table> {
    let mut rows = Vec::new();
    for case in cases(bench) {
        bench.clock.device.release_unused();
        rows.push(case.measure(bench)?);
    }
    Ok(Table {
        title: "Training: forward, loss, backward, clipping, AdamW (official: mamba_ssm 2.3.2 on an H200)",
        rows,
    })
}

fn cases(bench: &Bench<'_>) -> Vec<Case> {
    if bench.as_published() {
        let case = |training: super::published::Training| Case {
            name: training.name.to_owned(),
            config: MambaLmConfig::new(training.width, training.layers, VOCABULARY),
            batch: training.batch,
            length: TRAINING_LENGTH,
            published: Some((training.rate, training.memory)),
        };
        return TRAININGS.map(case).into();
    }
    let (shapes, first) = (bench.shapes, TRAININGS[0]);
    let width = or(shapes.width, first.width);
    let (layers, vocabulary) = (
        or(shapes.layers, first.layers),
        or(shapes.vocab, VOCABULARY),
    );
    let lengths = shapes.lengths(TRAINING_LENGTH).into_iter();
    lengths
        .map(|length| Case {
            name: "model".into(),
            config: MambaLmConfig::new(width, layers, vocabulary),
            batch: shapes.batch(first.batch),
            length,
            published: None,
        })
        .collect()
}

impl Case {
    fn measure(&self, bench: &Bench<'_>) -> Result<Row> {
        let (device, precision) = (bench.clock.device, bench.precision());
        let recompute = bench.shapes.recompute.unwrap_or(Recompute::None);
        let model = self.config.init(Device::Cpu, 0)?;
        let source = Tokens {
            vocabulary: self.config.vocab_size,
            batch: self.batch,
            length: self.length,
        };
        let config = TrainConfig {
            steps: (WARM_UP + bench.clock.runs) as u64,
            log_every: 1,
            ..TrainConfig::default()
        };
        device.reset_high_water();
        let mut trainer =
            Trainer::new(NextToken, model, Box::new(source), config)?.on(Compute {
                device,
                precision,
                recompute,
            })?;
        let mut steps = Steps::default();
        trainer.run(Run {
            dir: None,
            observer: &mut steps,
            stop: &AtomicBool::new(false),
            evaluate: None,
        })?;
        Ok(self.row(&steps.0[WARM_UP..], precision, recompute))
    }

    fn row(&self, steps: &[StepMetrics], precision: Precision, recompute: Recompute) -> Row {
        let rate = median(steps.iter().map(|step| step.tokens_per_second).collect());
        let MambaLmConfig {
            d_model,
            n_layer,
            vocab_size,
            ..
        } = self.config;
        let (name, batch, length) = (&self.name, self.batch, self.length);
        let again = match recompute {
            Recompute::None => String::new(),
            Recompute::Scan | Recompute::Layer => format!(", recomputing the {recompute}"),
        };
        let work = format!(
            "{name}: {n_layer} × {d_model}, V {vocab_size}, B {batch}, L {length}, {precision}{again}"
        );
        let most = steps
            .iter()
            .map(|step| step.memory)
            .max()
            .unwrap_or_default();
        let milliseconds = 1e3 * (batch * length) as f64 / rate;
        let mut row = Row::new(work, rate, "tokens/s")
            .beside(self.published.map(|(rate, _)| rate))
            .with("ms", milliseconds)
            .with("GiB", most as f64 / 2.0_f64.powi(30));
        if let Some((_, memory)) = self.published {
            row = row.with("official GiB", memory);
        }
        match steps
            .last()
            .and_then(|step| step.mfu.zip(Some(step.tokens_per_second)))
        {
            Some((mfu, at)) => row.with("MFU", mfu * rate / at),
            None => row,
        }
    }
}

/// The figures of every step.
#[derive(Default)]
struct Steps(Vec<StepMetrics>);

impl Observer for Steps {
    fn event(&mut self, event: &Event<'_>) -> serpens_train::Result<()> {
        if let Event::Stepped(metrics) = event {
            self.0.push((*metrics).clone());
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
    fn batch(&self, index: u64) -> serpens_data::Result<Batch> {
        let from = index as usize * self.batch * self.length;
        let token = |i: usize| (i.wrapping_mul(7919) % self.vocabulary) as u32;
        let to = from + self.batch * self.length;
        Ok(Batch {
            inputs: (from..to).map(token).collect(),
            targets: (from + 1..to + 1).map(token).collect(),
            batch: self.batch,
            length: self.length,
        })
    }

    fn bounds(&self) -> Bounds {
        Bounds::tokens(self.vocabulary)
    }

    fn description(&self) -> String {
        "bench".into()
    }
}
