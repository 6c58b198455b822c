//! Gradients under construction: buffers whose columns may be written by different operations.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ParamId;
use crate::{DType, Device, Mat, Result, Shape, Tensor};

/// A gradient of which some columns have been written.
pub(super) struct GradientBuffer {
    tensor: Tensor,
    written: Vec<Range<usize>>,
}

impl GradientBuffer {
    /// A buffer of which nothing is written.
    pub(super) fn new(shape: Shape) -> Result<Self> {
        Ok(Self {
            tensor: Tensor::empty(shape, DType::F32, Device::Cpu)?,
            written: Vec::new(),
        })
    }

    /// A finished gradient.
    pub(super) fn whole(tensor: Tensor) -> Self {
        let all = 0..tensor.shape().cols();
        Self {
            tensor,
            written: Vec::from([all]),
        }
    }

    /// Values in a row of the whole tensor.
    pub(super) fn width(&self) -> usize {
        self.tensor.shape().cols()
    }

    /// Whether `columns` have been written: all, none, or (`None`) some of them.
    pub(super) fn state(&self, columns: &Range<usize>) -> Option<bool> {
        let overlaps = |w: &&Range<usize>| w.start < columns.end && columns.start < w.end;
        let covered: usize = self
            .written
            .iter()
            .filter(overlaps)
            .map(|w| w.end.min(columns.end) - w.start.max(columns.start))
            .sum();
        match covered {
            0 => Some(false),
            n if n == columns.len() => Some(true),
            _ => None,
        }
    }

    /// Notes that `columns`, of which none were written, are.
    pub(super) fn mark(&mut self, columns: Range<usize>) {
        self.written.push(columns);
    }

    /// The address of the first value, for writing through matrices of disjoint columns.
    pub(super) fn address(&mut self) -> Result<*mut f32> {
        Ok(self.tensor.unshare()?.cast())
    }

    /// Sets the columns that nobody wrote to zero.
    fn fill_gaps(&mut self) -> Result<()> {
        let width = self.width();
        self.written.sort_by_key(|range| range.start);
        let mut gaps = Vec::new();
        let mut end = 0;
        for range in &self.written {
            if range.start > end {
                gaps.push(end..range.start);
            }
            end = end.max(range.end);
        }
        if end < width {
            gaps.push(end..width);
        }
        if !gaps.is_empty() {
            for row in self.tensor.make_mut::<f32>()?.chunks_mut(width) {
                for gap in &gaps {
                    row[gap.clone()].fill(0.0);
                }
            }
        }
        self.written.clear();
        self.written.push(0..width);
        Ok(())
    }

    /// The whole gradient; columns that nobody wrote are zero.
    pub(super) fn complete(&mut self) -> Result<Tensor> {
        self.fill_gaps()?;
        Ok(self.tensor.clone())
    }

    /// As [`GradientBuffer::complete`], giving the buffer up.
    pub(super) fn into_complete(mut self) -> Result<Tensor> {
        self.fill_gaps()?;
        Ok(self.tensor)
    }

    /// Adds `values` to `columns`, or sets them where nothing was written.
    pub(super) fn add(&mut self, columns: Range<usize>, values: Mat<'_>) -> Result<()> {
        let state = self.state(&columns);
        if state.is_none() {
            self.fill_gaps()?;
        }
        let width = self.width();
        let fresh = state == Some(false);
        for (i, row) in self.tensor.make_mut::<f32>()?.chunks_mut(width).enumerate() {
            let row = &mut row[columns.clone()];
            if fresh {
                row.copy_from_slice(values.row(i));
            } else {
                for (sum, value) in row.iter_mut().zip(values.row(i)) {
                    *sum += value;
                }
            }
        }
        if fresh {
            self.mark(columns);
        }
        Ok(())
    }
}

/// Gradients of parameters, by id. [`super::Tape::backward`] adds to what is there, so several passes accumulate.
#[derive(Default)]
pub struct Gradients {
    pub(super) buffers: BTreeMap<ParamId, Option<GradientBuffer>>,
}

impl Gradients {
    /// No gradients.
    pub fn new() -> Self {
        Self::default()
    }

    /// The gradient of a parameter, in its shape; `None` where nothing depended on it.
    pub fn get(&mut self, id: ParamId) -> Result<Option<Tensor>> {
        self.buffers
            .get_mut(&id)
            .and_then(Option::as_mut)
            .map(GradientBuffer::complete)
            .transpose()
    }

    /// Forgets all gradients; their buffers go back to the pool.
    pub fn clear(&mut self) {
        self.buffers.clear();
    }
}
