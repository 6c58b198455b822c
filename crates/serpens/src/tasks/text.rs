//! Text, DNA and sound: predict the next token.

use std::f64::consts::LN_2;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serpens_data::baseline::{Markov, Step};
use serpens_data::{
    AudioConfig, AudioForm, Batch, Content, Corpus, CorpusSource, Slices, Source, Split, Tokenizer,
    from_mu_law, spectrogram,
};
use serpens_infer::{SampleOptions, encode_prompt};
use serpens_nn::MambaLm;
use serpens_ops::cross_entropy::Totals;
use serpens_report::{
    Figure, LineChart, Scale, Series, Sound, Spectrogram, Table, Waveform, grouped,
};
use serpens_train::{Evaluation, NextToken, Result as TrainResult, StepMetrics, evaluate, go_on};
use smart_default::SmartDefault;

use super::reads::{Named, Reads};
use super::selection::Sample;
use super::trained::{Trained, chart, series};
use super::written::written;
use super::{
    OpenTask, READ_LENGTH, Results, Task, TaskSettings, TestConfig, TokenizerSetting, Validation,
};
use crate::output::{OutputMode, counted, figure};
use crate::progress::{Meter, watched};
use crate::refusal::Refusal;
use crate::stop::STOP;
use crate::{Error, Result};

/// Rows in which held-out text is read.
const READ_ROWS: usize = 8;
/// Tokens of a sample of text.
const SAMPLE_TOKENS: usize = 600;
/// Seconds of a sample of sound, and of what it goes on from.
const SAMPLE_SECONDS: usize = 4;
/// Samples of a frame of a spectrogram, and how far they are apart.
const FRAME: usize = 512;
const HOP: usize = 128;
/// Nucleotides or samples whose selection is shown.
const SHOWN: usize = 160;
/// Windows of training are this much shorter than those in which the worth of context is looked for.
const CONTEXT: usize = 8;
/// Tokens that a baseline learns from at most: the last ones.
const BASELINE_TOKENS: usize = 100_000_000;

/// The share of them that is counted before the rest is used to weigh orders.
const COUNTED: f64 = 0.9;

/// Settings of the text task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// A file, a folder or a glob, or a token file.
    pub data: Option<String>,
    /// What the files hold.
    #[serde(skip_serializing_if = "is_text")]
    pub content: Content,
    /// What makes tokens of text.
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
    /// The records that are held out in its place, such as contigs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hold_out: Vec<String>,
    /// Whether each window of DNA is, as often as not, its reverse complement.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reverse_complement: bool,
    /// The order of the Markov model that is learnt beside, for comparison; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub baseline: usize,
    /// What a sample of the trained model continues.
    #[default = "\n"]
    pub prompt: String,
}

fn is_text(content: &Content) -> bool {
    *content == Content::Text
}

fn is_zero(order: &usize) -> bool {
    *order == 0
}

impl TextConfig {
    fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.content {
            Content::Text => self.tokenizer.open(),
            other => self.tokenizer.given_by(other),
        }
    }

    /// The sizes that a model's vocabulary may have.
    fn vocabulary(&self, tokens: usize) -> RangeInclusive<usize> {
        match &self.content {
            Content::Text => self.tokenizer.vocabulary(tokens),
            _ => tokens..=usize::MAX,
        }
    }

    /// The corpus, with a line of progress after a second.
    fn corpus(&self, data: &str) -> Result<Corpus> {
        let levels = |audio: &AudioConfig| audio.form == AudioForm::MuLaw;
        let are_tokens = match &self.content {
            Content::Text | Content::Dna(_) => true,
            Content::Audio(audio) => levels(audio),
            Content::Image(_) | Content::Table(_) => false,
        };
        if !are_tokens {
            return Err(Error::refused("task.content", Refusal::NoTokens));
        }
        let mut watch = watched(format!("{data}, bytes read"));
        let tokenizer = self.tokenizer()?;
        let corpus = Corpus::open(data, &self.content, &tokenizer, &self.hold_out, &mut watch)?;
        match self.hold_out.is_empty() {
            true => Ok(corpus.with_validation_fraction(self.validation)?),
            false => Ok(corpus),
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

    fn baseline(&mut self) -> Option<&mut usize> {
        Some(&mut self.baseline)
    }

    fn name(&self, kind: &'static str) -> &'static str {
        match self.content {
            Content::Dna(_) => "dna",
            Content::Audio(_) => "audio",
            _ => kind,
        }
    }

    fn largest_batch(&self) -> [usize; 2] {
        [self.batch, self.length]
    }

    fn open(&self, seed: u64, tests: &TestConfig) -> Result<OpenTask> {
        let Some(data) = &self.data else {
            return Err(Error::refused("--data", Refusal::NoData(self.name("text"))));
        };
        let corpus = self.corpus(data)?;
        let mut source = corpus.windows(self.batch, self.length, seed)?;
        if self.reverse_complement {
            source = source.reverse_complement()?;
        }
        let tokens = corpus.tokenizer().vocab_size();
        let slices = |length| {
            let slices = corpus.slices(Split::Validation, READ_ROWS, length)?;
            Ok::<_, Error>(slices.at_most(tests.tokens))
        };
        let held_out = || Ok::<_, Error>([slices(READ_LENGTH)?, slices(self.length)?]);
        let held_out = match corpus.split_tokens(Split::Validation) {
            0 if self.validation == 0.0 => None,
            _ => Some(held_out()?),
        };
        let task = Text {
            prompt: self.prompt(&corpus)?,
            held_out,
            tests: tests.tokens,
            vocabulary: self.vocabulary(tokens),
            settings: self.clone(),
            corpus,
            source,
        };
        Ok(OpenTask::Writes(Box::new(task)))
    }
}

impl TextConfig {
    /// What a sample continues: of DNA and sound the beginning of what is held out.
    fn prompt(&self, corpus: &Corpus) -> Result<Vec<u32>> {
        if self.content != Content::Text {
            return held_out_tokens(corpus, self.shown());
        }
        let prompt = encode_prompt(corpus.tokenizer(), self.prompt.as_bytes(), false);
        let prompt = prompt.map_err(|error| Error::refused("task.prompt", error))?;
        match prompt.is_empty() {
            true => Err(Error::refused("task.prompt", Refusal::Empty)),
            false => Ok(prompt),
        }
    }

    /// Tokens of what is held out that a sample continues.
    fn shown(&self) -> usize {
        match &self.content {
            Content::Audio(audio) => audio.rate as usize * SAMPLE_SECONDS,
            _ => SHOWN,
        }
    }
}

/// The first tokens of what is held out, or of all.
fn held_out_tokens(corpus: &Corpus, most: usize) -> Result<Vec<u32>> {
    let split = match corpus.split_tokens(Split::Validation) {
        0 => Split::Train,
        _ => Split::Validation,
    };
    let first = corpus.slices(split, 1, most)?.next();
    Ok(first
        .transpose()?
        .map(|batch| batch.inputs)
        .unwrap_or_default())
}

/// The tokens of a row of a batch, with what follows them.
fn following(batch: &Batch, row: usize) -> impl Iterator<Item = Step> + '_ {
    let places = row * batch.length..(row + 1) * batch.length;
    places.map(|at| Step {
        starts: batch.starts.as_ref().is_some_and(|starts| starts[at]),
        token: batch.inputs[at],
        target: batch.targets[at],
    })
}

struct Text {
    settings: TextConfig,
    /// The sizes that a model's vocabulary may have.
    vocabulary: RangeInclusive<usize>,
    corpus: Corpus,
    source: CorpusSource,
    /// What is read of the held-out text, where there is any: by models whose sequences have no end, and by others, in
    /// windows as they are trained on.
    held_out: Option<[Slices; 2]>,
    /// Tokens of it at most.
    tests: usize,
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
        match (&self.settings.content, self.corpus.tokenizer().is_bytes()) {
            (Content::Text, false) => "token",
            (Content::Dna(dna), _) if dna.kmer > 1 => "token",
            (content, _) => content.unit(),
        }
    }

    /// What is told of held-out text: bits for each byte, base or sample.
    fn per(&self) -> String {
        format!("bits per {}", self.settings.content.unit())
    }

    /// The same as a name.
    fn name(&self) -> String {
        self.per().replace(' ', "_")
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

    /// The Markov model's name and its bits, of the order that predicts the held-out text best, where it is asked for.
    fn baseline(&self, held_out: &Slices, mode: OutputMode) -> Result<Option<(String, f64)>> {
        if self.settings.baseline == 0 {
            return Ok(None);
        }
        let (corpus, order) = (&self.corpus, self.settings.baseline);
        let slices = corpus.slices(Split::Train, 1, READ_LENGTH * 64)?;
        let slices = slices.last_of(BASELINE_TOKENS);
        let learnt = (slices.tokens() as f64 * COUNTED) as usize;
        let mut meter = Meter::new(mode, "Markov model".into(), slices.tokens());
        let (mut done, mut failed) = (0, None);
        let batches = slices.map_while(|batch| {
            let read = meter.at(done).map_err(Error::from);
            let batch = read.and_then(|()| Ok(batch?));
            let batch = batch.map_err(|error| failed = Some(error)).ok()?;
            done += batch.length;
            Some(batch)
        });
        let mut steps = batches.flat_map(|batch| following(&batch, 0).collect::<Vec<_>>());
        let vocabulary = corpus.tokenizer().vocab_size();
        let mut markov = Markov::new(vocabulary, order, steps.by_ref().take(learnt))?;
        markov.tune(steps)?;
        if let Some(error) = failed {
            return Err(error);
        }
        let (mut slices, mut read, mut bytes) = (held_out.clone(), Vec::new(), 0);
        while let Some(batch) = slices.next() {
            let batch = batch?;
            bytes += slices.text_bytes(&batch);
            read.push(batch);
        }
        let mut bits = vec![0.0; markov.order() + 1];
        for row in 0..slices.rows() {
            go_on(&STOP)?;
            let told = markov.bits(read.iter().flat_map(|batch| following(batch, row)))?;
            bits.iter_mut()
                .zip(told)
                .for_each(|(sum, bits)| *sum += bits);
        }
        let orders = (0..bits.len()).min_by(|a, b| bits[*a].total_cmp(&bits[*b]));
        let best = orders.expect("there is order 0");
        let name = format!("Markov, order {best} of {}", markov.order());
        Ok(Some((name, bits[best] / bytes as f64)))
    }

    /// How much longer context helps.
    fn by_context(&self, trained: &[Trained], mode: OutputMode) -> Result<Option<LineChart>> {
        let available = self.corpus.split_tokens(Split::Validation) / READ_ROWS;
        let length = (self.settings.length * CONTEXT).min(available);
        let mut all = Vec::new();
        for Trained { name, model, .. } in trained {
            if model.config().caches() || length < 2 {
                continue;
            }
            let windows = self.corpus.slices(Split::Validation, READ_ROWS, length)?;
            let windows = windows.at_most(self.tests);
            let mut meter = Meter::new(mode, format!("{name}, by context"), windows.tokens());
            let watch = &mut |done| meter.at(done);
            let octaves = evaluate::by_context(model, windows, READ_LENGTH, watch)?;
            let each = self.corpus.bytes_per_token();
            let point = |(context, totals): &(usize, Totals)| {
                (*context as f64, totals.mean() / LN_2 / each)
            };
            all.push(Series {
                name: (*name).to_owned(),
                points: octaves.iter().map(point).collect(),
                ..Series::default()
            });
        }
        Ok((!all.is_empty()).then(|| LineChart {
            x_label: format!("{}s before it, at least", self.unit()),
            x_scale: Scale::Log2,
            caption: format!(
                "How well a {} is predicted that has so many before it, up to twice as many, in windows of {} that are each read from no state.",
                self.unit(),
                grouped(length)
            ),
            ..chart("The worth of context", &self.per(), all)
        }))
    }

    /// Sound as it is held out, and as a model goes on with it.
    fn sounds(&self, trained: &[Trained], audio: &AudioConfig) -> Result<Vec<Sound>> {
        let heard = |ids: &[u32]| {
            ids.iter()
                .map(|&id| from_mu_law(id as u8))
                .collect::<Vec<f32>>()
        };
        let beginning = |title: String, samples: &[f32], caption: &str| Sound {
            title,
            waveform: Waveform::new(samples, audio.rate),
            spectrogram: Spectrogram::new(&spectrogram(samples, FRAME, HOP), audio.rate, HOP),
            caption: caption.into(),
        };
        let of = match self.held_out {
            Some(_) => "The beginning of what training never saw.",
            None => "The beginning of what was learnt.",
        };
        let mut sounds = vec![beginning("The sound".into(), &heard(&self.prompt), of)];
        for Trained { name, model, .. } in trained {
            let ids = self.written_by(model, self.prompt.len())?;
            sounds.push(beginning(
                format!("Written by {name}"),
                &heard(&ids),
                "What the model goes on with behind it.",
            ));
        }
        Ok(sounds)
    }

    /// Tokens that a model writes behind the prompt.
    fn written_by(&self, model: &MambaLm, tokens: usize) -> Result<Vec<u32>> {
        let tokenizer = self.corpus.tokenizer();
        let sampling = SampleOptions {
            temperature: if self.settings.content == Content::Text {
                0.8
            } else {
                1.0
            },
            top_p: 0.95,
            ..SampleOptions::default()
        };
        written(model, &self.prompt, tokens, sampling, 0, tokenizer)
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
        let data = self.settings.data.as_deref().unwrap_or_default();
        let kind = self.settings.content.name();
        Some(format!(
            "{kind} {data}{files}: {learnt} to learn from, {held_out} held out"
        ))
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(self.corpus.tokenizer())
    }

    fn save_beside(&self, dir: &Path) -> Result<()> {
        if self.settings.content == Content::Text {
            return Ok(());
        }
        let reads = Reads {
            content: self.settings.content.clone().anywhere(),
            length: self.settings.length,
            answers: Named::Tokens,
        };
        reads.save(dir)
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
                values: vec![(self.name(), bits)],
            })
        }))
    }

    fn quality(&self, metrics: &StepMetrics) -> String {
        figure(&self.name(), metrics.bits() / self.corpus.bytes_per_token())
    }

    fn curves(&self, trained: &[Trained]) -> Vec<LineChart> {
        let each = self.corpus.bytes_per_token();
        let mut all = series(trained, |line| line.loss / LN_2 / each);
        for series in &mut all {
            series.name += " training";
        }
        all.extend(trained.iter().map(|model| {
            let points = model.evaluations.iter().filter_map(|line| {
                let bits = line.evaluation.get(&self.name())?;
                Some((line.step as f64, *bits))
            });
            Series {
                name: format!("{} held out", model.name),
                points: points.collect(),
                ..Series::default()
            }
        }));
        let per = self.per();
        vec![chart(&per.replacen('b', "B", 1), &per, all)]
    }

    fn sample(&self) -> Result<Option<Sample>> {
        if self.settings.content == Content::Text {
            return Ok(None);
        }
        let shown = &self.prompt[..self.prompt.len().min(SHOWN)];
        let about = "the beginning of what is held out, or of all where nothing is".to_owned();
        let sample = match self.settings.content {
            Content::Audio(_) => Sample::ids(shown.to_vec()),
            _ => Sample::text(self.corpus.tokenizer(), shown.to_vec()),
        };
        Ok(Some(Sample { about, ..sample }))
    }

    fn test(&self, trained: &[Trained], mode: OutputMode) -> Result<Results> {
        let (name, per) = (self.name(), self.per());
        let (title, outcome, caption) = match &self.held_out {
            Some(held_out) => (
                "Held-out text",
                format!("{per} on held-out text"),
                self.what_is_read(&held_out[0], trained),
            ),
            None => (
                "Training text",
                format!("{per} in training"),
                "Nothing was held out: what the last steps were trained on.".into(),
            ),
        };
        let table = Table {
            title: title.replace("text", self.settings.content.name()),
            header: vec!["model".into(), per],
            rows: Vec::new(),
            caption,
        };
        let outcome = outcome.replacen('b', "B", 1);
        let outcome = outcome.replace("text", self.settings.content.name());
        let others = match &self.held_out {
            Some([held_out, _]) => self.baseline(held_out, mode)?,
            None => None,
        };
        let others = others.map(|(name, bits)| vec![name, format!("{bits:.3}")]);
        let mut results = Results::one_each(trained, table, others, &outcome, |trained| {
            let bits = match (trained.evaluated(&name), &self.held_out) {
                (Some(bits), _) => bits,
                (None, Some(held_out)) => bits(trained.name, &trained.model, held_out, mode)?,
                (None, None) => {
                    let last = trained.steps.last().map_or(f64::NAN, StepMetrics::bits);
                    last / self.corpus.bytes_per_token()
                }
            };
            Ok(format!("{bits:.3}"))
        })?;
        if self.held_out.is_some() {
            let context = self.by_context(trained, mode)?;
            results.figures.extend(context.map(Figure::from));
        }
        if let Content::Audio(audio) = &self.settings.content {
            let sounds = self.sounds(trained, audio)?;
            results.figures.extend(sounds.into_iter().map(Figure::from));
        }
        Ok(results)
    }

    fn texts(&self, trained: &[Trained]) -> Result<Vec<(String, Vec<u8>)>> {
        if matches!(self.settings.content, Content::Audio(_)) {
            return Ok(Vec::new());
        }
        let first = trained.iter().take(1);
        let texts = first.map(|first| {
            let ids = self.written_by(&first.model, SAMPLE_TOKENS)?;
            Ok(("A sample".into(), self.corpus.tokenizer().decode(&ids)))
        });
        texts.collect()
    }
}
