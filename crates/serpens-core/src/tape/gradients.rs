//! Gradients under construction: buffers whose columns may be written by different operations.

use std::collections::BTreeMap;
use std::ops::Range;

use super::add;
use super::slot::{InputSlot, ParamId};
use crate::{Device, Result, Tensor, View, ViewMut};

/// A gradient of which some columns have been written.
pub(super) struct GradientBuffer {
    tensor: Tensor,
    written: Vec<Range<usize>>,
}

impl GradientBuffer {
    /// A buffer for the gradient of a whole input, of which nothing is written.
    pub(super) fn new(input: &InputSlot) -> Result<Self> {
        Ok(Self {
            tensor: Tensor::empty(input.base, input.dtype, input.device)?,
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

    /// Whether the buffer is what `input`'s gradient needs.
    pub(super) fn fits(&self, input: &InputSlot) -> bool {
        let tensor = &self.tensor;
        tensor.device() == input.device
            && tensor.dtype() == input.dtype
            && tensor.shape() == input.base
    }

    /// Whether there are no values in it.
    pub(super) fn is_unwritten(&self) -> bool {
        self.written.is_empty()
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

    /// Sets the columns that nobody wrote to zero.
    fn fill_gaps(&mut self) -> Result<()> {
        let width = self.tensor.shape().cols();
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
        for gap in gaps {
            self.columns(&gap)?.zero()?;
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
    pub(super) fn add(&mut self, columns: Range<usize>, values: View<'_>) -> Result<()> {
        match self.state(&columns) {
            Some(true) => {}
            Some(false) => {
                self.columns(&columns)?.zero()?;
                self.mark(columns.clone());
            }
            None => self.fill_gaps()?,
        }
        add(self.columns(&columns)?, values)
    }

    /// Some columns, for writing.
    pub(super) fn columns(&mut self, columns: &Range<usize>) -> Result<ViewMut<'_>> {
        Ok(self.tensor.view_mut()?.columns(columns))
    }
}

/// to += from.
fn add(to: ViewMut<'_>, from: View<'_>) -> Result<()> {
    match to.device() {
        Device::Cpu => {
            let (mut to, from) = (to.mat()?, from.mat()?);
            for i in 0..to.rows() {
                for (sum, value) in to.row(i).iter_mut().zip(from.row(i)) {
                    *sum += value;
                }
            }
            Ok(())
        }
        Device::Cuda(_) => add::add(to, from),
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
            .filter(|buffer| !buffer.written.is_empty())
            .map(GradientBuffer::complete)
            .transpose()
    }

    /// Forgets all gradients but keeps their buffers: the next pass writes to the same addresses.
    pub fn clear(&mut self) {
        for buffer in self.buffers.values_mut().flatten() {
            buffer.written.clear();
        }
    }
}
