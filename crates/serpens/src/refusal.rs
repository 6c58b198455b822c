//! What is wrong with what the command was given.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serpens_nn::Precision;

use crate::output::shell_word;

/// What is wrong with an option.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WrongOption {
    /// The task needs a text.
    #[error("the text task reads a text: give a file, a folder or a glob")]
    NoText,
    /// The task has no use for a text.
    #[error("the {task} task reads no text; serpens train text --data PATH learns one")]
    NoTextTask {
        /// The task's name.
        task: &'static str,
    },
    /// A name that is a path.
    #[error("{name:?} is not the name of a folder; --out says which folder it goes into")]
    NotAName {
        /// The name.
        name: String,
    },
    /// There is no run to go on with.
    #[error("neither {} nor {} is a run (a folder with config.toml)", folders[0].display(), folders[1].display())]
    NoRun {
        /// Where it was looked for.
        folders: [PathBuf; 2],
    },
    /// Nothing was given.
    #[error("it is empty; give at least one character to begin with")]
    Empty,
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
    /// A file of another kind than the command draws.
    #[error("{} must end in .svg or .html", path.display())]
    FileEnding {
        /// The file.
        path: PathBuf,
    },
    /// No threads.
    #[error("0 threads cannot work, give at least 1")]
    NoThreads,
    /// Too many threads.
    #[error("{threads} are more than any machine has cores, give at most {most}")]
    TooManyThreads {
        /// The number given.
        threads: usize,
        /// The largest allowed.
        most: usize,
    },
    /// The system starts no threads.
    #[error(transparent)]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The device cannot be used.
    #[error("{0}; --device cpu needs no GPU")]
    NoDevice(#[source] Box<serpens_core::Error>),
    /// The processor does not compute so, and no GPU was asked for.
    #[error(
        "the processor computes in f32; {precision} needs an NVIDIA GPU: name one with --device cuda"
    )]
    OnGpu {
        /// The types asked for.
        precision: Precision,
    },
    /// The processor does not compute so, and there is no GPU.
    #[error("the processor computes in f32; {precision} needs an NVIDIA GPU: {source}")]
    NoGpu {
        /// The types asked for.
        precision: Precision,
        /// Why none can be used.
        source: Box<serpens_core::Error>,
    },
    /// A measurement that the processor has not.
    #[error("it is measured on an NVIDIA GPU only")]
    MeasuredOnGpu,
}

/// What is wrong with a recipe's setting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WrongSetting {
    /// 0, where something must be.
    #[error("it must be at least 1")]
    Zero,
    /// Negative, or not a number.
    #[error("it must be 0 or above")]
    Negative,
    /// A text without characters.
    #[error("it is empty; give at least one character")]
    Empty,
    /// Another vocabulary than the data's.
    #[error("it is {found}, the data has {} tokens; set it to {}{}", allowed.start(), at_least(allowed), allowed.start())]
    Vocabulary {
        /// The model's.
        found: usize,
        /// What the data allow.
        allowed: RangeInclusive<usize>,
    },
    /// A model too large to train.
    #[error(
        "weights, gradients and moments alone exceed {memory}; lower d_model, n_layer or vocab_size"
    )]
    Model {
        /// Whose memory.
        memory: &'static str,
    },
    /// A batch too large to train on.
    #[error("a batch of this size exceeds {memory}; lower the batch or the length")]
    Batch {
        /// Whose memory.
        memory: &'static str,
    },
    /// A parameter that would not begin with numbers.
    #[error("{parameter} would not begin with numbers; check the step sizes: 0 < dt.min <= dt.max")]
    Start {
        /// Its name.
        parameter: String,
    },
    /// The data refuse it.
    #[error(transparent)]
    Data(#[from] serpens_data::Error),
}

fn at_least(allowed: &RangeInclusive<usize>) -> &'static str {
    match allowed.start() == allowed.end() {
        true => "",
        false => "at least ",
    }
}

/// What is wrong with a `KEY=VALUE`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WrongChange {
    /// There is no `=`.
    #[error("expected KEY=VALUE, such as train.steps=500")]
    NoValue,
    /// A key below one that has none.
    #[error("the key leads through a value that is not a table")]
    NoTable,
}

/// Why a folder holds no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoModel {
    /// There is none.
    #[error("there is no such folder; give that of a run or of a model")]
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
        "neither config.json nor model/config.json is there; give the folder of a finished run"
    )]
    NoConfig,
}

/// Why a model does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WrongModel {
    /// It selects nothing.
    #[error("it has no selective layers: a time-invariant model treats every token alike")]
    NotSelective,
    /// It writes no text.
    #[error(
        "its vocabulary has {vocabulary} tokens; generate writes text with byte models, which have 256"
    )]
    NoBytes {
        /// Its number of tokens.
        vocabulary: usize,
    },
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
    /// It is larger than the memory.
    #[error("weights of {:.1} GB exceed this machine's memory; check the sizes", bytes / 1e9)]
    Memory {
        /// Of its weights.
        bytes: f64,
    },
    /// It is no model that can be.
    #[error(transparent)]
    Config(#[from] Box<serpens_nn::Error>),
}
