//! Text: predict the next byte.

use std::f64::consts::LN_2;
use std::ops::RangeInclusive;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serpens_data::{ByteCorpus, ByteSlices, ByteSource, ByteSourceConfig, Source, Split};
use serpens_nn::MambaLm;
use serpens_ops::sample::{SampleOptions, Sampler};
use serpens_report::{LineChart, Series, Table, grouped};
use serpens_train::{Evaluate, Evaluation, StepMetrics, evaluate};

use super::{READ_LENGTH, Results, Showcase, Task, TaskSettings, TestConfig};
use crate::continuation::continue_text;
use crate::output::OutputMode;
use crate::refusal::{WrongOption, WrongSetting};
use crate::selection::Sample;
use crate::trained::{Trained, chart, series};
use crate::{Error, Result};

/// Rows in which held-out text is read.
const READ_ROWS: usize = 8;
/// Bytes of a sample of text.
const SAMPLE_BYTES: usize = 600;
/// Characters of it whose selection is shown.
const SHOWN: usize = 96;
/// The name of what is told of held-out text.
const BITS: &str = "bits_per_byte";

/// Settings of the text task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// A file, a folder or a glob.
    pub data: Option<String>,
    /// Rows of a batch.
    pub batch: usize,
    /// Bytes of a row.
    pub length: usize,
    /// The share at the end that is held out.
    pub validation: f64,
    /// What a sample of the trained model continues.
    pub prompt: String,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            data: None,
            batch: 8,
            length: 256,
            validation: 0.1,
            prompt: "\n".into(),
        }
    }
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

    fn open(&self, seed: u64, _tests: &TestConfig) -> Result<Box<dyn Task>> {
        let Some(data) = &self.data else {
            return Err(Error::usage("--data", WrongOption::NoText));
        };
        let corpus = ByteCorpus::open(data)?.with_validation_fraction(self.validation)?;
        let config = ByteSourceConfig {
            batch: self.batch,
            length: self.length,
            seed,
        };
        let source = ByteSource::new(&corpus, config)?;
        if self.prompt.is_empty() {
            return Err(Error::setting("task.prompt", WrongSetting::Empty));
        }
        let prompt = self.prompt.clone();
        let text = Text {
            corpus,
            source,
            prompt,
        };
        text.held_out()?;
        Ok(Box::new(text))
    }
}

struct Text {
    corpus: ByteCorpus,
    source: ByteSource,
    prompt: String,
}

impl Text {
    /// The held-out text, in order.
    fn held_out(&self) -> serpens_data::Result<ByteSlices> {
        self.corpus
            .slices(Split::Validation, READ_ROWS, READ_LENGTH)
    }

    /// Text that a model writes.
    fn written_by(&self, model: &MambaLm) -> Result<String> {
        let mut sampler = Sampler::new(SampleOptions {
            temperature: 0.8,
            top_p: 0.95,
            ..SampleOptions::default()
        })?;
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut bytes = Vec::new();
        continue_text(model, self.prompt.as_bytes(), SAMPLE_BYTES, |logits| {
            let byte = sampler.sample(logits, &[], &mut rng)? as u8;
            bytes.push(byte);
            Ok(Some(byte))
        })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Task for Text {
    fn source(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(self.source.clone()))
    }

    fn validation(&self) -> Option<Box<Evaluate<'_, MambaLm>>> {
        Some(Box::new(|model| {
            let bits = evaluate::bits_per_byte(model, self.held_out()?)?;
            Ok(Evaluation {
                values: vec![(BITS.into(), bits)],
            })
        }))
    }

    fn quality(&self, metrics: &StepMetrics) -> String {
        format!("{:.3} bits/byte", metrics.bits())
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
            }
        }));
        vec![chart("Bits per byte", "bits per byte", all)]
    }

    fn test(
        &self,
        trained: &[Trained],
        _mode: OutputMode,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Results> {
        let held_out = grouped(self.corpus.split_bytes(Split::Validation));
        let table = Table {
            title: "Held-out text".into(),
            header: vec!["model".into(), "bits per byte".into()],
            rows: Vec::new(),
            caption: format!(
                "{held_out} bytes that training never saw, read in order with carried state."
            ),
        };
        let outcome = "Bits per byte on held-out text";
        Results::one_each(trained, go_on, table, outcome, |model| {
            let bits = evaluate::bits_per_byte(model, self.held_out()?)?;
            Ok(format!("{bits:.3}"))
        })
    }

    fn showcase(&self, trained: &[Trained]) -> Result<Showcase> {
        let first = trained.first();
        let text = first.map_or(Ok(String::new()), |first| self.written_by(&first.model))?;
        let shown: String = text.chars().take(SHOWN).collect();
        Ok(Showcase {
            sample: Sample::text(&shown),
            texts: vec![("A sample".to_owned(), text)],
        })
    }
}
