//! Gradients under construction: buffers whose columns may be written by different operations.

use std::collections::BTreeMap;
use std::ops::Range;

use super::add;
use super::slot::{InputSlot, ParamId};
use crate::{Device, Result, Tensor, View, ViewMut};

/// A gradient in the making.
pub(super) struct GradientBuffer {
    tensor: Tensor,
    /// Which columns have been written.
    written: Vec<bool>,
}

impl GradientBuffer {
    /// A buffer for the gradient of a whole input, of which nothing is written.
    pub(super) fn new(input: &InputSlot) -> Result<Self> {
        Ok(Self {
            tensor: Tensor::empty(input.base, input.dtype, input.device)?,
            written: vec![false; input.base.cols()],
        })
    }

    /// A finished gradient.
    pub(super) fn whole(tensor: Tensor) -> Self {
        let written = vec![true; tensor.shape().cols()];
        Self { tensor, written }
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
        !self.written.contains(&true)
    }

    /// Whether `columns` have been written: all, none, or (`None`) some of them.
    pub(super) fn state(&self, columns: &Range<usize>) -> Option<bool> {
        let written = &self.written[columns.clone()];
        match (written.contains(&true), written.contains(&false)) {
            (true, true) => None,
            (any, _) => Some(any),
        }
    }

    /// Notes that `columns` are written.
    pub(super) fn mark(&mut self, columns: &Range<usize>) {
        self.written[columns.clone()].fill(true);
    }

    /// Counts `columns` as written from now on. Says whether they hold values to add to; where some of them do, the
    /// others are zero.
    pub(super) fn occupy(&mut self, columns: &Range<usize>) -> Result<bool> {
        let state = self.state(columns);
        match state {
            Some(true) => {}
            Some(false) => self.mark(columns),
            None => self.fill_gaps()?,
        }
        Ok(state != Some(false))
    }

    /// Sets the columns that nobody wrote to zero.
    fn fill_gaps(&mut self) -> Result<()> {
        let written = std::mem::take(&mut self.written);
        let mut start = 0;
        for run in written.chunk_by(PartialEq::eq) {
            let columns = start..start + run.len();
            if !run[0] {
                self.columns(&columns)?.zero()?;
            }
            start = columns.end;
        }
        self.written = vec![true; start];
        Ok(())
    }

    /// The whole gradient; columns that nobody wrote are zero.
    pub(super) fn complete(&mut self) -> Result<Tensor> {
        self.fill_gaps()?;
        Ok(self.tensor.clone())
    }

    /// Adds `values` to `columns`, or sets them where nothing was written.
    pub(super) fn add(&mut self, columns: Range<usize>, values: View<'_>) -> Result<()> {
        if !self.occupy(&columns)? {
            self.columns(&columns)?.zero()?;
        }
        add(self.columns(&columns)?, values)
    }

    /// Some columns, for writing.
    pub(super) fn columns(&mut self, columns: &Range<usize>) -> Result<ViewMut<'_>> {
        Ok(self.tensor.view_mut()?.columns(columns.clone()))
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
            .filter(|buffer| !buffer.is_unwritten())
            .map(GradientBuffer::complete)
            .transpose()
    }

    /// Forgets all gradients but keeps their buffers: the next pass writes to the same addresses.
    pub fn clear(&mut self) {
        for buffer in self.buffers.values_mut().flatten() {
            buffer.written.fill(false);
        }
    }
}
