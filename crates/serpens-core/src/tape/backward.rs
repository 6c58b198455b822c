//! One step of the walk backwards: what an operation sees of the gradients around it.

use std::cell::Cell;
use std::ops::Range;

use super::gradients::{GradientBuffer, Gradients};
use super::slot::{InputSlot, Target};
use crate::{Error, Result, Tensor, ViewMut, expect_range};

/// The backward pass of one recorded operation, with whatever it kept from its forward.
pub trait Backward {
    /// Reads the gradients of the outputs from `context` and passes gradients to the inputs.
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()>;
}

/// Every gradient there is during a backward pass.
pub(super) struct Store<'g> {
    pub(super) slots: &'g mut Vec<Option<GradientBuffer>>,
    pub(super) gradients: &'g mut Gradients,
}

impl Store<'_> {
    /// The place of `input`'s whole gradient; `None` where none is wanted.
    fn slot(&mut self, input: &InputSlot) -> Option<&mut Option<GradientBuffer>> {
        match input.target {
            Target::None => None,
            Target::Slot(slot) => Some(&mut self.slots[slot]),
            Target::Param(id) => Some(self.gradients.buffers.entry(id).or_default()),
        }
    }

    /// The buffer of `input`'s whole tensor, made if there is none.
    fn buffer(&mut self, input: &InputSlot) -> Result<Option<&mut GradientBuffer>> {
        let Some(slot) = self.slot(input) else {
            return Ok(None);
        };
        match slot {
            Some(buffer) if buffer.fits(input) => {}
            Some(buffer) if !buffer.is_unwritten() => {
                return Err(Error::OldGradient);
            }
            _ => *slot = Some(GradientBuffer::new(input)?),
        }
        Ok(slot.as_mut())
    }

    /// Adds `gradient` to that of `input`; becomes it, without a copy, where there is none yet.
    pub(super) fn add(&mut self, input: &InputSlot, gradient: Tensor) -> Result<()> {
        if gradient.len() != input.rows * input.width() {
            let expected = format!("{} rows of {} values", input.rows, input.width());
            let got = gradient.shape();
            return Err(Error::shape("backward", "a gradient", expected, got));
        }
        let Some(slot) = self.slot(input) else {
            return Ok(());
        };
        let as_it_is = gradient.dtype() == input.dtype && gradient.device() == input.device;
        if slot.is_none() && input.columns.is_none() && as_it_is {
            *slot = Some(GradientBuffer::whole(gradient.reshape(input.base)?));
            return Ok(());
        }
        let Some(buffer) = self.buffer(input)? else {
            return Ok(());
        };
        let range = input.range();
        let values = gradient.reshape([input.base.rows(), range.len()])?;
        buffer.add(range, values.view())
    }
}

/// A recorded operation.
pub(super) struct Node {
    pub(super) op: &'static str,
    pub(super) inputs: Vec<InputSlot>,
    pub(super) outputs: Range<usize>,
    pub(super) operation: Box<dyn Backward>,
}

/// Runs one operation's backward, if a gradient arrived at any of its outputs.
pub(super) fn run(node: Node, store: &mut Store<'_>) -> Result<()> {
    let mut outputs = Vec::with_capacity(node.outputs.len());
    for slot in node.outputs {
        let buffer = store.slots[slot].take();
        outputs.push(buffer.map(|mut buffer| buffer.complete()).transpose()?);
    }
    if outputs.iter().all(Option::is_none) {
        return Ok(());
    }
    let mut context = BackwardContext {
        op: node.op,
        wrong: Cell::new(None),
        inputs: &node.inputs,
        outputs,
        store,
        pending: Vec::new(),
    };
    node.operation.backward(&mut context)?;
    if let Some(error) = context.wrong.take() {
        return Err(error);
    }
    let pending = std::mem::take(&mut context.pending);
    for (index, gradient) in pending {
        store.add(&node.inputs[index], gradient)?;
    }
    Ok(())
}

/// What [`Backward::backward`] sees: the gradients of its outputs, and where those of its inputs go. Inputs and outputs
/// are named by their position in [`super::record`]; that of an input that there is not fails the backward pass with
/// [`Error::Range`], also where it is only asked about.
pub struct BackwardContext<'c, 'g> {
    op: &'static str,
    /// What was asked with a position that there is not.
    wrong: Cell<Option<Error>>,
    inputs: &'c [InputSlot],
    outputs: Vec<Option<Tensor>>,
    store: &'c mut Store<'g>,
    pending: Vec<(usize, Tensor)>,
}

impl<'c> BackwardContext<'c, '_> {
    /// Takes the gradient of output `index`, contiguous; `None` where nothing depends on that output, or there is none.
    pub fn take_output(&mut self, index: usize) -> Option<Tensor> {
        self.outputs.get_mut(index).and_then(Option::take)
    }

    /// Whether input `index` needs a gradient.
    pub fn wants(&self, index: usize) -> bool {
        let input = self.input(index);
        input.is_ok_and(|input| input.target != Target::None)
    }

    /// Input `index`; where there is none, the pass fails, whatever becomes of the error here.
    fn input(&self, index: usize) -> Result<&'c InputSlot> {
        let (op, what) = (self.op, "the position of an input");
        let there = expect_range(op, what, 0..self.inputs.len(), index);
        there.inspect_err(|error| self.wrong.set(Some(error.clone())))?;
        Ok(&self.inputs[index])
    }

    /// The gradients of parameters, for an operation that goes back through a tape of its own.
    pub fn gradients(&mut self) -> &mut Gradients {
        self.store.gradients
    }

    /// Adds `gradient` to that of input `index`, which takes it over without a copy where it is the first.
    pub fn add(&mut self, index: usize, gradient: Tensor) -> Result<()> {
        let input = self.input(index)?;
        if input.target == Target::None {
            return Ok(());
        }
        self.store.add(input, gradient)
    }

    /// The matrix of input `index`'s gradient for an operation that can add to what is there: the flag says whether it
    /// must (otherwise the contents are arbitrary, and it must write every value). `None` where no gradient is wanted.
    pub fn accumulator(&mut self, index: usize) -> Result<Option<(ViewMut<'_>, bool)>> {
        let input = self.input(index)?;
        let Some(buffer) = self.store.buffer(input)? else {
            return Ok(None);
        };
        let columns = input.range();
        let accumulate = buffer.occupy(&columns)?;
        Ok(Some((matrix(buffer, input, &columns)?, accumulate)))
    }

    /// Matrices for the gradients of several inputs, to be overwritten completely. Where an input already has a
    /// gradient, its matrix is a temporary that is added afterwards; where none is wanted, one that is thrown away.
    pub fn overwrite<const K: usize>(&mut self, indices: [usize; K]) -> Result<[ViewMut<'_>; K]> {
        let mut matrices = [const { None }; K];
        for (place, index) in matrices.iter_mut().zip(indices) {
            *place = Some(self.overwrite_one(index)?);
        }
        Ok(matrices.map(|matrix| matrix.expect("each was set above")))
    }

    fn overwrite_one<'m>(&mut self, index: usize) -> Result<ViewMut<'m>> {
        let input = self.input(index)?;
        if let Some(buffer) = self.store.buffer(input)? {
            let columns = input.range();
            if buffer.state(&columns) == Some(false) {
                buffer.mark(&columns);
                return matrix(buffer, input, &columns);
            }
        }
        let width = input.width();
        let mut temporary = Tensor::empty([input.rows, width], input.dtype, input.device)?;
        let first = temporary.view_mut()?.ptr();
        self.pending.push((index, temporary));
        let sizes = [input.rows, width, width];
        // SAFETY: the temporary lives in `pending`, untouched until the context's borrow by `overwrite` ends.
        Ok(unsafe { ViewMut::at(first, sizes, input.dtype, input.device) })
    }
}

/// The columns of a gradient buffer as a matrix for writing.
fn matrix<'a>(
    buffer: &mut GradientBuffer,
    input: &InputSlot,
    columns: &Range<usize>,
) -> Result<ViewMut<'a>> {
    let first = buffer.columns(columns)?.ptr();
    let sizes = [input.rows, input.width(), input.row_width];
    // SAFETY: the buffer has `rows` rows of `row_width` values and lives in the store, which the context borrows as
    // long as the matrix; columns handed out together are disjoint, as each is marked written before the next is asked
    // for.
    Ok(unsafe { ViewMut::at(first, sizes, input.dtype, input.device) })
}
