//! Text: predict the next byte.

use std::f64::consts::LN_2;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serpens_data::{ByteCorpus, ByteSlices, ByteSource, ByteSourceConfig, Source, Split};
use serpens_nn::MambaLm;
use serpens_ops::sample::{SampleOptions, Sampler};
use serpens_report::{LineChart, Series, Table, grouped};
use serpens_train::{Evaluation, Result as TrainResult, StepMetrics, evaluate, go_on};
use smart_default::SmartDefault;

use super::continuation::continue_text;
use super::trained::{Trained, chart, series};
use super::{READ_LENGTH, Results, Task, TaskSettings, TestConfig, Validation};
use crate::output::{OutputMode, counted, figure};
use crate::progress::Meter;
use crate::refusal::Refusal;
use crate::stop::STOP;
use crate::{Error, Result};

/// Rows in which held-out text is read.
const READ_ROWS: usize = 8;
/// Bytes of a sample of text.
const SAMPLE_BYTES: usize = 600;
/// The name of what is told of held-out text.
const BITS: &str = "bits_per_byte";

/// Settings of the text task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// A file, a folder or a glob.
    pub data: Option<String>,
    /// Rows of a batch.
    #[default = 8]
    pub batch: usize,
    /// Bytes of a row.
    #[default = 256]
    pub length: usize,
    /// The share at the end that is held out; 0 for none.
    #[default = 0.1]
    pub validation: f64,
    /// What a sample of the trained model continues.
    #[default = "\n"]
    pub prompt: String,
}

impl TaskSettings for TextConfig {
    fn data(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.data)
    }

    fn vocabulary(&self) -> RangeInclusive<usize> {
        256..=256
    }

    fn largest_batch(&self) -> [usize; 2] {
        [self.batch, self.length]
    }

    fn open(&self, seed: u64, tests: &TestConfig) -> Result<Box<dyn Task>> {
        let Some(data) = &self.data else {
            return Err(Error::refused("--data", Refusal::NoText));
        };
        let corpus = ByteCorpus::open(data)?.with_validation_fraction(self.validation)?;
        let config = ByteSourceConfig {
            batch: self.batch,
            length: self.length,
            seed,
        };
        let source = ByteSource::new(&corpus, config)?;
        if self.prompt.is_empty() {
            return Err(Error::refused("task.prompt", Refusal::Empty));
        }
        let held_out = || corpus.slices(Split::Validation, READ_ROWS, READ_LENGTH);
        let held_out = (self.validation > 0.0).then(held_out).transpose()?;
        Ok(Box::new(Text {
            held_out: held_out.map(|slices| slices.at_most(tests.tokens)),
            data: data.clone(),
            corpus,
            source,
            prompt: self.prompt.clone(),
        }))
    }
}

struct Text {
    data: String,
    corpus: ByteCorpus,
    source: ByteSource,
    /// What is read of the held-out text, where there is any.
    held_out: Option<ByteSlices>,
    prompt: String,
}

/// How well a model of this name predicts the held-out text.
fn bits(name: &str, model: &MambaLm, text: &ByteSlices, mode: OutputMode) -> TrainResult<f64> {
    let mut meter = Meter::new(mode, format!("{name}, held-out text"), text.bytes());
    evaluate::bits_per_byte(model, text.clone(), &mut |done| meter.at(done))
}

impl Text {
    fn what_is_read(&self, held_out: &ByteSlices) -> String {
        let (read, all) = (held_out.bytes(), self.corpus.split_bytes(Split::Validation));
        let of = match read < all {
            true => format!(", spread evenly over the {} held out", grouped(all)),
            false => String::new(),
        };
        let read = grouped(read);
        format!("{read} bytes that training never saw{of}, read in order with carried state.")
    }

    /// Text that a model writes.
    fn written_by(&self, model: &MambaLm) -> Result<String> {
        let mut sampler = Sampler::new(SampleOptions {
            temperature: 0.8,
            top_p: 0.95,
            ..SampleOptions::default()
        })?;
        let mut bytes = Vec::new();
        let prompt = self.prompt.as_bytes();
        let (count, quiet) = (SAMPLE_BYTES, OutputMode::Quiet);
        continue_text(model, prompt, count, &mut sampler, 0, quiet, |byte| {
            go_on(&STOP)?;
            bytes.push(byte);
            Ok(true)
        })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Task for Text {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.source.clone())
    }

    fn about(&self) -> Option<String> {
        let bytes = |split| self.corpus.split_bytes(split);
        let learnt = counted(bytes(Split::Train) as u64, "byte");
        let held_out = grouped(bytes(Split::Validation));
        let files = match self.corpus.files() {
            1 => String::new(),
            files => format!(", {} files", grouped(files)),
        };
        let data = &self.data;
        Some(format!(
            "text {data}{files}: {learnt} to learn from, {held_out} held out"
        ))
    }

    fn validation(&self, name: &'static str, mode: OutputMode) -> Option<Validation<'_>> {
        let held_out = self.held_out.as_ref()?;
        Some(Box::new(move |model| {
            let bits = bits(name, model, held_out, mode)?;
            Ok(Evaluation {
                values: vec![(BITS.into(), bits)],
            })
        }))
    }

    fn quality(&self, metrics: &StepMetrics) -> String {
        figure(BITS, metrics.bits())
    }

    fn curves(&self, trained: &[Trained]) -> Vec<LineChart> {
        let mut all = series(trained, |line| line.loss / LN_2);
        for series in &mut all {
            series.name += " training";
        }
        all.extend(trained.iter().map(|model| {
            let points = model.evaluations.iter().filter_map(|line| {
                let bits = line.evaluation.get(BITS)?;
                Some((line.step as f64, *bits))
            });
            Series {
                name: format!("{} held out", model.name),
                points: points.collect(),
                ..Series::default()
            }
        }));
        vec![chart("Bits per byte", "bits per byte", all)]
    }

    fn test(&self, trained: &[Trained], mode: OutputMode) -> Result<Results> {
        let (title, outcome, caption) = match &self.held_out {
            Some(held_out) => (
                "Held-out text",
                "Bits per byte on held-out text",
                self.what_is_read(held_out),
            ),
            None => (
                "Training text",
                "Bits per byte in training",
                "Nothing was held out: what the last steps were trained on.".into(),
            ),
        };
        let table = Table {
            title: title.into(),
            header: vec!["model".into(), "bits per byte".into()],
            rows: Vec::new(),
            caption,
        };
        Results::one_each(trained, table, outcome, |trained| {
            let bits = match (trained.evaluated(BITS), &self.held_out) {
                (Some(bits), _) => bits,
                (None, Some(held_out)) => bits(trained.name, &trained.model, held_out, mode)?,
                (None, None) => trained.steps.last().map_or(f64::NAN, StepMetrics::bits),
            };
            Ok(format!("{bits:.3}"))
        })
    }

    fn texts(&self, trained: &[Trained]) -> Result<Vec<(String, String)>> {
        let first = trained.iter().take(1);
        let texts = first.map(|first| Ok(("A sample".into(), self.written_by(&first.model)?)));
        texts.collect()
    }
}
