//! Text: predict the next token, a byte where no tokenizer is given.

use std::f64::consts::LN_2;
use std::ops::{ControlFlow, RangeInclusive};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serpens_data::{Corpus, CorpusSource, Slices, Source, Split, Tokenizer};
use serpens_infer::{Batching, Request, SampleOptions, Told, encode_prompt, generate};
use serpens_nn::MambaLm;
use serpens_report::{LineChart, Series, Table, grouped};
use serpens_train::{Evaluation, NextToken, Result as TrainResult, StepMetrics, evaluate, go_on};
use smart_default::SmartDefault;

use super::trained::{Trained, chart, series};
use super::{OpenTask, READ_LENGTH, Results, Task, TaskSettings, TestConfig, Validation};
use crate::output::{OutputMode, counted, figure};
use crate::progress::Meter;
use crate::refusal::Refusal;
use crate::stop::STOP;
use crate::{Error, Result};

/// Rows in which held-out text is read.
const READ_ROWS: usize = 8;
/// Tokens of a sample of text.
const SAMPLE_TOKENS: usize = 600;
/// The name of what is told of held-out text.
const BITS: &str = "bits_per_byte";

/// Settings of the text task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// A file, a folder or a glob: text, or a token file.
    pub data: Option<String>,
    /// What makes tokens.
    #[serde(skip_serializing_if = "TokenizerSetting::is_bytes")]
    pub tokenizer: TokenizerSetting,
    /// Rows of a batch.
    #[default = 8]
    pub batch: usize,
    /// Tokens of a row.
    #[default = 256]
    pub length: usize,
    /// The share at the end that is held out; 0 for none.
    #[default = 0.1]
    pub validation: f64,
    /// What a sample of the trained model continues.
    #[default = "\n"]
    pub prompt: String,
}

/// A tokenizer's file or folder; tokens are the model's that is gone on from where none is named, otherwise bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenizerSetting {
    /// The file or folder.
    pub path: Option<String>,
    /// The same, where it was opened with the model that is gone on from.
    #[serde(skip)]
    pub(crate) opened: Option<Tokenizer>,
}

impl TokenizerSetting {
    fn is_bytes(&self) -> bool {
        self.path.is_none()
    }

    pub(super) fn open(&self) -> Result<Tokenizer> {
        match (&self.opened, &self.path) {
            (Some(tokenizer), _) => Ok(tokenizer.clone()),
            (None, None) => Ok(Tokenizer::bytes()),
            (None, Some(path)) => {
                let opened = Tokenizer::open(Path::new(path));
                opened.map_err(|error| Error::refused("task.tokenizer", error))
            }
        }
    }

    /// The sizes that a model's vocabulary may have.
    pub(super) fn vocabulary(&self, tokens: usize) -> RangeInclusive<usize> {
        match self {
            Self {
                path: None,
                opened: None,
            } => tokens..=tokens,
            _ => tokens..=usize::MAX, // models have room for more, up to a round number
        }
    }
}

impl TaskSettings for TextConfig {
    fn data(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.data)
    }

    fn tokenizer(&mut self) -> Option<&mut TokenizerSetting> {
        Some(&mut self.tokenizer)
    }

    fn largest_batch(&self) -> [usize; 2] {
        [self.batch, self.length]
    }

    fn open(&self, seed: u64, tests: &TestConfig) -> Result<OpenTask> {
        let Some(data) = &self.data else {
            return Err(Error::refused("--data", Refusal::NoText));
        };
        let corpus = Corpus::open::<Error>(
            data,
            &serpens_data::Content::Text,
            &self.tokenizer.open()?,
            &[],
            &mut |_, _| Ok(()),
        )?
        .with_validation_fraction(self.validation)?;
        let source = corpus.windows(self.batch, self.length, seed)?;
        let prompt = encode_prompt(corpus.tokenizer(), self.prompt.as_bytes(), false)
            .map_err(|error| Error::refused("task.prompt", error))?;
        if prompt.is_empty() {
            return Err(Error::refused("task.prompt", Refusal::Empty));
        }
        let tokens = corpus.tokenizer().vocab_size();
        let slices = |length| {
            let slices = corpus.slices(Split::Validation, READ_ROWS, length)?;
            Ok::<_, Error>(slices.at_most(tests.tokens))
        };
        let held_out = || Ok::<_, Error>([slices(READ_LENGTH)?, slices(self.length)?]);
        let held_out = (self.validation > 0.0).then(held_out).transpose()?;
        Ok(OpenTask::Writes(Box::new(Text {
            held_out,
            data: data.clone(),
            vocabulary: self.tokenizer.vocabulary(tokens),
            corpus,
            source,
            prompt,
        })))
    }
}

struct Text {
    data: String,
    /// The sizes that a model's vocabulary may have.
    vocabulary: RangeInclusive<usize>,
    corpus: Corpus,
    source: CorpusSource,
    /// What is read of the held-out text, where there is any: by models whose sequences have no end, and by others, in
    /// windows as they are trained on.
    held_out: Option<[Slices; 2]>,
    prompt: Vec<u32>,
}

/// How well a model of this name predicts the held-out text.
fn bits(name: &str, model: &MambaLm, text: &[Slices; 2], mode: OutputMode) -> TrainResult<f64> {
    let text = &text[usize::from(model.config().caches())];
    let mut meter = Meter::new(mode, format!("{name}, held-out text"), text.tokens());
    let totals = evaluate::text(model, text.clone(), &mut |done| meter.at(done))?;
    Ok(totals.bits_per_byte())
}

impl Text {
    /// What a token is.
    fn unit(&self) -> &'static str {
        match self.corpus.tokenizer().is_bytes() {
            true => "byte",
            false => "token",
        }
    }

    fn what_is_read(&self, held_out: &Slices, trained: &[Trained]) -> String {
        let (read, all) = (
            held_out.tokens(),
            self.corpus.split_tokens(Split::Validation),
        );
        let of = match read < all {
            true => format!(", spread evenly over the {} held out", grouped(all)),
            false => String::new(),
        };
        let read = counted(read as u64, self.unit());
        let caches = trained.iter().any(|it| it.model.config().caches());
        let how = match caches {
            true => "in windows as long as in training",
            false => "in order with carried state",
        };
        format!("{read} that training never saw{of}, read {how}.")
    }

    /// Text that a model writes.
    fn written_by(&self, model: &MambaLm) -> Result<Vec<u8>> {
        let tokenizer = self.corpus.tokenizer();
        // No more than caches hold.
        let context = model.config().context().unwrap_or(usize::MAX);
        let most = context.saturating_sub(self.prompt.len());
        if most == 0 {
            return Ok(Vec::new());
        }
        let request = Request {
            prompt: self.prompt.clone(),
            sampling: SampleOptions {
                temperature: 0.8,
                top_p: 0.95,
                ..SampleOptions::default()
            },
            tokens: SAMPLE_TOKENS.min(most),
            ends: tokenizer.end_of_text().to_vec(),
            ..Request::default()
        };
        let mut written = Vec::new();
        generate(model, [request], Batching::default(), |_, told| {
            if let Told::Token(drawn) = told {
                written.push(drawn.token);
            }
            go_on(&STOP)?;
            Ok::<_, Error>(ControlFlow::Continue(()))
        })?;
        Ok(tokenizer.decode(&written))
    }
}

impl Task for Text {
    fn head(&self) {}

    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.source.clone())
    }

    fn vocabulary(&self) -> RangeInclusive<usize> {
        self.vocabulary.clone()
    }

    fn about(&self) -> Option<String> {
        let tokens = |split| self.corpus.split_tokens(split);
        let learnt = counted(tokens(Split::Train) as u64, self.unit());
        let held_out = grouped(tokens(Split::Validation));
        let files = match self.corpus.files() {
            1 => String::new(),
            files => format!(", {} files", grouped(files)),
        };
        let data = &self.data;
        Some(format!(
            "text {data}{files}: {learnt} to learn from, {held_out} held out"
        ))
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(self.corpus.tokenizer())
    }

    fn validation(
        &self,
        name: &'static str,
        mode: OutputMode,
    ) -> Option<Validation<'_, NextToken>> {
        let held_out = self.held_out.as_ref()?;
        Some(Box::new(move |model| {
            let bits = bits(name, model, held_out, mode)?;
            Ok(Evaluation {
                values: vec![(BITS.into(), bits)],
            })
        }))
    }

    fn quality(&self, metrics: &StepMetrics) -> String {
        figure(BITS, metrics.bits() / self.corpus.bytes_per_token())
    }

    fn curves(&self, trained: &[Trained]) -> Vec<LineChart> {
        let each = self.corpus.bytes_per_token();
        let mut all = series(trained, |line| line.loss / LN_2 / each);
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
                self.what_is_read(&held_out[0], trained),
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
                (None, None) => {
                    let last = trained.steps.last().map_or(f64::NAN, StepMetrics::bits);
                    last / self.corpus.bytes_per_token()
                }
            };
            Ok(format!("{bits:.3}"))
        })
    }

    fn texts(&self, trained: &[Trained]) -> Result<Vec<(String, Vec<u8>)>> {
        let first = trained.iter().take(1);
        let texts = first.map(|first| Ok(("A sample".into(), self.written_by(&first.model)?)));
        texts.collect()
    }
}
