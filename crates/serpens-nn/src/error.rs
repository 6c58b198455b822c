//! What can go wrong with layers, models and their checkpoints.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serpens_core::Shape;

use crate::Precision;

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
    /// A size that no model can have.
    #[error("{field} = {found} is not possible: {}", bounds(allowed))]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        found: usize,
        /// Those it may have.
        allowed: RangeInclusive<usize>,
    },
    /// More layers than any memory holds, even as a plan.
    #[error("n_layer = {found} is not possible: no memory holds more than {most} layers")]
    TooManyLayers {
        /// The number of layers.
        found: usize,
        /// The largest.
        most: usize,
    },
    /// The processor computes in f32 alone.
    #[error("precision = {precision} is not possible: the processor computes in f32")]
    Precision {
        /// What was asked of it.
        precision: Precision,
    },
    /// A state of another model, or of another kind of mixer.
    #[error("the state belongs to another model: it has {found} {what}, this one {expected}")]
    State {
        /// `layers` or `tensors`.
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
    /// A layer that cannot do this.
    #[error("{layer} cannot {what}")]
    Unsupported {
        /// The layer.
        layer: &'static str,
        /// What was asked of it.
        what: &'static str,
    },
    /// A parameter that the model has is not in the checkpoint.
    #[error("{}: parameter {name} is missing; the checkpoint belongs to another configuration", path.display())]
    MissingParameter {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter.
        name: String,
    },
    /// A parameter of the checkpoint that the model has not.
    #[error("{}: parameter {name} has no place in this model; the checkpoint belongs to another configuration", path.display())]
    SurplusParameter {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter.
        name: String,
    },
    /// Two files of a checkpoint have a parameter of the same name.
    #[error("{}: parameter {name} is in another file of the checkpoint too", path.display())]
    RepeatedParameter {
        /// The second file.
        path: PathBuf,
        /// The parameter.
        name: String,
    },
    /// A checkpoint has fewer tensors than its model has layers.
    #[error("{} holds {tensors} tensors, too few for the {layers} layers of its config.json", path.display())]
    TooFewTensors {
        /// The checkpoint.
        path: PathBuf,
        /// The configuration's layers.
        layers: usize,
        /// The tensors there are.
        tensors: usize,
    },
    /// A parameter has another shape in the checkpoint than in the model.
    #[error("{}: parameter {name} has shape {got}, the model needs {expected}", path.display())]
    ParameterShape {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter.
        name: String,
        /// The model's shape.
        expected: Box<Shape>,
        /// The checkpoint's shape.
        got: Box<Shape>,
    },
}

/// The values that a size may have, in words.
fn bounds(allowed: &RangeInclusive<usize>) -> String {
    match (*allowed.start(), *allowed.end()) {
        (least, usize::MAX) => format!("it must be at least {least}"),
        (least, most) => format!("it goes from {least} to {most}"),
    }
}

impl Error {
    /// Refuses a size that is not allowed.
    pub(crate) fn check(
        field: &'static str,
        found: usize,
        allowed: RangeInclusive<usize>,
    ) -> Result<()> {
        if allowed.contains(&found) {
            return Ok(());
        }
        Err(Error::Config {
            field,
            found,
            allowed,
        })
    }

    /// Whether a configuration is at fault, which its author can change.
    pub fn is_config(&self) -> bool {
        use Error::{Config, Precision, TooManyLayers};
        matches!(
            self,
            Config { .. } | TooManyLayers { .. } | Precision { .. }
        )
    }

    /// The sizes of the axes of an operand that must have so many.
    pub(crate) fn check_axes<const N: usize>(
        op: &'static str,
        what: &'static str,
        axes: &'static str,
        shape: Shape,
    ) -> Result<[usize; N]> {
        let sizes = shape[..].try_into();
        sizes.map_err(|_| serpens_core::Error::shape(op, what, axes, shape).into())
    }

    pub(crate) fn no_value(shape: Shape) -> Self {
        Error::NoValue {
            name: None,
            shape: Box::new(shape),
        }
    }

    /// The same error, with the parameter that it is about, where that can be told.
    pub(crate) fn of(mut self, parameter: &str) -> Self {
        if let Error::NoValue { name, .. } = &mut self {
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
