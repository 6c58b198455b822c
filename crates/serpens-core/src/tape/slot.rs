//! Where the gradient of an operation's input goes.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{DType, Device, Shape};

/// Names a parameter across tapes: its gradient is found under it in [`crate::Gradients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(u64);

impl ParamId {
    /// An id that no other parameter of this process has.
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ParamId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Where the gradient of a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    None,
    Slot(usize),
    Param(ParamId),
}

/// Where the gradient of an operation's input goes.
#[derive(Clone, Debug)]
pub(super) struct InputSlot {
    pub(super) target: Target,
    pub(super) rows: usize,
    pub(super) row_width: usize,
    pub(super) base: Shape,
    pub(super) columns: Option<Range<usize>>,
    /// The type and the place of the gradient.
    pub(super) dtype: DType,
    pub(super) device: Device,
}

impl InputSlot {
    /// Number of columns of the input as the operation saw it.
    pub(super) fn width(&self) -> usize {
        self.columns.as_ref().map_or(self.row_width, Range::len)
    }

    /// The input's columns in the whole tensor's gradient.
    pub(super) fn range(&self) -> Range<usize> {
        self.columns.clone().unwrap_or(0..self.base.cols())
    }
}
