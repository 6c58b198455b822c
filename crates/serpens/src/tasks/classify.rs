//! Classification: tell which class a record is of, whatever it holds.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serpens_data::baseline::{
    Logistic, band_features, kmer_counts, spectrum_features, value_features,
};
use serpens_data::{
    AudioForm, Content, LabelledRecords, LabelledSource, Labels, Numbers, Records, Source, Split,
    Tokenizer, Window, from_mu_law,
};
use serpens_nn::{Answer, HeadConfig, Pooling, Predictor};
use serpens_report::{ConfusionMatrix, Figure, Share, Table};
use serpens_train::metrics::{ClassMetrics, Metrics};
use serpens_train::{Evaluation, Predict, Result as TrainResult, evaluate, go_on};
use smart_default::SmartDefault;

use super::kind::Answers;
use super::reads::{Named, Reads};
use super::selection::Sample;
use super::trained::Trained;
use super::{OpenTask, Results, Task, TaskSettings, TestConfig, TokenizerSetting, Validation};
use crate::output::{OutputMode, counted, tell};
use crate::progress::{Meter, watched};
use crate::refusal::Refusal;
use crate::stop::STOP;
use crate::{Error, Result};

/// Different k-mers that a baseline counts, about.
const KINDS: usize = 4096;

/// Windows that a baseline learns from: the first that models do, of as many of each class.
const BASELINE_WINDOWS: u128 = 4000;

/// Positions whose selection is shown.
const SHOWN: usize = 160;

/// Settings of the classification task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifyConfig {
    /// A file, a folder or a glob.
    pub data: Option<String>,
    /// What the files hold; recognised by their names where this is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// What makes tokens of text.
    #[serde(skip_serializing_if = "TokenizerSetting::is_bytes")]
    pub tokenizer: TokenizerSetting,
    /// Where the labels are.
    #[serde(skip_serializing_if = "Labels::is_default")]
    pub labels: Labels,
    /// The groups that are held out; otherwise a share of them is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hold_out: Vec<String>,
    /// The share of each class's groups that is held out.
    #[default = 0.1]
    pub validation: f64,
    /// Rows of a batch.
    #[default = 16]
    pub batch: usize,
    /// Positions of a row.
    #[default = 512]
    pub length: usize,
    /// What a record is answered from.
    #[default(Pooling::Mean)]
    pub pooling: Pooling,
    /// Whether DNA is read on both strands.
    pub both_strands: bool,
    /// The share of each target that is spread over all classes.
    pub smoothing: f32,
}

impl TaskSettings for ClassifyConfig {
    fn data(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.data)
    }

    fn tokenizer(&mut self) -> Option<&mut TokenizerSetting> {
        Some(&mut self.tokenizer)
    }

    fn labels(&mut self) -> Option<&mut Labels> {
        Some(&mut self.labels)
    }

    fn largest_batch(&self) -> [usize; 2] {
        [self.batch, self.length]
    }

    fn open(&self, seed: u64, tests: &TestConfig) -> Result<OpenTask> {
        let Some(data) = &self.data else {
            return Err(Error::refused("--data", Refusal::NoData("classify")));
        };
        let content = match &self.content {
            Some(content) => content.clone(),
            None => Content::recognised(data)?.to_classify(),
        };
        let tokenizer = match &content {
            Content::Text => self.tokenizer.open()?,
            other => self.tokenizer.given_by(other)?,
        };
        let records = read(data, &content, &tokenizer)?;
        let root = Path::new(data);
        let (groups, share) = (&self.hold_out, self.validation);
        let labelled = LabelledRecords::new(records, root, &self.labels, groups, share)?;
        if let [first, rest @ ..] = labelled.unlabelled() {
            let more = counted(rest.len() as u64, "more record");
            tell(&format!(
                "warning: without a label, passed over: {first} and {more}"
            ));
        }
        if labelled
            .counts(Split::Validation)
            .iter()
            .all(|&count| count == 0)
        {
            return Err(Error::refused("task.validation", Refusal::NothingHeldOut));
        }
        let objective = Predict::default().smoothed(self.smoothing)?;
        let channels = labelled.records().channels();
        let vocabulary = if channels > 0 {
            0
        } else {
            tokenizer.vocab_size()
        };
        let complement = self.both_strands.then(|| tokenizer.complement());
        let complement = complement
            .map(|pairs| pairs.ok_or(Error::refused("task.both_strands", Refusal::NoStrands)));
        let source = labelled.source(vocabulary, self.batch, self.length, seed)?;
        let most = (tests.tokens / self.length.max(1)).max(1);
        Ok(OpenTask::Answers(Box::new(Classify {
            held_out: labelled.windows(Split::Validation, self.length, most),
            vocabulary: match channels {
                0 => vocabulary..=usize::MAX,
                _ => 0..=usize::MAX,
            },
            head: Answers {
                channels,
                head: HeadConfig {
                    answer: Answer::Class,
                    outputs: labelled.classes().len(),
                    pooling: Some(self.pooling),
                    complement: complement.transpose()?.unwrap_or_default(),
                },
            },
            reads: Reads {
                content: content.anywhere(),
                length: self.length,
                answers: Named::Classes(labelled.classes().to_vec()),
            },
            settings: self.clone(),
            source: Arc::new(source),
            objective,
            tokenizer,
            labelled,
        })))
    }
}

/// All records, with a line of progress after a second.
pub(crate) fn read(data: &str, content: &Content, tokenizer: &Tokenizer) -> Result<Records> {
    let mut watch = watched(format!("{data}, bytes read"));
    Records::open(data, content, tokenizer, &mut watch)
}

struct Classify {
    settings: ClassifyConfig,
    labelled: LabelledRecords,
    /// What models are tested on.
    held_out: Vec<Window>,
    source: Arc<LabelledSource>,
    vocabulary: RangeInclusive<usize>,
    head: Answers,
    objective: Predict,
    tokenizer: Tokenizer,
    reads: Reads,
}

impl Classify {
    /// How well a model of this name answers.
    fn tested(&self, name: &str, model: &Predictor, mode: OutputMode) -> TrainResult<ClassMetrics> {
        let length = self.settings.length;
        let positions = self.held_out.len() * length;
        let mut meter = Meter::new(mode, format!("{name}, held-out records"), positions);
        let batches = self.held_out.chunks(self.settings.batch);
        let batches = batches.map(|windows| self.labelled.batch(windows, length));
        match evaluate::predictions(model, batches, &mut |done| meter.at(done))? {
            Metrics::Class(metrics) => Ok(metrics),
            _ => unreachable!("a class is what this head answers"),
        }
    }

    /// How well a linear model of simple features answers, and what these are.
    fn baseline(&self) -> Result<(String, ClassMetrics)> {
        let labelled = &self.labelled;
        let described = |windows: &[Window]| {
            let mut all = Vec::new();
            for window in windows {
                go_on(&STOP)?;
                all.extend(self.features(window)?);
            }
            Ok::<_, Error>(all)
        };
        let class = |window: &Window| window.class as u32;
        let learnt: Vec<Window> = (0..BASELINE_WINDOWS)
            .map(|n| self.source.window(n))
            .collect();
        let labels: Vec<u32> = learnt.iter().map(class).collect();
        let classes = labelled.classes().len();
        let model = Logistic::fit(&described(&learnt)?, learnt.len(), &labels, classes)?;
        let probabilities = model.probabilities(&described(&self.held_out)?);
        let logits: Vec<f32> = probabilities
            .iter()
            .map(|p| p.max(f32::MIN_POSITIVE).ln())
            .collect();
        let mut metrics = ClassMetrics::new(classes);
        let targets: Vec<u32> = self.held_out.iter().map(class).collect();
        metrics.add(&logits, &targets)?;
        let of = match &self.reads.content {
            Content::Text | Content::Dna(_) => format!("{}-mers", self.kmer()),
            Content::Audio(_) => "spectrum".into(),
            Content::Image(_) | Content::Table(_) => "means".into(),
        };
        Ok((format!("logistic, {of}"), metrics))
    }

    /// Tokens that are counted together: as many as have a few thousand kinds.
    fn kmer(&self) -> usize {
        let vocabulary = self.tokenizer.vocab_size().max(2) as f64;
        ((KINDS as f64).ln() / vocabulary.ln() + 1e-9).max(1.0) as usize
    }

    /// What the baseline knows of a window.
    fn features(&self, window: &Window) -> Result<Vec<f32>> {
        let records = self.labelled.records();
        Ok(
            match (records.read(window.positions.clone())?, &self.reads.content) {
                (Numbers::Ids(ids), Content::Audio(audio)) => {
                    let samples = ids.iter().map(|&level| from_mu_law(level as u8));
                    spectrum_features(&samples.collect::<Vec<_>>(), audio.rate)
                }
                (Numbers::Ids(ids), _) => {
                    kmer_counts(&ids, self.tokenizer.vocab_size(), self.kmer())?
                }
                (Numbers::Values(bands), Content::Audio(audio)) if audio.form == AudioForm::Mel => {
                    band_features(&bands)
                }
                (Numbers::Values(values), Content::Audio(audio)) => {
                    spectrum_features(&values, audio.rate)
                }
                (Numbers::Values(values), _) => value_features(&values, records.channels()),
            },
        )
    }

    fn confusion(&self, name: &str, metrics: &ClassMetrics) -> Figure {
        ConfusionMatrix {
            title: format!("What {name} answers"),
            classes: self.labelled.classes().to_vec(),
            counts: metrics.confusion().chunks(self.labelled.classes().len()).map(<[u64]>::to_vec).collect(),
            caption: "Rows are the classes that are, columns those that were answered, for each window of held-out records; shaded by the share of its row.".into(),
        }
        .into()
    }
}

/// The cells of a row of the table.
fn row(name: &str, metrics: &ClassMetrics) -> Vec<String> {
    let confusion = metrics.confusion();
    let classes = confusion.len().isqrt();
    let right = (0..classes)
        .map(|class| confusion[class * classes + class])
        .sum();
    let share = Share {
        right,
        of: confusion.iter().sum(),
    };
    let figure = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
    vec![
        name.to_owned(),
        share.to_string(),
        figure(metrics.macro_f1()),
        figure(metrics.macro_auroc()),
        figure(metrics.cross_entropy()),
    ]
}

impl Task<Predict> for Classify {
    fn head(&self) -> Answers {
        self.head.clone()
    }

    fn objective(&self) -> Predict {
        self.objective.clone()
    }

    fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }

    fn vocabulary(&self) -> RangeInclusive<usize> {
        self.vocabulary.clone()
    }

    fn about(&self) -> Option<String> {
        let data = self.settings.data.as_deref().unwrap_or_default();
        let count = |split| self.labelled.counts(split).iter().sum::<usize>();
        let (learnt, held_out) = (count(Split::Train), count(Split::Validation));
        let classes = self.labelled.classes();
        Some(format!(
            "{data}: {} of {} classes to learn from, {held_out} held out",
            counted(learnt as u64, "record"),
            classes.len(),
        ))
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        (self.head.channels == 0).then_some(&self.tokenizer)
    }

    fn save_beside(&self, dir: &Path) -> Result<()> {
        self.reads.save(dir)
    }

    fn validation(&self, name: &'static str, mode: OutputMode) -> Option<Validation<'_, Predict>> {
        (!self.held_out.is_empty()).then(|| -> Validation<'_, Predict> {
            Box::new(move |model| {
                let metrics = self.tested(name, model, mode)?;
                Ok(Evaluation {
                    values: Metrics::Class(metrics).figures(),
                })
            })
        })
    }

    fn sample(&self) -> Result<Option<Sample>> {
        let Some(window) = self.held_out.first() else {
            return Ok(None);
        };
        let positions = window.positions.clone();
        let shown = positions.start..positions.end.min(positions.start + SHOWN);
        let class = &self.labelled.classes()[window.class];
        let read = self.labelled.records().read(shown)?;
        let about = format!("the beginning of a held-out record of {class}");
        Ok(Some(Sample::of(
            read,
            &self.tokenizer,
            self.head.channels,
            about,
        )))
    }

    fn test(&self, trained: &[Trained<Predictor>], mode: OutputMode) -> Result<Results> {
        let (mut rows, mut figures) = (Vec::new(), Vec::new());
        for Trained { name, model, .. } in trained {
            let metrics = self.tested(name, model, mode)?;
            rows.push(row(name, &metrics));
            figures.push(self.confusion(name, &metrics));
        }
        let (features, metrics) = self.baseline()?;
        rows.push(row(&features, &metrics));
        let accuracies = rows.iter().map(|row| row[..2].join(" "));
        let accuracies: Vec<String> = accuracies.collect();
        Ok(Results {
            sentence: format!(
                "Right in windows of held-out records: {}.",
                accuracies.join(", ")
            ),
            table: Table {
                title: "Held-out records".into(),
                header: ["model", "accuracy", "F1", "AUROC", "cross-entropy, nats"]
                    .map(String::from)
                    .to_vec(),
                rows,
                caption: format!(
                    "{} of {} positions, each answered by itself; the 95 % interval in brackets, F1 and AUROC averaged over the classes. {features} is a logistic regression.",
                    counted(self.held_out.len() as u64, "window"),
                    self.settings.length,
                ),
            },
            figures,
        })
    }
}
