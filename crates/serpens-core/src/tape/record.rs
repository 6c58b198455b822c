//! The record of operations, and the values that are on it.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use super::backward::{self, Backward, Node, Store};
use super::gradients::{GradientBuffer, Gradients};
use super::slot::{InputSlot, ParamId, Target};
use crate::{DType, Device, Error, Mat, Result, Shape, Tensor, View};

#[derive(Default)]
struct Inner {
    nodes: Vec<Node>,
    slots: Vec<Option<GradientBuffer>>,
}

/// The record of one forward pass. Cloning gives another handle to the same record.
#[derive(Clone, Default)]
pub struct Tape(Rc<RefCell<Inner>>);

impl Tape {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// A value that needs no gradient itself; operations on it and on parameters are recorded here.
    pub fn constant(&self, value: Tensor) -> Var {
        Var {
            tape: Some(self.clone()),
            ..Var::from(value)
        }
    }

    /// A value whose gradient [`Tape::gradient`] gives after the backward pass.
    pub fn leaf(&self, value: Tensor) -> Var {
        let slots = &mut self.0.borrow_mut().slots;
        slots.push(None);
        Var {
            target: Target::Slot(slots.len() - 1),
            ..self.constant(value)
        }
    }

    /// The gradient of a [`Tape::leaf`] after [`Tape::backward`]; `None` where the result did not depend on it.
    pub fn gradient(&self, leaf: &Var) -> Result<Option<Tensor>> {
        let Target::Slot(slot) = leaf.target else {
            return Ok(None);
        };
        match &mut self.0.borrow_mut().slots[slot] {
            Some(buffer) => buffer.complete().map(Some),
            None => Ok(None),
        }
    }

    /// As [`Tape::gradient`], giving the tape's own hold on it up.
    pub(super) fn take_gradient(&self, leaf: &Var) -> Result<Option<Tensor>> {
        let Target::Slot(slot) = leaf.target else {
            return Ok(None);
        };
        let buffer = self.0.borrow_mut().slots[slot].take();
        buffer.map(GradientBuffer::into_complete).transpose()
    }

    /// Adds `scale · d loss / d p` to the gradient of every parameter p that the one-valued `loss` depends on, and
    /// clears the record.
    pub fn backward(&self, loss: &Var, scale: f32, gradients: &mut Gradients) -> Result<()> {
        let seed = Tensor::full(loss.shape(), scale, loss.value.device())?;
        if seed.len() != 1 {
            let got = loss.shape();
            return Err(Error::shape("backward", "the loss", "one value", got));
        }
        self.backward_from(vec![(loss, seed)], gradients)
    }

    /// As [`Tape::backward`], from any values with the gradients that arrive at them.
    pub fn backward_from(
        &self,
        seeds: Vec<(&Var, Tensor)>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let mut inner = self.0.borrow_mut();
        let nodes = std::mem::take(&mut inner.nodes);
        let mut store = Store {
            slots: &mut inner.slots,
            gradients,
        };
        for (var, seed) in seeds {
            store.add(&var.input_slot(), seed)?;
        }
        for node in nodes.into_iter().rev() {
            backward::run(node, &mut store)?;
        }
        Ok(())
    }
}

/// A tensor, or a range of its columns, that may be tracked by a [`Tape`]. Made from a tensor with `Var::from`, it is
/// not tracked, and operations on it record nothing: the same code then serves inference.
#[derive(Clone)]
pub struct Var {
    pub(super) value: Tensor,
    /// The shape under which the value was made, and so the shape of its gradient, whatever this handle's own.
    base: Shape,
    columns: Option<Range<usize>>,
    tape: Option<Tape>,
    target: Target,
}

impl From<Tensor> for Var {
    fn from(value: Tensor) -> Self {
        Var {
            base: value.shape(),
            value,
            columns: None,
            tape: None,
            target: Target::None,
        }
    }
}

impl Var {
    /// A parameter's value: operations with it and a value of a tape are recorded there. Its gradient is f32, also
    /// where `value` is a shadow of the parameter in another type.
    pub fn param(id: ParamId, value: Tensor) -> Self {
        Var {
            target: Target::Param(id),
            ..Var::from(value)
        }
    }

    /// The shape, of the column range where this is one.
    pub fn shape(&self) -> Shape {
        match &self.columns {
            Some(columns) => self.value.shape().with_cols(columns.len()),
            None => self.value.shape(),
        }
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }

    /// The tensor.
    ///
    /// # Errors
    /// [`Error::Columns`] where this is a range of columns, which no contiguous tensor holds: use [`Var::view`].
    pub fn tensor(&self) -> Result<&Tensor> {
        match self.columns {
            None => Ok(&self.value),
            Some(_) => Err(Error::Columns { op: "Var::tensor" }),
        }
    }

    /// The tensor, given up by this handle; see [`Var::tensor`].
    pub fn into_tensor(self) -> Result<Tensor> {
        self.tensor()?;
        Ok(self.value)
    }

    /// Where the values are.
    pub fn device(&self) -> Device {
        self.value.device()
    }

    /// The values as a matrix on their device.
    pub fn view(&self) -> View<'_> {
        match &self.columns {
            Some(columns) => self.value.view().columns(columns),
            None => self.value.view(),
        }
    }

    /// The f32 values on the processor as a matrix.
    pub fn mat(&self) -> Result<Mat<'_>> {
        self.view().mat()
    }

    /// The same values without gradient or tape: what an operation keeps for its backward, so that the record does not
    /// hold itself.
    pub fn detach(&self) -> Var {
        Var {
            tape: None,
            target: Target::None,
            ..self.clone()
        }
    }

    /// Columns `range` of every row (of the last axis): shares the values, and its gradient goes into those columns.
    ///
    /// # Errors
    /// [`Error::Shape`] for columns that are not there, or of a value that needs a gradient and was reshaped to another
    /// last axis.
    pub fn columns(&self, range: Range<usize>) -> Result<Var> {
        if range.start >= range.end || range.end > self.shape().cols() {
            let expected = format!("at least {} columns", range.end.max(range.start + 1));
            let got = self.shape();
            return Err(Error::shape("columns", "the tensor", expected, got));
        }
        // The gradient has the shape under which the value was made: under another last axis these would not be its
        // columns.
        if self.target != Target::None && self.base.cols() != self.value.shape().cols() {
            let (what, expected) = ("a reshaped value", "the last axis that it was made with");
            return Err(Error::shape("columns", what, expected, self.shape()));
        }
        let first = self.columns.as_ref().map_or(0, |columns| columns.start);
        Ok(Var {
            columns: Some(first + range.start..first + range.end),
            ..self.clone()
        })
    }

    /// The same values under another shape; a range of columns keeps its last axis.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Var> {
        let shape = shape.into();
        let value = match &self.columns {
            None => self.value.reshape(shape)?,
            Some(columns) => {
                if shape.cols() != columns.len() {
                    let expected = "the same last axis";
                    let got = self.shape();
                    return Err(Error::shape("reshape", "a range of columns", expected, got));
                }
                let whole = shape.with_cols(self.value.shape().cols());
                self.value.reshape(whole)?
            }
        };
        Ok(Var {
            value,
            ..self.clone()
        })
    }

    /// The same value on the tape of `other`, where it has none: for operations on parameters alone.
    pub fn on(self, other: &Var) -> Var {
        Var {
            tape: self.tape.or_else(|| other.tape.clone()),
            ..self
        }
    }

    /// The record that this value belongs to.
    pub fn tape(&self) -> Option<&Tape> {
        self.tape.as_ref()
    }

    fn input_slot(&self) -> InputSlot {
        InputSlot {
            target: self.target,
            rows: self.value.shape().rows(),
            row_width: self.value.shape().cols(),
            base: self.base,
            columns: self.columns.clone(),
            dtype: match self.target {
                Target::Param(_) => DType::F32,
                _ => self.dtype(),
            },
            device: self.device(),
        }
    }
}

/// Whether an operation on these inputs has to be recorded, and so has to keep what its backward needs.
pub fn tracked(inputs: &[Option<&Var>]) -> bool {
    let mut inputs = inputs.iter().flatten();
    inputs.clone().any(|var| var.tape.is_some()) && inputs.any(|var| var.target != Target::None)
}

/// Makes variables of an operation's outputs. With `operation` (given where [`tracked`] says so) their gradients will
/// be passed to it, and it passes gradients on to `inputs`, which it names by their position here.
pub fn record<const K: usize>(
    op: &'static str,
    inputs: &[Option<&Var>],
    outputs: [Tensor; K],
    operation: Option<Box<dyn Backward>>,
) -> Result<[Var; K]> {
    let mut tapes = inputs.iter().flatten().filter_map(|var| var.tape.as_ref());
    let Some(tape) = tapes.next() else {
        return Ok(outputs.map(Var::from));
    };
    if tapes.any(|other| !Rc::ptr_eq(&tape.0, &other.0)) {
        return Err(Error::TapeMismatch { op });
    }
    let Some(operation) = operation else {
        return Ok(outputs.map(|output| tape.constant(output)));
    };
    let outputs = outputs.map(|output| tape.leaf(output));
    let mut inner = tape.0.borrow_mut();
    let end = inner.slots.len();
    let untracked = || InputSlot {
        target: Target::None,
        rows: 0,
        row_width: 0,
        base: Shape::from(0),
        columns: None,
        dtype: DType::F32,
        device: Device::Cpu,
    };
    inner.nodes.push(Node {
        inputs: inputs
            .iter()
            .map(|input| input.map_or_else(untracked, Var::input_slot))
            .collect(),
        outputs: end - K..end,
        operation,
    });
    drop(inner);
    Ok(outputs)
}
