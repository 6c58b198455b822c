//! How formats name and keep the parameters of a model.

use serpens_core::{Device, Shape, Tensor};

use crate::{Param, Result};

/// How a format's names come from ours, which are Hugging Face's: what is replaced, one after another; and what becomes
/// of the parameters whose names end so.
pub(super) struct Layout {
    pub(super) names: &'static [(&'static str, &'static str)],
    pub(super) forms: &'static [(&'static str, Form)],
}

/// Ours.
pub(super) static HUGGING_FACE: Layout = Layout {
    names: &[],
    forms: &[],
};

/// What a format keeps of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The same.
    Same,
    /// The taps of a convolution without their axis of one: (channels, taps).
    Taps,
    /// A = -exp(A_log).
    A,
}

/// Where a format has a parameter.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) form: Form,
}

impl Layout {
    /// Where the format has our parameter of this name.
    pub(super) fn place(&self, name: &str, param: &Param) -> Place {
        let form = self.forms.iter().find(|(end, _)| name.ends_with(end));
        let form = form.map_or(Form::Same, |(_, form)| *form);
        let shape = match (form, &param.shape()[..]) {
            (Form::Taps, [channels, _, taps]) => Shape::new(&[*channels, *taps]),
            _ => param.shape(),
        };
        let replaced = self.names.iter();
        let name = replaced.fold(name.to_owned(), |name, (ours, theirs)| {
            name.replace(ours, theirs)
        });
        Place { name, shape, form }
    }
}

impl Form {
    /// Our values from the format's, on the processor.
    pub(super) fn read(self, tensor: &Tensor, shape: Shape) -> Result<Tensor> {
        self.map(tensor, shape, |a| (-a).ln())
    }

    /// The format's values from ours.
    pub(super) fn write(self, tensor: &Tensor, shape: Shape) -> Result<Tensor> {
        self.map(tensor, shape, |log| -log.exp())
    }

    /// In f64: what is rounded to f32 once each way comes back as it was.
    fn map(self, tensor: &Tensor, shape: Shape, of_a: fn(f64) -> f64) -> Result<Tensor> {
        let mut tensor = tensor.to(Device::Cpu)?.reshape(shape)?;
        if self == Form::A {
            for value in tensor.make_mut::<f32>()? {
                *value = of_a(f64::from(*value)) as f32;
            }
        }
        Ok(tensor)
    }
}
