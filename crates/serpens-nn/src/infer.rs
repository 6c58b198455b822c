//! How a model is held that is only asked.

use std::collections::BTreeMap;

use serpens_core::Device;
use serpens_formats::Encoding;
use serpens_ops::quantized_linear::Blocks;

use crate::{Error, MambaLm, Module, Param, Precision, Result, checkpoint, param};

/// The table that is looked up, which is no operand of products where there is a head.
pub(crate) const EMBEDDINGS: &str = "backbone.embeddings.weight";
/// W_x and W_Δ, a fiftieth of a model: products of few outputs or few inputs, which on a GPU are as long in blocks.
const NARROW: [&str; 2] = ["x_proj.weight", "dt_proj.weight"];

/// Where and in which types a model is asked, and how its matrices and its table are held for it: once each. All else,
/// A, D, Δ's bias, norms and convolutions, is f32.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToInfer {
    /// Where it is.
    pub device: Device,
    /// In which types it computes. What is multiplied in bf16 is held in bf16 alone.
    pub precision: Precision,
    /// The matrices' encoding: bf16, blocks, or f32 for all others. With Q4_K the table and the head are in Q6_K; rows
    /// that are no whole blocks are in smaller ones or in bf16, and so are W_x and W_Δ on a GPU. `None` keeps them as a
    /// file has them, where the device multiplies with that.
    pub weights: Option<Encoding>,
}

impl ToInfer {
    /// The encodings that matrices are held in.
    pub const WEIGHTS: [Encoding; 6] = [
        Encoding::F32,
        Encoding::BF16,
        Encoding::Blocks(Blocks::Q8_0),
        Encoding::Blocks(Blocks::Q6_K),
        Encoding::Blocks(Blocks::Q4_K),
        Encoding::Blocks(Blocks::Q4_0),
    ];

    /// Refuses what the device does not multiply with.
    ///
    /// # Errors
    /// [`Error::Precision`]; [`Error::Weights`].
    pub fn check(&self) -> Result<()> {
        let (device, precision) = (self.device, self.precision);
        if let Some(weights) = self.weights
            && !self.is_multiplied(weights)
        {
            return Err(Error::Weights {
                weights,
                precision,
                device,
            });
        }
        match device == Device::Cpu && precision != Precision::F32 {
            true => Err(Error::Precision(precision)),
            false => Ok(()),
        }
    }

    /// Whether the device multiplies with matrices in this encoding.
    fn is_multiplied(&self, encoding: Encoding) -> bool {
        let on_gpu = match self.precision {
            Precision::Bf16 => matches!(
                encoding,
                Encoding::BF16 | Encoding::Blocks(Blocks::Q8_0 | Blocks::Q4_0)
            ),
            Precision::F32 | Precision::Tf32 => encoding == Encoding::F32,
        };
        on_gpu || self.device == Device::Cpu
    }

    /// How the parameter of this name is held, that a file has in the encoding `stored`.
    pub(crate) fn encoding(&self, name: &str, param: &Param, stored: Encoding) -> Encoding {
        match self.wanted(name, stored).for_rows(param.shape().cols()) {
            held @ (Encoding::BF16 | Encoding::Blocks(_)) if is_asked(name, param) => held,
            _ => Encoding::F32,
        }
    }

    /// The same where all rows are whole blocks.
    fn wanted(&self, name: &str, stored: Encoding) -> Encoding {
        let wanted = self
            .weights
            .map_or(stored, |all| checkpoint::encoding_of(all, name));
        let is_narrow = self.device != Device::Cpu && NARROW.iter().any(|end| name.ends_with(end));
        match self.precision {
            Precision::Bf16 if is_narrow && matches!(wanted, Encoding::Blocks(_)) => Encoding::BF16,
            _ if self.is_multiplied(wanted) => wanted,
            Precision::Bf16 => Encoding::BF16,
            Precision::F32 | Precision::Tf32 => Encoding::F32,
        }
    }
}

/// What is encoded as is asked: all else is in f32.
fn is_asked(name: &str, param: &Param) -> bool {
    param.matrix || name == EMBEDDINGS
}

impl MambaLm {
    /// The encodings of matrices and the table that are held otherwise than [`ToInfer::weights`] asked, as their rows
    /// are no whole blocks, by name in small letters, and how large a part of all their values each has.
    ///
    /// # Errors
    /// [`Error::NoValue`].
    pub fn held_otherwise(&self, asked: Encoding) -> Result<BTreeMap<String, f64>> {
        let (mut parts, mut all) = (BTreeMap::new(), 0.0);
        let how = ToInfer {
            device: self.device(),
            precision: self.precision(),
            weights: Some(asked),
        };
        self.visit("", &mut |name, param| {
            if is_asked(name, param) {
                all += param.count() as f64;
                let held = param::encoding_of(&param.held()?);
                if held != how.wanted(name, asked) {
                    let held = held.to_string().to_lowercase();
                    *parts.entry(held).or_default() += param.count() as f64;
                }
            }
            Ok(())
        })?;
        parts.values_mut().for_each(|part| *part /= all);
        Ok(parts)
    }

    /// Has the model only asked from now on, with what [`MambaLm::adapt`] had trained added to its matrices first.
    ///
    /// # Errors
    /// [`Error::Precision`], [`Error::Weights`] before anything is changed; [`Error::NoValue`], [`Error::Narrow`];
    /// memory.
    pub fn to_infer(&mut self, how: ToInfer) -> Result<()> {
        how.check()?;
        self.merge()?;
        self.visit_mut("", &mut |name, param| {
            let encoding = how.encoding(name, param, Encoding::F32);
            param.narrow(how.device, how.precision, encoding)
        })
    }
}
