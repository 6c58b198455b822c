//! What can go wrong with tensors and operations on them.

use std::ops::Range;
use std::sync::Arc;

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::result::DriverError;
use cudarc::nvrtc::result::NvrtcError;

use crate::device::Device;
use crate::dtype::DType;
use crate::library::LibraryKind;
use crate::shape::Shape;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a tensor, an operation or the tape. Its text is one line: what, where, expected, got.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operand's shape does not fit.
    #[error("{op}: {what} has shape {got}, expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// The shape that would fit, in words.
        expected: String,
        /// The shape it has.
        got: Shape,
    },
    /// An operand's type does not fit.
    #[error("{op}: {what} is {got}, expected {expected}")]
    DType {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// The type that would fit.
        expected: DType,
        /// The type it has.
        got: DType,
    },
    /// A number is not one of those that can be.
    #[error("{op}: {what} is {got}, expected {}", of_range(.expected))]
    Range {
        /// The operation.
        op: &'static str,
        /// The number.
        what: &'static str,
        /// What it can be.
        expected: Range<usize>,
        /// What it is.
        got: usize,
    },
    /// A number that need not be whole is not one of those that can be.
    #[error("{op}: {what} is {got}, expected {expected}")]
    Value {
        /// The operation.
        op: &'static str,
        /// The number.
        what: &'static str,
        /// What it can be, in words.
        expected: &'static str,
        /// What it is.
        got: f64,
    },
    /// There are more or fewer of something than of what it goes with.
    #[error("{op}: {got} {what}, expected {expected}")]
    Count {
        /// The operation.
        op: &'static str,
        /// What is counted, in the plural.
        what: &'static str,
        /// How many there have to be.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// A number is not a multiple of another.
    #[error("{op}: {what} is {got}, expected a multiple of {expected}")]
    Multiple {
        /// The operation.
        op: &'static str,
        /// The number.
        what: &'static str,
        /// What divides it.
        expected: usize,
        /// What it is.
        got: usize,
    },
    /// An operand is missing that others need.
    #[error("{op}: {what} is missing")]
    Missing {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
    },
    /// An operand is there that does not go with the others.
    #[error("{op}: {what} does not go with the other operands")]
    Surplus {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
    },
    /// A range of columns stands where a whole tensor is needed.
    #[error("{op}: a range of columns is not a contiguous tensor")]
    Columns {
        /// The operation.
        op: &'static str,
    },
    /// What runs inside an operation failed with an error of its own.
    #[error("{op}: {source}")]
    Inside {
        /// The operation.
        op: &'static str,
        /// The error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A tensor of this many values cannot be addressed.
    #[error("a tensor of shape {0} is too large to address")]
    TooLarge(Shape),
    /// The device has no memory left.
    #[error(
        "out of memory on {device}: {requested} bytes asked, {held} bytes held; lower the batch size or the sequence length, or recompute more"
    )]
    OutOfMemory {
        /// The device.
        device: Device,
        /// Bytes asked for.
        requested: usize,
        /// Bytes held by the pool at that moment.
        held: usize,
    },
    /// A tensor is on another device than an operation needs it on.
    #[error("{op}: {what} is on {got}, expected {expected}")]
    Device {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// Where it has to be.
        expected: Device,
        /// Where it is.
        got: Device,
    },
    /// A device cannot be used.
    #[error("{device} cannot be used: {reason}")]
    NoDevice {
        /// The device.
        device: Device,
        /// Why.
        reason: Unusable,
    },
    /// A device has no such name.
    #[error("device: {0:?} is not cpu, cuda or cuda:N")]
    DeviceName(String),
    /// A library that a GPU needs was not found.
    #[error("{} was not found: {}", .0, .0.advice())]
    Library(LibraryKind),
    /// A kernel does not compile.
    #[error("the kernel {kernel} does not compile for this card:\n{log}")]
    Compile {
        /// The kernel's source.
        kernel: &'static str,
        /// The compiler's words.
        log: String,
    },
    /// The driver or one of its libraries refused something.
    #[error("the GPU failed ({what}): {source}")]
    Cuda {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        source: Refusal,
    },
    /// A block of a kernel needs more shared memory than the card has.
    #[error(
        "the GPU failed ({kernel}): a block needs {needed} bytes of shared memory, this card has {most}; a smaller state or another precision needs less"
    )]
    SharedMemory {
        /// The kernel.
        kernel: &'static str,
        /// Bytes that it needs.
        needed: usize,
        /// Bytes that a block may have.
        most: usize,
    },
    /// Gradients from an earlier pass do not fit those of this one.
    #[error("backward: there is a gradient of another device, type or shape: use new Gradients")]
    OldGradient,
    /// A gradient is asked of what has none.
    #[error("{op} has no gradient: give it values that no tape tracks")]
    NoGradient {
        /// The operation.
        op: &'static str,
    },
    /// Values recorded on different tapes meet in one operation, or one is asked about another's.
    #[error("{op}: values of different tapes meet")]
    TapeMismatch {
        /// The operation.
        op: &'static str,
    },
    /// Something is asked of what a call around this one still works on: of a tape during its backward pass, of a
    /// device's queue during a recording of it.
    #[error("{op}: a call around this one still works on the same; ask when it has ended")]
    InUse {
        /// The operation.
        op: &'static str,
    },
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// Its number is beyond all that can be.
    #[error("there is no such device")]
    Unknown,
    /// Its number is beyond those of this machine.
    #[error("the driver shows {0} devices")]
    Absent(usize),
    /// It is too old for the kernels.
    #[error(
        "{name} has compute capability {}.{}; kernels need {oldest}.0 (Ampere) or later",
        .capability.0, .capability.1
    )]
    TooOld {
        /// The card.
        name: String,
        /// Its compute capability, major and minor.
        capability: (u32, u32),
        /// The oldest major one that would do.
        oldest: u32,
    },
    /// It is not a GPU.
    #[error("this operation needs a CUDA device")]
    NotCuda,
}

/// The code with which the driver or one of its libraries refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The driver's.
    #[error("{}", in_words(.0))]
    Driver(#[from] DriverError),
    /// The compiler's.
    #[error("NVRTC says {0:?}")]
    Nvrtc(#[from] NvrtcError),
    /// That of products.
    #[error("cuBLASLt says {0:?}")]
    CublasLt(#[from] CublasError),
}

fn in_words(error: &DriverError) -> String {
    match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{error:?}"),
    }
}

/// Says what was asked when a code came back.
pub(crate) fn refused<E: Into<Refusal>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Cuda {
        what,
        source: error.into(),
    }
}

/// Declares functions that hold what they got against what an operation expects.
macro_rules! expectations {
    ($($(#[$doc:meta])* $name:ident: $expected:ty, $got:ty, $fits:expr, $error:ident;)+) => {$(
        $(#[$doc])*
        pub fn $name(
            op: &'static str,
            what: &'static str,
            expected: $expected,
            got: $got,
        ) -> Result<()> {
            match ($fits as fn(&$expected, &$got) -> bool)(&expected, &got) {
                true => Ok(()),
                false => Err(Error::$error { op, what, expected, got }),
            }
        }
    )+};
}

expectations! {
    /// Holds an operand's type against the one that is needed.
    ///
    /// # Errors
    /// [`Error::DType`] where they differ.
    expect_dtype: DType, DType, PartialEq::eq, DType;

    /// Holds an operand's device against the one that is needed.
    ///
    /// # Errors
    /// [`Error::Device`] where they differ.
    expect_device: Device, Device, PartialEq::eq, Device;

    /// Holds a number against those that can be.
    ///
    /// # Errors
    /// [`Error::Range`] where it is none of them.
    expect_range: Range<usize>, usize, Range::contains, Range;

    /// Holds how many there are of something against how many there have to be.
    ///
    /// # Errors
    /// [`Error::Count`] where they differ.
    expect_count: usize, usize, PartialEq::eq, Count;

    /// Holds a number against what has to divide it.
    ///
    /// # Errors
    /// [`Error::Multiple`] where it does not.
    expect_multiple: usize, usize, |factor, number| number.is_multiple_of(*factor), Multiple;
}

impl Error {
    /// A shape error.
    pub fn shape(
        op: &'static str,
        what: &'static str,
        expected: impl Into<String>,
        got: Shape,
    ) -> Self {
        Error::Shape {
            op,
            what,
            expected: expected.into(),
            got,
        }
    }

    /// The error of what runs inside an operation.
    pub fn inside(
        op: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Error::Inside {
            op,
            source: Arc::new(source),
        }
    }
}

/// A range in words.
fn of_range(range: &Range<usize>) -> String {
    match (range.start, range.end) {
        (start, usize::MAX) => format!("at least {start}"),
        (0, end) => format!("less than {end}"),
        (start, end) => format!("{start} to {}", end.saturating_sub(1)),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use cudarc::nvrtc::sys::nvrtcResult;

    use super::*;

    #[test]
    fn a_refusal_keeps_its_code() {
        let code = NvrtcError(nvrtcResult::NVRTC_ERROR_OUT_OF_MEMORY);
        let error = refused("compile")(code);
        let source = error.source().and_then(|source| source.downcast_ref());
        assert_eq!(source, Some(&Refusal::Nvrtc(code)));
        assert_eq!(
            error.to_string(),
            "the GPU failed (compile): NVRTC says NvrtcError(NVRTC_ERROR_OUT_OF_MEMORY)"
        );
    }
}
