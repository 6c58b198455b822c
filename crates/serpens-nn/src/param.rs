//! Parameters: a shape, how the values start, and the values once there are any.

use serpens_core::{DType, Device, Error as CoreError, ParamId, Shape, Tensor, Var, expect_dtype};
use serpens_ops::elementwise::{add, cast};
use serpens_ops::linear::{Weight, linear};

use crate::lora::Lora;
use crate::{Error, Precision, Result, Start};

/// A tensor of a model, in f32. It has no values before it is filled, by its start or from a file. Its gradient is
/// found in [`serpens_core::Gradients`] under [`Param::id`]. A clone is a parameter of its own that begins with the
/// same value.
#[derive(Clone, Debug)]
pub struct Param {
    id: Identity,
    shape: Shape,
    /// How the values start.
    pub start: Start,
    /// Whether it is a parameter at all. If not, it keeps the values of its start, has no gradient, is not counted
    /// among a model's parameters and not saved.
    pub trained: bool,
    /// Whether weight decay pulls it towards zero.
    pub decay: bool,
    /// The largest learning rate to train it with.
    pub max_lr: f32,
    /// Whether it is an operand of matrix products, which may want it in bf16.
    pub matrix: bool,
    /// Whether it is left as it is for now; see [`crate::Module::set_frozen`].
    pub frozen: bool,
    value: Option<Tensor>,
    /// The value in bf16, where products are of that type.
    shadow: Option<Tensor>,
    /// In which types it is multiplied.
    precision: Precision,
    /// What is added to it as a matrix.
    pub(crate) lora: Option<Box<Lora>>,
}

/// An id that is not copied.
#[derive(Debug)]
struct Identity(ParamId);

impl Clone for Identity {
    fn clone(&self) -> Self {
        Identity(ParamId::fresh())
    }
}

impl Param {
    /// A parameter without values, which will be trained, and which weight decay pulls towards zero.
    pub fn new(shape: impl Into<Shape>, start: Start) -> Self {
        Self {
            id: Identity(ParamId::fresh()),
            shape: shape.into(),
            start,
            trained: true,
            decay: true,
            max_lr: f32::INFINITY,
            matrix: false,
            frozen: false,
            value: None,
            shadow: None,
            precision: Precision::F32,
            lora: None,
        }
    }

    /// The same parameter, left alone by weight decay: biases, norms, A and D.
    pub fn without_decay(mut self) -> Self {
        self.decay = false;
        self
    }

    /// The same parameter as an operand of matrix products.
    pub fn as_matrix(mut self) -> Self {
        self.matrix = true;
        self
    }

    /// Names the gradient.
    pub fn id(&self) -> ParamId {
        self.id.0
    }

    /// Makes it another handle to the parameter of this id.
    pub(crate) fn identify(&mut self, id: ParamId) {
        self.id = Identity(id);
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of values that it has or will have; the largest number where it exceeds the address space.
    pub fn count(&self) -> usize {
        self.shape.count()
    }

    /// Where the values are; the processor before there are any.
    pub fn device(&self) -> Device {
        self.held().map_or(Device::Cpu, Tensor::device)
    }

    /// What there is of the value: itself, or only the same in bf16, see [`Param::drop_f32`].
    ///
    /// # Errors
    /// [`Error::NoValue`] before it is filled.
    pub fn held(&self) -> Result<&Tensor> {
        let held = self.value.as_ref().or(self.shadow.as_ref());
        held.ok_or_else(|| Error::no_value(self.shape))
    }

    /// The value.
    ///
    /// # Errors
    /// [`Error::NoValue`] before it is filled.
    pub fn value(&self) -> Result<&Tensor> {
        let value = self.value.as_ref();
        value.ok_or_else(|| Error::no_value(self.shape))
    }

    /// Gives it this value.
    ///
    /// # Errors
    /// A value of another shape or type than f32; memory.
    pub fn set(&mut self, value: Tensor) -> Result<()> {
        if value.shape() != self.shape {
            let (expected, got) = (self.shape.to_string(), value.shape());
            return Err(CoreError::shape("Param", "the value", expected, got).into());
        }
        expect_dtype("Param", "the value", DType::F32, value.dtype())?;
        self.value = Some(value);
        self.refresh()
    }

    /// Draws the values it starts with. They depend on the seed and on its name in the model alone.
    pub fn fill(&mut self, name: &str, device: Device, seed: u64) -> Result<()> {
        self.set(self.start.draw(self.shape, name, seed, device)?)
    }

    /// The value, to be changed in place, and the same in bf16 where the model computes in that type, for an
    /// optimiser that writes both.
    ///
    /// # Errors
    /// [`Error::NoValue`] before it is filled.
    pub fn tensors_mut(&mut self) -> Result<(&mut Tensor, Option<&mut Tensor>)> {
        let value = self.value.as_mut();
        let value = value.ok_or_else(|| Error::no_value(self.shape))?;
        Ok((value, self.shadow.as_mut()))
    }

    /// Makes the shadow anew from the value, where products want one.
    fn refresh(&mut self) -> Result<()> {
        self.shadow = match self.matrix && self.precision == Precision::Bf16 {
            true => Some(cast(&self.value()?.clone().into(), DType::BF16)?.into_tensor()?),
            false => None,
        };
        Ok(())
    }

    /// Moves the value to `device`, to be multiplied there in this precision.
    ///
    /// # Errors
    /// [`Error::Precision`] for one that the processor does not compute in; [`Error::NoValue`]; memory.
    pub fn to(&mut self, device: Device, precision: Precision) -> Result<()> {
        if device == Device::Cpu && precision != Precision::F32 {
            return Err(Error::Precision(precision));
        }
        self.value = Some(self.value()?.to(device)?);
        self.precision = precision;
        self.refresh()
    }

    /// Keeps of a matrix that is multiplied in bf16 this alone: it has no f32 values then, and is neither trained nor
    /// saved.
    pub fn drop_f32(&mut self) {
        if self.shadow.is_some() {
            self.value = None;
        }
    }

    /// The value of the parameter that does alone what this one does with what is added to it by
    /// [`crate::MambaLm::adapt`].
    ///
    /// # Errors
    /// [`Error::NoValue`]; memory.
    pub fn merged(&self) -> Result<Tensor> {
        match &self.lora {
            Some(lora) => lora.merge(self.value()?),
            None => Ok(self.value()?.clone()),
        }
    }

    /// x Wᵀ + b with this parameter as W, (outputs, inputs), in the precision that it was brought to, and with what is
    /// added to W. See [`serpens_ops::linear`].
    ///
    /// # Shapes
    /// x (…, inputs), bias (outputs) → (…, outputs)
    pub fn linear(&self, x: &Var, bias: Option<&Param>) -> Result<Var> {
        let weight = match &self.shadow {
            Some(shadow) if x.dtype() == DType::BF16 => self.operand(shadow),
            _ => self.var()?,
        };
        let bias = bias.map(Param::var).transpose()?;
        let products = self.precision.products();
        let y = linear(x, &weight, bias.as_ref(), products)?;
        match &self.lora {
            Some(lora) => Ok(add(&y, &lora.forward(x)?)?),
            None => Ok(y),
        }
    }

    /// As the steps of products and lookups read it: in bf16, where it is multiplied so.
    ///
    /// # Errors
    /// [`Error::NoValue`] before it is filled.
    pub(crate) fn weight(&self) -> Result<Weight<'_>> {
        let held = self.shadow.as_ref().map_or_else(|| self.value(), Ok);
        Ok(Weight::Plain(held?.view()))
    }

    /// The value as an operand: an operation of a tape on it records where its gradient goes, where it is trained and
    /// not frozen.
    ///
    /// # Errors
    /// [`Error::NoValue`] before it is filled.
    pub fn var(&self) -> Result<Var> {
        Ok(self.operand(self.value()?))
    }

    fn operand(&self, value: &Tensor) -> Var {
        match self.trained && !self.frozen {
            true => Var::param(self.id(), value.clone()),
            false => value.clone().into(),
        }
    }

    /// In which types it is multiplied.
    pub fn precision(&self) -> Precision {
        self.precision
    }
}
