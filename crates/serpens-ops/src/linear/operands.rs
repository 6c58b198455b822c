//! What products read.

use serpens_core::{Device, Tensor};

use super::Weight;
use crate::quantized_linear::Packed;

/// A matrix (outputs, inputs) as it is held, to be lent as a [`Weight`]. A clone is another handle.
#[derive(Clone, Debug)]
pub enum Held {
    /// In f32 or bf16.
    Plain(Tensor),
    /// In blocks of few bits.
    Packed(Packed),
}

impl Held {
    /// As operations read it.
    pub fn weight(&self) -> Weight<'_> {
        match self {
            Held::Plain(w) => Weight::Plain(w.view()),
            Held::Packed(w) => Weight::Packed(w),
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match self {
            Held::Plain(w) => w.device(),
            Held::Packed(w) => w.device(),
        }
    }
}
