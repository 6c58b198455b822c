//! What can go wrong with layers, models and their checkpoints.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serpens_core::{DType, Device, Shape};
use serpens_formats::Encoding;

use crate::mixers::MixerConfig;
use crate::{Precision, join};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a layer, a model or a checkpoint. Its text is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation failed.
    #[error(transparent)]
    Core(#[from] serpens_core::Error),
    /// A file of tensors or of a configuration cannot be read or written.
    #[error(transparent)]
    Format(#[from] serpens_formats::Error),
    /// A setting that no model can have.
    #[error("{field} = {} is not possible: {}", *found as f32, bounds(allowed))]
    Config {
        /// Its name in a recipe, where it is known whose setting it is.
        field: String,
        /// Its value.
        found: f64,
        /// Those it may have.
        allowed: RangeInclusive<f64>,
    },
    /// More values than the device's memory holds.
    #[error(
        "a memory of {:.1} GB does not hold the {:.1} GB that are needed; the largest parameter is {largest}: lower the sizes that make it, or n_layer",
        *available as f64 / 1e9, *needed as f64 / 1e9
    )]
    Memory {
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that the device has.
        available: u64,
        /// The largest parameter and its shape.
        largest: String,
    },
    /// The processor computes in f32 alone.
    #[error("precision = {0} is not possible: the processor computes in f32")]
    Precision(Precision),
    /// A state of another model, or of another kind of mixer.
    #[error("the state belongs to another model: it has {found} {what}, this one {expected}")]
    State {
        /// What it is counted in.
        what: &'static str,
        /// How many there are to be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A parameter that was planned, but not filled.
    #[error("{} of shape {shape} has no values: fill the model, or load it", name.as_deref().unwrap_or("a parameter"))]
    NoValue {
        /// The parameter, where it was reached by its name.
        name: Option<String>,
        /// Its shape.
        shape: Box<Shape>,
    },
    /// A parameter that is only asked: what it is held in is neither trained nor saved.
    #[error("{} of shape {shape} is held in {held} to be asked alone: load the model in f32 to train, adapt or save it", name.as_deref().unwrap_or("a parameter"))]
    Narrow {
        /// The parameter, where it was reached by its name.
        name: Option<String>,
        /// Its shape.
        shape: Box<Shape>,
        /// What it is held in.
        held: Encoding,
    },
    /// Weights that the device does not multiply with.
    #[error(
        "weights = {weights} are not multiplied in {precision} on {device}: leave it out, or take --device cpu"
    )]
    Weights {
        /// How they were to be held.
        weights: Encoding,
        /// The types that are computed in.
        precision: Precision,
        /// Where.
        device: Device,
    },
    /// A layer whose state is of f32 alone.
    #[error(
        "states = {states} is not possible: layer {layer} keeps its state in f32 (Mamba's with a real A may be bf16)"
    )]
    States {
        /// The type that states were to have.
        states: DType,
        /// The layer, from 0.
        layer: usize,
    },
    /// A pattern of layers that says none.
    #[error("model.layers = {pattern:?} {fault}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        fault: PatternFault,
    },
    /// A sequence with more tokens than attention's caches hold, or than there are learnt positions.
    #[error("the sequence is longer than {}", match learnt {
        true => format!("the model's table of {tokens} positions (model.positions)"),
        false => format!("attention's cache of {tokens} tokens: raise `context` in the model's config.json, or train with a `window`"),
    })]
    Full {
        /// How many tokens it may have.
        tokens: usize,
        /// Whether it is positions that are too few.
        learnt: bool,
    },
    /// A setting, by its name, that does not go with another.
    #[error("{0}")]
    Uneven(String),
    /// A layer that cannot do this.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Names of parameters that are none.
    #[error("no parameter's name begins with {0:?}; `visit` tells the names")]
    NoParameter(String),
    /// Layers to adapt that the model has not.
    #[error(
        "lora.targets: no matrix of the model is called {0:?}; Mamba's are in_proj, x_proj, dt_proj and out_proj"
    )]
    NoTarget(String),
    /// A file that is none of a model.
    #[error("{} is no model file: GGUF's end in .gguf, others have a config.json beside them", .0.display())]
    NoModel(PathBuf),
    /// A model that answers, where one that writes is asked for.
    #[error("{}: this model answers with classes, labels or values, and writes nothing", .0.display())]
    Answers(PathBuf),
    /// A model that writes, where one that answers is asked for.
    #[error("{}: this is a language model, without a head that answers", .0.display())]
    Writes(PathBuf),
    /// A file says of its model what is not so of those computed here.
    #[error("{}: {field} = {found} is of a model that is not computed here", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// What it says it of.
        field: &'static str,
        /// What it says.
        found: String,
    },
    /// A model has what a format has no words for.
    #[error("the format cannot say {0}: choose another")]
    Inexpressible(&'static str),
    /// A model without low-rank adaptation.
    #[error("nothing was added to the model's matrices: there is no adapter to save")]
    NotAdapted,
    /// A parameter in a checkpoint is not as the configuration has it.
    #[error("{}: parameter {name} {fault}", path.display())]
    Parameter {
        /// The file.
        path: PathBuf,
        /// Its name there.
        name: String,
        /// What is wrong.
        fault: ParameterFault,
    },
    /// A checkpoint has fewer tensors than its model has layers.
    #[error("{} holds {tensors} tensors, too few for the {layers} layers of its configuration", path.display())]
    TooFewTensors {
        /// The checkpoint.
        path: PathBuf,
        /// The configuration's layers.
        layers: usize,
        /// The tensors there are.
        tensors: usize,
    },
}

/// What is wrong with a pattern of layers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// What stands for no layer.
    #[error("has {0:?}, which stands for no layer; known are {known}", known = letters())]
    Unknown(char),
    /// A bracket without the other.
    #[error("has a bracket that is not closed, or none that is open where it closes one")]
    Bracket,
    /// Settings of mixers that it does not have.
    #[error("has no {letter}, but model.block has settings of {kind}: leave one of them out")]
    Unused {
        /// The kind's letter.
        letter: char,
        /// The kind.
        kind: &'static str,
    },
    /// Settings of which none is the letter's.
    #[error("takes the settings of each kind from model.block, which has two of {0}")]
    Twice(&'static str),
}

impl PatternFault {
    pub(crate) fn of(self, pattern: &str) -> Error {
        Error::Pattern {
            pattern: pattern.to_owned(),
            fault: self,
        }
    }
}

/// The letters that stand for layers, with their kinds.
fn letters() -> String {
    let letters = MixerConfig::all().map(|one| {
        let (letter, kind) = one.kind();
        format!("{letter} ({kind})")
    });
    letters.join(", ")
}

/// What is wrong with a parameter in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterFault {
    /// The model has it, the checkpoint has not.
    #[error("is missing; the checkpoint belongs to another configuration")]
    Missing,
    /// The checkpoint has it, the model has not.
    #[error("has no place in this model; the checkpoint belongs to another configuration")]
    Surplus,
    /// Two files of the checkpoint have it.
    #[error("is in another file of the checkpoint too")]
    Repeated,
    /// A, by which states decay, is not negative everywhere.
    #[error("has values above zero, or that are none; A must be negative")]
    PositiveA,
    /// It has values with which nothing can be computed.
    #[error(
        "has values that are no numbers (NaN) or infinite, or make A so: damaged, or its training diverged"
    )]
    NotFinite,
    /// Blocks whose scales are in half precision cannot hold it.
    #[error("has values too large for {}: choose bf16 or f32", .0.to_string().to_lowercase())]
    TooLarge(Encoding),
    /// It has another shape than in the model.
    #[error("has shape {got}, the model needs {expected}")]
    Shape {
        /// The model's shape.
        expected: Box<Shape>,
        /// The checkpoint's shape.
        got: Box<Shape>,
    },
}

impl ParameterFault {
    pub(crate) fn of(self, name: &str, path: &Path) -> Error {
        Error::Parameter {
            path: path.to_owned(),
            name: name.to_owned(),
            fault: self,
        }
    }
}

/// The values that a setting may have, in words.
fn bounds(allowed: &RangeInclusive<f64>) -> String {
    let [least, most] = [*allowed.start(), *allowed.end()].map(|bound| bound as f32);
    match *allowed.end() < f64::MAX {
        true => format!("it goes from {least} to {most}"),
        false => format!("it must be at least {least}"),
    }
}

impl Error {
    /// Whether a configuration is at fault, which its author can change.
    pub fn is_config(&self) -> bool {
        use Error::{Config, Memory, NoTarget, Pattern, Precision, States, Uneven};
        matches!(
            self,
            Config { .. }
                | Memory { .. }
                | NoTarget(_)
                | Pattern { .. }
                | Precision(_)
                | States { .. }
                | Uneven(_)
        )
    }

    /// The same error, of a setting in this table of a recipe.
    pub fn within(mut self, table: &str) -> Self {
        if let Error::Config { field, .. } | Error::Uneven(field) = &mut self {
            *field = join(table, field);
        }
        self
    }

    /// That a state has so many of these in place of others.
    pub(crate) fn state(what: &'static str, expected: usize, found: usize) -> Self {
        Error::State {
            what,
            expected,
            found,
        }
    }

    pub(crate) fn other_model(path: &Path, field: &'static str, found: String) -> Self {
        let path = path.to_owned();
        Error::OtherModel { path, field, found }
    }

    /// Refuses the first of what a file says of a model, or of an adapter, that is another's.
    pub(crate) fn refuse<const N: usize>(
        path: &Path,
        said: [(&'static str, bool, &dyn Debug); N],
    ) -> Result<()> {
        let other = said.into_iter().find(|(_, is_other, _)| *is_other);
        other.map_or(Ok(()), |(field, _, found)| {
            Err(Error::other_model(path, field, format!("{found:?}")))
        })
    }

    /// The same error, with the parameter that it is about, where that can be told.
    pub(crate) fn of(mut self, parameter: &str) -> Self {
        if let Error::NoValue { name, .. } | Error::Narrow { name, .. } = &mut self {
            *name = Some(parameter.to_owned());
        }
        self
    }
}

/// As an error of an operation, for what runs inside one.
impl From<Error> for serpens_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Core(error) => error,
            other => Self::inside("model", other),
        }
    }
}
