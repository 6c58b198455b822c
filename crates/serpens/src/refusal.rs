//! What is wrong with what the command was given.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serpens_formats::Encoding;
use serpens_nn::Precision;
use serpens_ops::sampling::BadOption;
use serpens_report::grouped;

use crate::evaluation::BUILT_IN;
use crate::output::shell_word;
use crate::recipe::names;

/// What is wrong with an option, a recipe, or a setting of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The task needs data.
    #[error("the {0} task reads data of yours: give a file, a folder or a glob")]
    NoData(&'static str),
    /// Values, where tokens are to be predicted.
    #[error(
        "values are classified or forecast, not written: serpens train classify, serpens train forecast; of sound set form = \"mu-law\""
    )]
    NoTokens,
    /// A series that is too short, or another one than was learnt.
    #[error("it has {rows} rows of {columns} columns, the model reads {length} rows of {channels}")]
    Rows {
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
        /// Rows that are read.
        length: usize,
        /// Columns that are.
        channels: usize,
    },
    /// DNA has no usual beginning.
    #[error("this model writes DNA: give it a beginning, such as ACGT")]
    NoBeginning,
    /// Sound is written to a file.
    #[error("this model writes sound: name the file, as in --wav sound.wav")]
    NoWav,
    /// A model of something else writes no sound.
    #[error("this model writes no sound")]
    NoSound,
    /// Tokens of other content follow from it.
    #[error(
        "these are other tokens than those that the content gives: leave it out, or set task.content as it was for the model that is gone on from"
    )]
    OtherTokens,
    /// A model of tokens reads no values.
    #[error("a model of tokens is not gone on from to read values: begin anew")]
    InitOfTokens,
    /// Nothing is left to test on.
    #[error("nothing is held out: set a share above 0, or name groups in task.hold_out")]
    NothingHeldOut,
    /// What is no DNA has no other strand.
    #[error("only DNA has two strands")]
    NoStrands,
    /// The task has no use for it.
    #[error("the {0} task has no use for it")]
    NoTextTask(&'static str),
    /// No model, and none to go on from.
    #[error("there is neither a [model] nor one to go on from: name one with --init")]
    NoModel,
    /// A setting of another model than that which is gone on from.
    #[error("it is not that of {}, which the run goes on from: leave it out", .0.display())]
    OtherModel(PathBuf),
    /// A second model beside one without a state space model.
    #[error("the model has no state space model to replace: leave it out with --set twin=none")]
    NothingToTwin,
    /// A mixer that no GPU computes.
    #[error("the model has LSTM layers, which the processor alone computes: take --device cpu")]
    ProcessorAlone,
    /// A second model beside one that is gone on from.
    #[error("it has no meaning where a model is gone on from: leave it out with --set twin=none")]
    TwinOfInit,
    /// Nothing that matrices of low rank could be added to.
    #[error(
        "it adds to a model that is there: name one with --init, and set lora.rank, lora.alpha or lora.targets"
    )]
    NothingToAdapt,
    /// No file of this name.
    #[error(
        "there is no such file; without --recipe, train takes the name of one that is built in: {}",
        names()
    )]
    NoRecipe,
    /// A name that is a path.
    #[error("{0:?} is not the name of a folder; --out says which folder it goes into")]
    NotAName(String),
    /// There is no run to go on with.
    #[error("neither {} nor {} is a run (a folder with config.toml); give its folder, or its name", .0[0].display(), .0[1].display())]
    NoRun([PathBuf; 2]),
    /// There is nothing to begin with.
    #[error("it is empty; give at least one character to begin with")]
    Empty,
    /// A line that holds no prompt.
    #[error("line {0} is neither a JSON string nor an object with a \"prompt\"")]
    NoPrompt(usize),
    /// One file for the states of several samples.
    #[error("it takes the state of one sample: give one prompt and no --samples")]
    ManyStates,
    /// A word that the model does not read.
    #[error("{word:?} is no token of this model; give numbers below {vocabulary}, apart by spaces")]
    NoToken {
        /// The word.
        word: String,
        /// The model's number of tokens.
        vocabulary: usize,
    },
    /// The model's task makes no sequences by itself.
    #[error("this model has no task to take a sample from; give a prompt")]
    NoSample,
    /// Something would be written over.
    #[error("{} is there already; give a name that is free", .0.display())]
    Exists(PathBuf),
    /// A revision that is no name on the hub.
    #[error("it is no branch, tag or commit: letters, digits, - . _ and / between names")]
    NoRevision,
    /// An option that has no use, and why.
    #[error("{0}: leave it out")]
    NoUse(&'static str),
    /// A file of GGUF that would not be known by its name.
    #[error("the name of a GGUF file ends in .gguf")]
    GgufEnding,
    /// An adapter to be learnt for the sum of a model and another adapter, which its files cannot name.
    #[error(
        "an adapter is learnt for a model, not for another adapter on it: merge that first (serpens convert {} FOLDER --adapter {}), and go on from FOLDER",
        .0.display(), .1.display()
    )]
    TwoAdapters(PathBuf, PathBuf),
    /// A text of which no byte is predicted.
    #[error("it has no byte behind the first token, so there is nothing to predict")]
    NothingToPredict,
    /// Blocks for a format without.
    #[error("{0} is for GGUF: give --format gguf, or f32, bf16 or f16")]
    Blocks(Encoding),
    /// A pattern by which nothing is stored otherwise.
    #[error("{:?} matches none of the tensors that can be stored otherwise, such as {}, or those alone that a pattern before it matches", .0, .1.join(", "))]
    NoTensor(String, Vec<String>),
    /// A file of another kind than the command draws.
    #[error("{} must end in .svg or .html", .0.display())]
    FileEnding(PathBuf),
    /// A run that has not come to its end.
    #[error("{} is not there; `serpens train --resume` brings the run to its end", .0.display())]
    NoReport(PathBuf),
    /// A file that is no report.
    #[error("report.json is broken ({0}); `serpens train --resume` writes it anew")]
    BrokenReport(#[from] serde_json::Error),
    /// Pictures that this build does not make.
    #[cfg(not(feature = "paper"))]
    #[error(
        "this build draws svg only; png and pdf need one by cargo build --release --features paper"
    )]
    NoPaper,
    /// Another text than that of the run.
    #[error("it is not the text that this run learns: leave it out, or begin another run")]
    OtherText,
    /// A picture that could not be made.
    #[cfg(feature = "paper")]
    #[error(transparent)]
    Paper(#[from] Box<serpens_report::paper::PaperError>),
    /// The system starts no threads.
    #[error(transparent)]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The device cannot be used.
    #[error("{0}; --device cpu needs no GPU")]
    NoDevice(#[source] Box<serpens_core::Error>),
    /// The processor does not compute so, and no GPU was asked for.
    #[error("the processor computes in f32; {0} needs an NVIDIA GPU: name one with --device cuda")]
    OnGpu(Precision),
    /// The processor does not compute so, and there is no GPU.
    #[error("the processor computes in f32; {precision} needs an NVIDIA GPU: {source}")]
    NoGpu {
        /// The types asked for.
        precision: Precision,
        /// Why none can be used.
        source: Box<serpens_core::Error>,
    },
    /// Weights that the device does not multiply with.
    #[error(transparent)]
    Weights(Box<serpens_nn::Error>),
    /// An option of sampling outside its range.
    #[error("it is {}; {}", .0.value, .0.expected)]
    Sampling(#[from] BadOption),
    /// A measurement that the processor has not.
    #[error("it is measured on an NVIDIA GPU only")]
    MeasuredOnGpu,
    /// A text that is no recipe.
    #[error("{}", in_words(first_line(.0)))]
    Toml(#[from] Box<toml::de::Error>),
    /// A key that no recipe has, or a name that its key does not take.
    #[error("unknown {what} {key:?}; {}", advice(nearest.as_deref(), known))]
    Unknown {
        /// `key`, `value` or `model`.
        what: &'static str,
        /// The key, or the name.
        key: String,
        /// The one that was meant, as it seems.
        nearest: Option<String>,
        /// All that there are.
        known: Vec<String>,
    },
    /// A key of a table that does not go with the kind that was given to it.
    #[error(
        "{key:?}, which was there before, does not go with it; give all of the table at once: {}",
        whole_table(path)
    )]
    Displaced {
        /// The key that was there.
        key: String,
        /// The one that was given.
        path: String,
    },
    /// Sequences that stages of a U-Net do not divide into groups.
    #[error(
        "it is {length}, and the model's stages (pool, with those inside) take multiples of {multiple}"
    )]
    Uneven {
        /// Tokens of the longest.
        length: usize,
        /// What would be possible.
        multiple: usize,
    },
    /// A change of a recipe without `=`.
    #[error("expected KEY=VALUE, such as train.steps=500")]
    NoValue,
    /// A key of a list of layers, without their kind.
    #[error("there are layers of several kinds: name theirs too, as model.block.KIND.KEY")]
    NoKind,
    /// A key below one that has none.
    #[error("the key leads through a value that is not a table")]
    NoTable,
    /// What is to be a number; and what to give.
    #[error("it is {0:?}; {1}")]
    NoNumber(String, String),
    /// A number outside its range.
    #[error("it is {found}; give {}", within(allowed))]
    Range {
        /// The number.
        found: u64,
        /// What is allowed.
        allowed: RangeInclusive<u64>,
    },
    /// Another vocabulary than the data's.
    #[error("it is {found}, the data has {} tokens; set it to {}{}", allowed.start(), at_least(allowed), allowed.start())]
    Vocabulary {
        /// The model's.
        found: usize,
        /// What the data allow.
        allowed: RangeInclusive<usize>,
    },
    /// More tokens at a time than a memory holds.
    #[error(
        "{} tokens at a time need {:.1} GB, {owner} is {:.1}; give at most {} of them",
        grouped(tokens), needed / 1e9, *memory as f64 / 1e9, grouped(most)
    )]
    TooManyTokens {
        /// How many.
        tokens: f64,
        /// The bytes that they need.
        needed: f64,
        /// Whose memory it is.
        owner: &'static str,
        /// Its bytes.
        memory: u64,
        /// The most tokens that fit.
        most: u64,
    },
    /// No evaluation task of this name is built in.
    #[error("no task is called {0:?}; known are {known}; --task-file reads one of your own, perplexity stands by itself", known = BUILT_IN.map(|(name, _)| name).join(", "))]
    NoTask(String),
    /// Options that do not go with what is evaluated.
    #[error("perplexity takes --data and --window, tasks take --data, --limit and --items")]
    TextOrTasks,
    /// A template, an expression, or what became of it with a line's fields.
    #[error("{0}; serpens eval --help says what a task is")]
    Template(#[from] minijinja::Error),
    /// A file of questions without one.
    #[error("it has no line; give a file with a JSON object a line")]
    NoQuestions,
    /// A line that holds no question.
    #[error("it is no JSON object ({0}); give a file with one a line")]
    NoObject(#[source] serde_json::Error),
    /// A line that lacks a field.
    #[error("it has no field {field:?}, but {}; give the file of this task, or the task of this file", found.join(", "))]
    NoField {
        /// The field.
        field: String,
        /// Those that are there.
        found: Vec<String>,
    },
    /// Something else than a list of texts.
    #[error("its choices are no list of texts; a task's choices name one, such as [a, b]")]
    NoChoices,
    /// Nothing to score.
    #[error("its target is empty: there is nothing to score")]
    NoTarget,
    /// A right choice that is not there.
    #[error("{found:?} is none of its {choices} choices, which are counted from 0 or A on")]
    Gold {
        /// What the line says.
        found: String,
        /// How many there are.
        choices: usize,
    },
    /// The data refuse it.
    #[error(transparent)]
    Data(#[from] serpens_data::Error),
}

/// The first line of what a deserialiser says; it draws the place of the error below.
pub(crate) fn first_line(error: &toml::de::Error) -> &str {
    error.message().lines().next().unwrap_or_default()
}

/// The same with what to write in place of the types that it is read into.
fn in_words(message: &str) -> String {
    if message.starts_with("missing field") {
        return format!("{message}; recipes to begin with: serpens recipes show NAME");
    }
    let Some((before, expected)) = message.rsplit_once("expected ") else {
        return message.to_owned();
    };
    let expected = match expected {
        "u8" | "u32" | "u64" | "usize" => "a whole number from 0",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list, such as [64] or [\"text\"]",
        table if table.starts_with("struct") => "a table of its keys",
        words => words,
    };
    format!("{before}expected {expected}").replace("expected {", "expected a table, such as {")
}

/// The numbers that are allowed, in words.
pub(crate) fn within(allowed: &RangeInclusive<u64>) -> String {
    let (least, most) = (allowed.start(), allowed.end());
    match *most >= i64::MAX as u64 {
        true => format!("{least} or more, up to {most}"),
        false => format!("{least} to {most}"),
    }
}

fn advice(nearest: Option<&str>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => format!("known are {}", known.join(", ")),
    }
}

/// How to set the table that this key is in.
fn whole_table(path: &str) -> String {
    let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
    format!("'{table}={{ {key} = …, … }}'")
}

fn at_least(allowed: &RangeInclusive<usize>) -> &'static str {
    match allowed.start() == allowed.end() {
        true => "",
        false => "at least ",
    }
}

/// Why a folder has no model, or one that does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WrongModel {
    /// There is no folder.
    #[error(
        "there is no such folder or file; give the folder of a run, the folder or file of a model, or a name on the hub: owner/name"
    )]
    NoFolder,
    /// Its run is not finished.
    #[error("its training is not finished; go on with: serpens train --resume {}, or give its checkpoint {}", shell_word(&run.to_string_lossy()), checkpoint.display())]
    Unfinished {
        /// The run's folder.
        run: PathBuf,
        /// The newest checkpoint.
        checkpoint: PathBuf,
    },
    /// It holds something else.
    #[error(
        "it holds no model, as it has neither config.json nor model/config.json; give the folder of a finished run"
    )]
    NoConfig,
    /// It neither selects nor attends.
    #[error(
        "it has no selective layers and no attention outside of stages, and what other layers do is not drawn"
    )]
    NoMap,
    /// It computes nothing.
    #[error(
        "its layers give values that are no numbers: its training diverged, or the file is damaged"
    )]
    NotFinite,
    /// It writes no text.
    #[error(
        "its vocabulary has {0} tokens, but there is no tokenizer in its folder: give one with --tokenizer (models of bytes, which have 256 tokens, need none)"
    )]
    NoTokenizer(usize),
    /// Its run's task is not what it learnt.
    #[error(
        "its run's task has a token {token}, but its vocabulary only {vocabulary}; give a --prompt"
    )]
    OtherTask {
        /// The task's token.
        token: u32,
        /// The model's number of tokens.
        vocabulary: usize,
    },
    /// What it reads is not known.
    #[error(
        "it does not say what the model reads ({0}): give the run of train classify or train forecast"
    )]
    Reads(serde_json::Error),
    /// What it reads is of another model.
    #[error("it is of another model than the one beside it: give the folder as the run left it")]
    OtherReads,
    /// It is no model that can be.
    #[error(transparent)]
    Config(#[from] Box<serpens_nn::Error>),
}
