//! Induction heads: find what followed the special token the first time, however long ago that was.

use std::ops::RangeInclusive;

use serpens_data::{InductionHeads, Source};
use serpens_nn::MambaLm;
use serpens_report::{LineChart, Scale, Series, Table, grouped};
use serpens_train::evaluate;

use super::results::{Results, percent};
use super::{Showcase, Task, TaskSettings, TestConfig};
use crate::output::OutputMode;
use crate::selection::Sample;
use crate::trained::Trained;
use crate::{Error, Result};

pub(super) use serpens_data::InductionHeadsConfig;

/// Tokens of a sequence to look at.
const SAMPLE_LENGTH: usize = 64;

impl TaskSettings for InductionHeadsConfig {
    fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn vocabulary(&self) -> RangeInclusive<usize> {
        self.vocab..=usize::MAX
    }

    fn largest_batch(&self) -> [usize; 2] {
        [self.batch, longest(self)]
    }

    fn sample(&self) -> Result<Option<Sample>> {
        sample(&InductionHeads::new(self.clone())?).map(Some)
    }

    fn open(&self, _seed: u64, tests: &TestConfig) -> Result<Box<dyn Task>> {
        let data = InductionHeads::new(self.clone())?;
        if !tests.lengths.is_empty() {
            let tested = InductionHeads::new(InductionHeadsConfig {
                batch: tests.rows.min(tests.samples),
                lengths: tests.lengths.clone(),
                ..self.clone()
            });
            tested.map_err(|e| Error::setting("evaluate.lengths", e))?;
        }
        Ok(Box::new(Induction {
            data,
            longest: longest(self),
            chance: 1.0 / (self.vocab - 1) as f64,
            tests: tests.clone(),
        }))
    }
}

fn longest(config: &InductionHeadsConfig) -> usize {
    config.lengths.iter().copied().max().unwrap_or_default()
}

/// A sequence in which the special token, what follows it, and the question at the end stand out.
fn sample(task: &InductionHeads) -> Result<Sample> {
    let ids = task.evaluation_batch(1, SAMPLE_LENGTH, 0)?.inputs;
    let special = task.special();
    let name = |&id: &u32| match id == special {
        true => "S".to_owned(),
        false => id.to_string(),
    };
    let stands_out = |t: usize| ids[t] == special || (t > 0 && ids[t - 1] == special);
    Ok(Sample {
        names: ids.iter().map(name).collect(),
        highlight: (0..SAMPLE_LENGTH).map(stands_out).collect(),
        ids,
        about: "an induction-heads sequence: S is the special token, and the answer follows it"
            .into(),
    })
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
    fn source(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(self.data.clone()))
    }

    fn test(
        &self,
        trained: &[Trained],
        mode: OutputMode,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Results> {
        let mut accuracies: Vec<Vec<f64>> = Vec::new();
        for model in trained {
            let mut row = Vec::new();
            for &length in &self.tests.lengths {
                go_on()?;
                let accuracy = self.accuracy(&model.model, length)?;
                announce(model.name, length, accuracy, mode)?;
                row.push(accuracy);
            }
            accuracies.push(row);
        }
        Ok(Results {
            table: self.table(trained, &accuracies),
            sentence: self.sentence(trained, &accuracies),
            figure: Some(self.figure(trained, &accuracies)),
        })
    }

    fn showcase(&self, _trained: &[Trained]) -> Result<Showcase> {
        Ok(Showcase {
            sample: sample(&self.data)?,
            texts: Vec::new(),
        })
    }
}

/// One accuracy, as soon as it is known.
fn announce(model: &str, length: usize, accuracy: f64, mode: OutputMode) -> Result<()> {
    let event = serde_json::json!({
        "event": "tested", "model": model, "length": length, "accuracy": accuracy,
    });
    let (length, share) = (grouped(length), percent(accuracy));
    mode.announce(&format!("{model}: length {length}: {share}"), &event)
}

impl Induction {
    fn accuracy(&self, model: &MambaLm, length: usize) -> Result<f64> {
        let tests = &self.tests;
        let batches = (0..tests.samples).step_by(tests.rows).enumerate();
        let batches = batches.map(|(index, drawn)| {
            let rows = tests.rows.min(tests.samples - drawn);
            self.data.evaluation_batch(rows, length, index as u64)
        });
        Ok(evaluate::accuracy(model, batches, tests.chunk)?)
    }

    fn table(&self, trained: &[Trained], accuracies: &[Vec<f64>]) -> Table {
        let tests = &self.tests;
        let names = trained.iter().map(|model| model.name.to_owned());
        let rows = tests.lengths.iter().enumerate().map(|(i, length)| {
            let cells = accuracies.iter().map(|row| percent(row[i]));
            std::iter::once(grouped(*length)).chain(cells).collect()
        });
        Table {
            title: "Accuracy against length".into(),
            header: std::iter::once("length".to_owned()).chain(names).collect(),
            rows: rows.collect(),
            caption: format!(
                "{} sequences of each length, read in pieces of {} with carried state. Trained at length {} or less; \
                 answering at random is right in {}.",
                tests.samples,
                tests.chunk,
                self.longest,
                percent(self.chance)
            ),
        }
    }

    /// What holds beyond the training length, or within it where nothing else is tested.
    fn sentence(&self, trained: &[Trained], accuracies: &[Vec<f64>]) -> String {
        let (lengths, longest) = (&self.tests.lengths, self.longest);
        if lengths.is_empty() {
            return format!(
                "Trained at length {longest} or less; evaluate.lengths names no tests."
            );
        }
        let beyond = lengths.iter().any(|&length| length > longest);
        let place = if beyond { "beyond it" } else { "within it" };
        let parts = trained.iter().zip(accuracies).map(|(model, row)| {
            let tested = lengths.iter().zip(row);
            let tested = tested.filter(|&(&length, _)| !beyond || length > longest);
            let tested: Vec<f64> = tested.map(|(_, accuracy)| *accuracy).collect();
            match tested.iter().all(|&accuracy| accuracy >= 0.99) {
                true => format!("{} answers right at every length tested", model.name),
                false => {
                    let mean = tested.iter().sum::<f64>() / tested.len() as f64;
                    format!("{} is right in {}", model.name, percent(mean))
                }
            }
        });
        let parts: Vec<String> = parts.collect();
        let parts = parts.join(", ");
        format!("Trained at length {longest} or less; {place}, {parts}.")
    }

    fn figure(&self, trained: &[Trained], accuracies: &[Vec<f64>]) -> LineChart {
        let series = trained.iter().zip(accuracies).map(|(model, row)| {
            let points = self.tests.lengths.iter().zip(row);
            Series {
                name: model.name.to_owned(),
                points: points.map(|(&x, &y)| (x as f64, y)).collect(),
            }
        });
        LineChart {
            title: "Accuracy against length".into(),
            x_label: "sequence length".into(),
            y_label: "accuracy, %".into(),
            x_scale: Scale::Log2,
            y_range: Some((0.0, 1.0)),
            series: series.collect(),
            reference_lines: vec![("chance".into(), self.chance)],
            ..LineChart::default()
        }
    }
}
