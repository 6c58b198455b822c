//! How a sequence is to be read.

use std::cell::RefCell;

use serpens_ops::Starts;

use crate::Recompute;
use crate::ssm::SelectionTrace;

/// How a layer is to read a sequence.
#[derive(Clone, Copy, Default)]
pub struct Sequence<'a> {
    /// Where packed sequences start: nothing is remembered across these positions.
    pub starts: Option<&'a Starts>,
    /// From the last position to the first.
    pub reverse: bool,
    /// What is computed again for the gradients, where the sequence is read without a state.
    pub recompute: Recompute,
    /// Collects what each selective layer did with each token.
    pub trace: Option<&'a RefCell<Vec<SelectionTrace>>>,
}

/// How a sequence is to be read, to be kept for a second reading.
pub(crate) struct OwnedSequence {
    starts: Option<Starts>,
    reverse: bool,
}

impl Sequence<'_> {
    /// The same, without what is done once only.
    pub(crate) fn owned(&self) -> OwnedSequence {
        OwnedSequence {
            starts: self.starts.cloned(),
            reverse: self.reverse,
        }
    }
}

impl OwnedSequence {
    pub(crate) fn borrow(&self) -> Sequence<'_> {
        Sequence {
            starts: self.starts.as_ref(),
            reverse: self.reverse,
            ..Sequence::default()
        }
    }
}
