//! Parameters: a shape, how the values start, and the values once there are any.

use serpens_core::{DType, Device, Error as CoreError, ParamId, Shape, Tensor, Var, expect_dtype};
use serpens_formats::Encoding;
use serpens_ops::elementwise::{add, cast};
use serpens_ops::embedding::{embedding, packed_embedding};
use serpens_ops::linear::{Held, Weight, linear};
use serpens_ops::quantized_linear::{Packed, quantized_linear};

use crate::lora::Lora;
use crate::{Error, Precision, Result, Start};

/// A tensor of a model, in f32, or narrower where it is only asked ([`Param::narrow`]). It has no values before it is
/// filled, by its start or from a file. Its gradient is found in [`serpens_core::Gradients`] under [`Param::id`]. A
/// clone is a parameter of its own that begins with the same value.
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
    /// Of how many tokens one makes use of it.
    pub every: usize,
    /// Whether it is left as it is for now; see [`crate::Module::set_frozen`].
    pub frozen: bool,
    value: Option<Tensor>,
    /// What is multiplied in place of the value: beside it in bf16, where it is trained so; otherwise alone.
    narrow: Option<Held>,
    /// In which types it is multiplied.
    precision: Precision,
    /// What is added to it as a matrix.
    pub(crate) lora: Option<Box<Lora>>,
}

/// How the values are encoded.
pub(crate) fn encoding_of(held: &Held) -> Encoding {
    match held {
        Held::Plain(value) => Encoding::of(value.dtype()),
        Held::Packed(value) => Encoding::Blocks(value.blocks()),
    }
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
            every: 1,
            frozen: false,
            value: None,
            narrow: None,
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
        self.held().map_or(Device::Cpu, |held| held.device())
    }

    /// What there is of the value, a handle: itself, or what [`Param::narrow`] left.
    ///
    /// # Errors
    /// [`Error::NoValue`] before it is filled.
    pub fn held(&self) -> Result<Held> {
        let value = self.value.clone().map(Held::Plain);
        let held = value.or_else(|| self.narrow.clone());
        held.ok_or_else(|| self.no_value())
    }

    /// The value.
    ///
    /// # Errors
    /// [`Error::NoValue`] before it is filled; [`Error::Narrow`].
    pub fn value(&self) -> Result<&Tensor> {
        self.value.as_ref().ok_or_else(|| self.no_value())
    }

    fn no_value(&self) -> Error {
        let (name, shape) = (None, Box::new(self.shape));
        match &self.narrow {
            None => Error::NoValue { name, shape },
            Some(narrow) => {
                let held = encoding_of(narrow);
                Error::Narrow { name, shape, held }
            }
        }
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
    /// [`Error::NoValue`] before it is filled; [`Error::Narrow`].
    pub fn tensors_mut(&mut self) -> Result<(&mut Tensor, Option<&mut Tensor>)> {
        self.value()?;
        let value = self.value.as_mut().expect("it was just seen");
        let shadow = match &mut self.narrow {
            Some(Held::Plain(shadow)) => Some(shadow),
            _ => None,
        };
        Ok((value, shadow))
    }

    /// Makes the value in bf16 anew, where products want one.
    fn refresh(&mut self) -> Result<()> {
        self.narrow = match self.matrix && self.precision == Precision::Bf16 {
            true => Some(self.in_bf16()?),
            false => None,
        };
        Ok(())
    }

    fn in_bf16(&self) -> Result<Held> {
        let value = self.var()?.detach();
        Ok(Held::Plain(cast(&value, DType::BF16)?.into_tensor()?))
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

    /// Has the value only asked from now on, and keeps it on `device` in this encoding alone: bf16, blocks, or f32 for
    /// all others. It is neither trained nor saved then.
    ///
    /// # Errors
    /// Those of [`Param::to`]; values that blocks cannot hold.
    pub fn narrow(
        &mut self,
        device: Device,
        precision: Precision,
        encoding: Encoding,
    ) -> Result<()> {
        if let Encoding::Blocks(kind) = encoding {
            let packed = Packed::quantize(kind, self.value()?, device)?;
            self.hold(Held::Packed(packed), precision);
            return Ok(());
        }
        self.to(device, precision)?;
        if encoding == Encoding::BF16 {
            let narrow = match self.narrow.take() {
                Some(narrow) => narrow,
                None => self.in_bf16()?,
            };
            self.hold(narrow, precision);
        }
        Ok(())
    }

    /// Takes what is only asked, in place of a value.
    pub(crate) fn hold(&mut self, narrow: Held, precision: Precision) {
        (self.value, self.narrow, self.precision) = (None, Some(narrow), precision);
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
    ///
    /// # Errors
    /// [`Error::NoValue`]; [`Error::Narrow`] on a tape; what does not fit.
    pub fn linear(&self, x: &Var, bias: Option<&Param>) -> Result<Var> {
        let bias = bias.map(Param::var).transpose()?;
        let products = self.precision.products();
        let y = match self.narrow_for(x)? {
            Some(Held::Packed(w)) => quantized_linear(x, w, bias.as_ref())?,
            Some(Held::Plain(w)) => linear(x, &self.operand(w), bias.as_ref(), products)?,
            None => linear(x, &self.var()?, bias.as_ref(), products)?,
        };
        match &self.lora {
            Some(lora) => Ok(add(&y, &lora.forward(x)?)?),
            None => Ok(y),
        }
    }

    /// Rows of this parameter by token id. See [`serpens_ops::embedding`].
    ///
    /// # Shapes
    /// (…) of u32 → (…, columns)
    ///
    /// # Errors
    /// Those of [`Param::linear`]; on the processor, ids that are not below the number of rows.
    pub fn rows(&self, ids: &Var) -> Result<Var> {
        Ok(match self.narrow_for(ids)? {
            Some(Held::Packed(table)) => packed_embedding(ids, table)?,
            Some(Held::Plain(table)) => embedding(ids, &table.clone().into())?,
            None => embedding(ids, &self.var()?)?,
        })
    }

    /// What an operation on `x` reads in place of the value: where there is nothing else, or x is of its type.
    fn narrow_for(&self, x: &Var) -> Result<Option<&Held>> {
        match (&self.value, x.tape()) {
            (None, Some(_)) => Err(self.no_value()),
            (Some(_), _) if x.dtype() != DType::BF16 => Ok(None),
            _ => Ok(self.narrow.as_ref()),
        }
    }

    /// As the steps of products and lookups read it: narrow, where there is that.
    ///
    /// # Errors
    /// [`Error::NoValue`] before it is filled.
    pub(crate) fn weight(&self) -> Result<Weight<'_>> {
        match (&self.narrow, &self.value) {
            (Some(narrow), _) => Ok(narrow.weight()),
            (None, Some(value)) => Ok(Weight::Plain(value.view())),
            (None, None) => Err(self.no_value()),
        }
    }

    /// The value as an operand: an operation of a tape on it records where its gradient goes, where it is trained and
    /// not frozen.
    ///
    /// # Errors
    /// [`Error::NoValue`] before it is filled; [`Error::Narrow`].
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
