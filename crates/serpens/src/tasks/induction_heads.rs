//! Induction heads: find what followed the special token the first time, however long ago that was.

use std::sync::Arc;

use serpens_core::Device;
use serpens_data::{InductionHeads, Numbers, Source};
use serpens_report::{LineChart, Scale, Series, Share, Table, grouped};
use serpens_train::evaluate;

use super::results::{Results, percent, share};
use super::selection::Sample;
use super::trained::{Trained, chart};
use super::{OpenTask, Task, TaskSettings, TestConfig};
use crate::output::OutputMode;
use crate::progress::Meter;
use crate::{Error, Result, machine};

pub(super) use serpens_data::InductionHeadsConfig;

/// Tokens of a sequence to look at.
const SAMPLE_LENGTH: usize = 64;

impl TaskSettings for InductionHeadsConfig {
    fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn largest_batch(&self) -> [usize; 2] {
        [self.batch, longest(&self.lengths)]
    }

    fn sample(&self) -> Result<Option<Sample>> {
        let task = InductionHeads::new(self.clone())?;
        let ids = task.evaluation_batch(1, SAMPLE_LENGTH, 0)?.inputs;
        let special = task.special();
        let name = |&id: &u32| match id == special {
            true => "S".to_owned(),
            false => id.to_string(),
        };
        // The special token, what follows it, and the question at the end.
        let stands_out = |t: usize| ids[t] == special || (t > 0 && ids[t - 1] == special);
        Ok(Some(Sample {
            names: ids.iter().map(name).collect(),
            highlight: (0..SAMPLE_LENGTH).map(stands_out).collect(),
            inputs: Numbers::Ids(ids),
            about: "an induction-heads sequence: S is the special token, and the answer follows it"
                .into(),
        }))
    }

    fn open(&self, _seed: u64, tests: &TestConfig) -> Result<OpenTask> {
        let data = InductionHeads::new(self.clone())?;
        if !tests.lengths.is_empty() {
            let tested = InductionHeads::new(InductionHeadsConfig {
                batch: tests.rows.min(tests.samples),
                lengths: tests.lengths.clone(),
                ..self.clone()
            });
            tested.map_err(|e| Error::refused("evaluate.lengths", e))?;
            let tokens = tests.rows.min(tests.samples) as f64 * longest(&tests.lengths) as f64;
            // Ids and targets of a batch are there at once.
            machine::check_fits("evaluate.lengths", tokens, 8.0, Device::Cpu)?;
        }
        Ok(OpenTask::Writes(Box::new(Induction {
            data,
            longest: longest(&self.lengths),
            chance: 1.0 / (self.vocab - 1) as f64,
            tests: tests.clone(),
        })))
    }
}

fn longest(lengths: &[usize]) -> usize {
    lengths.iter().copied().max().unwrap_or_default()
}

struct Induction {
    data: InductionHeads,
    /// The longest training sequence.
    longest: usize,
    /// How often an answer at random is right.
    chance: f64,
    tests: TestConfig,
}

impl Task for Induction {
    fn head(&self) {}

    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.data.clone())
    }

    fn test(&self, trained: &[Trained], mode: OutputMode) -> Result<Results> {
        let tested = trained.iter().map(|trained| self.tested(trained, mode));
        let (shares, accuracies): (Vec<_>, Vec<_>) =
            tested.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Results {
            table: self.table(&accuracies, &shares),
            sentence: self.sentence(&accuracies),
            figures: vec![self.figure(accuracies).into()],
        })
    }
}

/// A model's accuracies are a series over the tests' lengths.
impl Induction {
    /// A model's answers at each length.
    fn tested(&self, trained: &Trained, mode: OutputMode) -> Result<(Vec<Share>, Series)> {
        let (tests, name) = (&self.tests, trained.name);
        let positions = |length: &usize| length * tests.samples;
        let all = tests.lengths.iter().map(positions).sum();
        let mut meter = Meter::new(mode, format!("{name}, tests"), all);
        let (mut before, mut shares) = (0, Vec::new());
        let mut series = Series {
            name: name.to_owned(),
            ..Series::default()
        };
        for &length in &tests.lengths {
            let batches = (0..tests.samples).step_by(tests.rows).enumerate();
            let batches = batches.map(|(index, drawn)| {
                let rows = tests.rows.min(tests.samples - drawn);
                self.data.evaluation_batch(rows, length, index as u64)
            });
            let watch = &mut |done| meter.at(before + done);
            let totals = evaluate::answers(&trained.model, batches, tests.chunk, watch)?;
            let share = share(&totals);
            mode.event(&serde_json::json!({
                "event": "tested", "model": name, "length": length,
                "accuracy": share.value(), "interval": share.interval(),
            }));
            series.points.push((length as f64, share.value()));
            series.intervals.push(share.interval());
            shares.push(share);
            before += positions(&length);
        }
        Ok((shares, series))
    }

    fn table(&self, accuracies: &[Series], shares: &[Vec<Share>]) -> Table {
        let tests = &self.tests;
        let mut header = vec!["length".to_owned()];
        header.extend(accuracies.iter().map(|model| model.name.clone()));
        let rows = tests.lengths.iter().enumerate().map(|(i, length)| {
            let cells = shares.iter().map(|model| model[i].to_string());
            std::iter::once(grouped(*length)).chain(cells).collect()
        });
        Table {
            title: "Accuracy against length".into(),
            header,
            rows: rows.collect(),
            caption: format!(
                "{} sequences of each length, read in chunks of {} with carried state (as a whole by models with caches); the 95 % interval in brackets. \
                 Chance is {}.",
                tests.samples,
                tests.chunk,
                percent(self.chance)
            ),
        }
    }

    /// What holds beyond the training length, or within it where nothing else is tested.
    fn sentence(&self, accuracies: &[Series]) -> String {
        let (lengths, longest) = (&self.tests.lengths, self.longest);
        if lengths.is_empty() {
            return format!(
                "Trained at length {longest} or less; evaluate.lengths names no tests."
            );
        }
        let beyond = lengths.iter().any(|&length| length > longest);
        let place = if beyond { "beyond it" } else { "within it" };
        let outcome = |Series { name, points, .. }: &Series| {
            let counts = |(length, _): &&(f64, f64)| !beyond || *length > longest as f64;
            let tested = points.iter().filter(counts);
            let tested: Vec<f64> = tested.map(|(_, accuracy)| *accuracy).collect();
            if tested.iter().all(|&accuracy| accuracy >= 0.99) {
                return format!("{name} answers right at every length tested");
            }
            let mean = tested.iter().sum::<f64>() / tested.len() as f64;
            format!("{name} is right in {}", percent(mean))
        };
        let outcomes: Vec<String> = accuracies.iter().map(outcome).collect();
        let outcomes = outcomes.join(", ");
        format!("Trained at length {longest} or less; {place}, {outcomes}.")
    }

    fn figure(&self, series: Vec<Series>) -> LineChart {
        LineChart {
            x_label: "sequence length".into(),
            x_scale: Scale::Log2,
            y_range: Some((0.0, 1.0)),
            reference_lines: vec![("chance".into(), self.chance)],
            ..chart("Accuracy against length", "accuracy, %", series)
        }
    }
}
