//! The record of operations, and the values that are on it.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use super::backward::{self, Backward, Node, Store};
use super::gradients::{GradientBuffer, Gradients};
use super::slot::{InputSlot, ParamId, Target};
use crate::{DType, Device, Error, Mat, Result, Shape, Tensor, View};

#[derive(Default)]
struct Record {
    nodes: RefCell<Vec<Node>>,
    /// The gradients of values, by their numbers; borrowed as long as the record is walked.
    slots: RefCell<Vec<Option<GradientBuffer>>>,
    /// How many values have a number.
    numbers: Cell<usize>,
}

/// The record of one forward pass. Cloning gives another handle to the same record.
#[derive(Clone, Default)]
pub struct Tape(Rc<Record>);

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
        let number = self.0.numbers.get();
        self.0.numbers.set(number + 1);
        Var {
            target: Target::Slot(number),
            ..self.constant(value)
        }
    }

    /// Fails for a value that is on another tape.
    fn expect_own(&self, op: &'static str, var: &Var) -> Result<()> {
        match &var.tape {
            Some(other) if !Rc::ptr_eq(&self.0, &other.0) => Err(Error::TapeMismatch { op }),
            _ => Ok(()),
        }
    }

    /// The gradients of this tape's values, a place for each.
    fn slots(&self, op: &'static str) -> Result<RefMut<'_, Vec<Option<GradientBuffer>>>> {
        let slots = self.0.slots.try_borrow_mut();
        let mut slots = slots.map_err(|_| Error::InUse { op })?;
        slots.resize_with(self.0.numbers.get(), || None);
        Ok(slots)
    }

    /// The gradient of a [`Tape::leaf`] after [`Tape::backward`]; `None` where the result did not depend on it.
    ///
    /// # Errors
    /// [`Error::TapeMismatch`] for a value of another tape; [`Error::InUse`] inside a backward pass of this one.
    pub fn gradient(&self, leaf: &Var) -> Result<Option<Tensor>> {
        const OP: &str = "gradient";
        self.expect_own(OP, leaf)?;
        let Target::Slot(slot) = leaf.target else {
            return Ok(None);
        };
        match &mut self.slots(OP)?[slot] {
            Some(buffer) => buffer.complete().map(Some),
            None => Ok(None),
        }
    }

    /// Adds `scale · d loss / d p` to the gradient of every parameter p that the one-valued `loss` depends on, and
    /// clears the record.
    ///
    /// # Errors
    /// [`Error::Shape`] for a loss of more or fewer values; those of [`Tape::backward_from`].
    pub fn backward(&self, loss: &Var, scale: f32, gradients: &mut Gradients) -> Result<()> {
        let shape = loss.shape();
        if shape.count() != 1 {
            return Err(Error::shape(BACKWARD, "the loss", "one value", shape));
        }
        let seed = Tensor::full(shape, scale, loss.device())?;
        self.backward_from(vec![(loss, seed)], gradients)
    }

    /// As [`Tape::backward`], from any values with the gradients that arrive at them.
    ///
    /// # Errors
    /// [`Error::TapeMismatch`] for a value of another tape; [`Error::InUse`] inside a backward pass of this one;
    /// gradients that do not fit their values; whatever an operation's [`Backward`] fails with.
    pub fn backward_from(
        &self,
        seeds: Vec<(&Var, Tensor)>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        for (var, _) in &seeds {
            self.expect_own(BACKWARD, var)?;
        }
        let mut slots = self.slots(BACKWARD)?;
        let nodes = self.0.nodes.take();
        let mut store = Store {
            slots: &mut slots,
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

const BACKWARD: &str = "backward";

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
            Some(columns) => self.value.view().columns(columns.clone()),
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
            let least = range.end.max(range.start.saturating_add(1));
            let expected = format!("at least {least} columns");
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

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match (self.target, &self.tape) {
            (Target::Param(_), _) => "a parameter",
            (Target::Slot(_), _) => "tracked",
            (Target::None, Some(_)) => "constant",
            (Target::None, None) => "not tracked",
        };
        let (dtype, shape, device) = (self.dtype(), self.shape(), self.device());
        write!(f, "Var {dtype} {shape} on {device}, {role}")
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
    let end = tape.0.numbers.get();
    let untracked = || InputSlot {
        target: Target::None,
        rows: 0,
        row_width: 0,
        base: Shape::from(0),
        columns: None,
        dtype: DType::F32,
        device: Device::Cpu,
    };
    tape.0.nodes.borrow_mut().push(Node {
        op,
        inputs: inputs
            .iter()
            .map(|input| input.map_or_else(untracked, Var::input_slot))
            .collect(),
        outputs: end - K..end,
        operation,
    });
    Ok(outputs)
}
