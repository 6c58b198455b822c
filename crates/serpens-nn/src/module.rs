//! Parameters and how a model names them.

use serpens_core::{DType, Device, ParamId, Tensor, Var};
use serpens_ops::elementwise::cast;
use serpens_ops::linear::{ProductPrecision, linear};

use crate::{Error, Precision, Result};

/// A trained tensor, in f32. Its gradient is found in [`serpens_core::Gradients`] under [`Param::id`]. A clone is another handle to
/// the same parameter.
#[derive(Clone, Debug)]
pub struct Param {
    id: ParamId,
    value: Tensor,
    /// Whether it is an operand of matrix products, which may want it in bf16.
    matrix: bool,
    /// The value in bf16, where products are of that type.
    shadow: Option<Tensor>,
    /// How a GPU makes its products in f32.
    products: ProductPrecision,
    decay: bool,
    max_lr: f32,
}

impl Param {
    /// A parameter that weight decay pulls towards zero.
    pub fn new(value: Tensor) -> Self {
        Self {
            id: ParamId::fresh(),
            value,
            matrix: false,
            shadow: None,
            products: ProductPrecision::Full,
            decay: true,
            max_lr: f32::INFINITY,
        }
    }

    /// A parameter that weight decay leaves alone: biases, norms, A and D.
    pub fn without_decay(value: Tensor) -> Self {
        Self {
            decay: false,
            ..Self::new(value)
        }
    }

    /// The same parameter, never trained with a larger learning rate than this.
    pub fn with_max_lr(self, max_lr: f32) -> Self {
        Self { max_lr, ..self }
    }

    /// The same parameter as an operand of matrix products.
    pub fn as_matrix(self) -> Self {
        Self {
            matrix: true,
            ..self
        }
    }

    /// Whether it is an operand of matrix products.
    pub fn is_matrix(&self) -> bool {
        self.matrix
    }

    /// The largest learning rate to train it with.
    pub fn max_lr(&self) -> f32 {
        self.max_lr
    }

    /// Names the gradient.
    pub fn id(&self) -> ParamId {
        self.id
    }

    /// Whether weight decay applies.
    pub fn decays(&self) -> bool {
        self.decay
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The value, to be changed in place. Where it has a shadow, [`Param::refresh`] carries the change over.
    pub fn value_mut(&mut self) -> &mut Tensor {
        &mut self.value
    }

    /// The value, and the same in bf16 where the model computes in that type, for an optimiser that writes both.
    pub fn tensors_mut(&mut self) -> (&mut Tensor, Option<&mut Tensor>) {
        (&mut self.value, self.shadow.as_mut())
    }

    /// Makes the shadow anew from the value, where there is one.
    pub fn refresh(&mut self) -> Result<()> {
        if self.shadow.is_some() {
            self.shadow = Some(self.rounded()?);
        }
        Ok(())
    }

    /// The value in bf16.
    fn rounded(&self) -> Result<Tensor> {
        let value = Var::from(self.value.clone());
        Ok(cast(&value, DType::BF16)?.into_tensor()?)
    }

    /// Moves the value to `device`, to be multiplied there in this precision.
    ///
    /// # Errors
    /// [`Error::Config`] for a precision that the processor does not compute in; memory.
    pub fn to(&mut self, device: Device, precision: Precision) -> Result<()> {
        if device == Device::Cpu && precision != Precision::F32 {
            return Err(Error::Config {
                field: "precision",
                value: precision.to_string(),
                reason: "the processor computes in f32",
            });
        }
        self.value = self.value.to(device)?;
        self.products = precision.products();
        self.shadow = None;
        if self.matrix && precision == Precision::Bf16 {
            self.shadow = Some(self.rounded()?);
        }
        Ok(())
    }

    /// x Wᵀ + b with this parameter as W, (outputs, inputs), in the precision that it was brought to. See
    /// [`serpens_ops::linear`].
    ///
    /// # Shapes
    /// x (…, inputs), bias (outputs) → (…, outputs)
    pub fn linear(&self, x: &Var, bias: Option<&Var>) -> Result<Var> {
        let weight = match &self.shadow {
            Some(shadow) if x.dtype() == DType::BF16 => Var::param(self.id, shadow.clone()),
            _ => self.var(),
        };
        Ok(linear(x, &weight, bias, self.products)?)
    }

    /// The value as an operand: an operation of a tape on it records where its gradient goes.
    pub fn var(&self) -> Var {
        Var::param(self.id, self.value.clone())
    }
}

/// Something with parameters. Names are those of the Hugging Face layout, joined by dots.
pub trait Module {
    /// Calls `f` with the name (below `path`) and value of every parameter, always in the same order.
    fn visit(&self, path: &str, f: &mut dyn FnMut(&str, &Param));

    /// As [`Module::visit`], to change them.
    fn visit_mut(&mut self, path: &str, f: &mut dyn FnMut(&str, &mut Param));

    /// Number of trained values.
    fn parameter_count(&self) -> usize {
        let mut count = 0;
        self.visit("", &mut |_, param| count += param.value().len());
        count
    }
}

impl Module for Param {
    fn visit(&self, path: &str, f: &mut dyn FnMut(&str, &Param)) {
        f(path, self);
    }

    fn visit_mut(&mut self, path: &str, f: &mut dyn FnMut(&str, &mut Param)) {
        f(path, self);
    }
}

impl<M: Module> Module for Option<M> {
    fn visit(&self, path: &str, f: &mut dyn FnMut(&str, &Param)) {
        if let Some(module) = self {
            module.visit(path, f);
        }
    }

    fn visit_mut(&mut self, path: &str, f: &mut dyn FnMut(&str, &mut Param)) {
        if let Some(module) = self {
            module.visit_mut(path, f);
        }
    }
}

impl<M: Module> Module for Vec<M> {
    fn visit(&self, path: &str, f: &mut dyn FnMut(&str, &Param)) {
        for (i, module) in self.iter().enumerate() {
            module.visit(&join(path, &i.to_string()), f);
        }
    }

    fn visit_mut(&mut self, path: &str, f: &mut dyn FnMut(&str, &mut Param)) {
        for (i, module) in self.iter_mut().enumerate() {
            module.visit_mut(&join(path, &i.to_string()), f);
        }
    }
}

/// `path.name`; either may be empty.
pub fn join(path: &str, name: &str) -> String {
    match (path, name) {
        ("", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

/// Implements [`crate::Module`] for a struct: each field that holds parameters with its name in checkpoints. The empty name
/// puts a field's parameters at the struct's own level.
#[macro_export]
macro_rules! module {
    ($type:ty { $($field:ident => $name:literal),* $(,)? }) => {
        impl $crate::Module for $type {
            fn visit(&self, path: &str, f: &mut dyn FnMut(&str, &$crate::Param)) {
                $($crate::Module::visit(&self.$field, &$crate::join(path, $name), f);)*
            }

            fn visit_mut(&mut self, path: &str, f: &mut dyn FnMut(&str, &mut $crate::Param)) {
                $($crate::Module::visit_mut(&mut self.$field, &$crate::join(path, $name), f);)*
            }
        }
    };
}
