//! What can go wrong in training.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serpens_core::Shape;
use serpens_core::files::FileError;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a training run. Its text is one line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation failed.
    #[error(transparent)]
    Core(#[from] serpens_core::Error),
    /// A model or its files failed.
    #[error(transparent)]
    Model(#[from] serpens_nn::Error),
    /// A file of tensors or settings cannot be read or written.
    #[error(transparent)]
    Format(#[from] serpens_formats::Error),
    /// The data failed.
    #[error(transparent)]
    Data(#[from] serpens_data::Error),
    /// The loss or the gradient is not a number any more.
    #[error(
        "{what} is {value} at step {step}: training stopped, what was saved before is intact; lower the learning rate or clip gradients"
    )]
    NotFinite {
        /// `the loss`, `the gradient's norm` or the name of an evaluation's figure.
        what: String,
        /// Its value.
        value: f64,
        /// The step.
        step: u64,
    },
    /// A stop flag was set before the work was done.
    #[error("stopped as asked before it was done: begin again where it is needed")]
    Stopped,
    /// Settings that ask for the best evaluation where there is none.
    #[error(
        "train.best needs evaluations, but nothing evaluates the model while it is trained: leave train.best out"
    )]
    NoEvaluation,
    /// A setting that no training can have.
    #[error("train.{field} = {value} is not possible: {reason}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// A file cannot be read, written, renamed or removed.
    #[error(transparent)]
    Io(#[from] FileError),
    /// A checkpoint's file is not what its name says.
    #[error("{} is not a usable checkpoint file: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Damage,
    },
    /// A checkpoint that is not whole, so that another one was taken.
    #[error("{} is damaged, so that another checkpoint is taken: {source}", path.display())]
    PassedOver {
        /// The checkpoint's folder, which is kept, under another name once the run goes on.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// Lines of metrics that tell nothing.
    #[error("{}: {count} broken line(s) of metrics are left out", path.display())]
    BrokenLines {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// No lines of metrics, where steps were taken.
    #[error("{} has no line of the steps taken before: curves begin with those to come", .0.display())]
    NoLines(PathBuf),
    /// Another process writes to the folder.
    #[error("{} is in use by {}: wait for it to end, or choose another folder", path.display(), match holder {
        Some(process) => format!("process {process}"),
        None => "another process".into(),
    })]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The number of the process, where it is told.
        holder: Option<u32>,
    },
    /// The folder that a process took is not where it was.
    #[error("{} was moved or removed by another program, or its .lock was: the run ends here; from where the folder is now, it goes on with --resume", .0.display())]
    Moved(PathBuf),
    /// A setting is not that of the run that is to go on.
    #[error(
        "{field} is {here}, but the run was trained with {saved}: set it back, or begin another run; only the steps (--steps) and the learning rate (--lr) may change"
    )]
    OtherSettings {
        /// The setting; `data` where the source's batches are others.
        field: String,
        /// What the checkpoint says, in JSON.
        saved: String,
        /// What it was to go on with.
        here: String,
    },
    /// A new run would mix its checkpoints with those of an older one.
    #[error("{} already holds a run's checkpoints: resume it, or choose another folder", .0.display())]
    RunExists(PathBuf),
    /// There is nothing to resume.
    #[error("{} holds no checkpoint to go on from: bring one back, or begin another run", .0.display())]
    NoCheckpoint(PathBuf),
    /// Nothing to go on from, so that a model begins anew.
    #[error("{} holds no checkpoint to go on from: its model is trained from the first step", .0.display())]
    BeginsAnew(PathBuf),
}

/// What is wrong with a checkpoint's file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It is not what `state.json` should be.
    #[error("{0}")]
    State(#[from] serde_json::Error),
    /// It is not as it was written, or is of another checkpoint.
    #[error("its digest is {found}, not {expected}: it was damaged or changed")]
    Digest {
        /// The digest that was written with the checkpoint.
        expected: String,
        /// Its digest.
        found: String,
    },
    /// It stands elsewhere than its folder's name says, or than its steps lead to in the data.
    #[error("it is of step and batch {found:?}, not {expected:?}")]
    Position {
        /// The step and the batches read that it says.
        found: (u64, u64),
        /// Those it should say.
        expected: (u64, u64),
    },
    /// The parameters of its model cannot be read.
    #[error(transparent)]
    Model(#[from] Box<serpens_nn::Error>),
    /// A moment is missing, or not as its parameter.
    #[error("{name} is missing, or not f32 of shape {shape}")]
    WrongMoment {
        /// The moment's name.
        name: String,
        /// Its parameter's shape.
        shape: Shape,
    },
    /// A moment that the rule does not keep, or of a parameter that the model has not.
    #[error(
        "{rule} keeps no {name} of this model: go on with the model and the optimiser that it is of"
    )]
    SurplusMoment {
        /// The moment's name.
        name: String,
        /// The rule's name.
        rule: &'static str,
    },
}

impl Error {
    pub(crate) fn config(field: &'static str, value: impl ToString, reason: &'static str) -> Self {
        Error::Config {
            field,
            value: value.to_string(),
            reason,
        }
    }

    pub(crate) fn damaged(path: &Path, source: impl Into<Damage>) -> Self {
        Error::Damaged {
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether a device had no memory left: what failed may succeed where something is given up.
    pub fn is_out_of_memory(&self) -> bool {
        use serpens_formats::Error as Format;
        use serpens_nn::Error as Model;
        let (Error::Core(core)
        | Error::Model(Model::Core(core) | Model::Format(Format::Core(core)))
        | Error::Format(Format::Core(core))) = self
        else {
            return matches!(self, Error::Model(Model::Memory { .. }));
        };
        matches!(core, serpens_core::Error::OutOfMemory { .. })
    }

    /// Whether what was read is at fault, or missing, rather than the reading, which may succeed another time.
    pub fn is_damage(&self) -> bool {
        let this: &(dyn std::error::Error + 'static) = self;
        let mut causes = std::iter::successors(Some(this), |error| error.source());
        let system = causes.find_map(|cause| cause.downcast_ref::<std::io::Error>());
        let of_content = |e: &std::io::Error| match e.kind() {
            ErrorKind::NotFound => true,
            kind => e.raw_os_error().is_none() && kind != ErrorKind::OutOfMemory,
        };
        !self.is_out_of_memory() && system.is_none_or(of_content)
    }
}

/// Ends what would go on once the flag is set.
///
/// # Errors
/// [`Error::Stopped`].
pub fn go_on(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::Stopped),
        false => Ok(()),
    }
}
