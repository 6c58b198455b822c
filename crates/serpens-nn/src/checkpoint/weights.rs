//! A model's parameters in safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use serpens_core::{Device, Shape, Tensor};
use serpens_formats::TensorFile;
use serpens_formats::safetensors::write_tensors;

use crate::{Error, MambaLm, MambaLmConfig, Module, Result};

/// The head, absent from checkpoints where it is the embedding's table, though some carry a copy.
const HEAD: &str = "lm_head.weight";

pub(super) fn save_parameters(model: &MambaLm, path: &Path) -> Result<()> {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    model.visit("", &mut |name, param| {
        if param.trained {
            tensors.push((name.to_owned(), param.value()?.clone()));
        }
        Ok(())
    })?;
    Ok(write_tensors(path, &tensors)?)
}

/// A planned model and where each of its parameters is.
pub(super) struct Located<'a> {
    pub(super) plan: MambaLm,
    holders: BTreeMap<&'a str, (&'a TensorFile, Shape)>,
}

impl<'a> Located<'a> {
    /// Looks for all parameters in the files that hold those of `path`, of which only the headers were read.
    pub(super) fn new(config: MambaLmConfig, path: &Path, files: &'a [TensorFile]) -> Result<Self> {
        let mut holders = BTreeMap::new();
        for file in files {
            for (name, shape) in file.tensors() {
                if holders.insert(name, (file, shape)).is_some() {
                    return Err(Error::RepeatedParameter {
                        path: file.path().to_owned(),
                        name: name.to_owned(),
                    });
                }
            }
        }
        // A layer has parameters: where there are fewer than layers, not even a plan is made.
        if config.n_layer > holders.len() {
            return Err(Error::TooFewTensors {
                path: path.to_owned(),
                layers: config.n_layer,
                tensors: holders.len(),
            });
        }
        let located = Self {
            plan: config.plan()?,
            holders,
        };
        located.check(path)?;
        Ok(located)
    }

    /// Refuses parameters that are missing, surplus or of another shape.
    fn check(&self, path: &Path) -> Result<()> {
        let mut surplus = self.holders.clone();
        self.plan.visit("", &mut |name, param| {
            if !param.trained {
                return Ok(());
            }
            match surplus.remove(name) {
                Some((_, shape)) if shape == param.shape() => Ok(()),
                Some((file, shape)) => Err(Error::ParameterShape {
                    path: file.path().to_owned(),
                    name: name.to_owned(),
                    expected: Box::new(param.shape()),
                    got: Box::new(shape),
                }),
                None => Err(Error::MissingParameter {
                    path: path.to_owned(),
                    name: name.to_owned(),
                }),
            }
        })?;
        if self.plan.config().tie_embeddings {
            surplus.remove(HEAD);
        }
        match surplus.first_key_value() {
            None => Ok(()),
            Some((name, (file, _))) => Err(Error::SurplusParameter {
                path: file.path().to_owned(),
                name: (*name).to_owned(),
            }),
        }
    }

    /// Reads the parameters one after another: no value is in memory twice.
    ///
    /// # Errors
    /// [`Error::Memory`], before any is taken.
    pub(super) fn fill(self, device: Device) -> Result<MambaLm> {
        self.plan.check_memory(4, device)?;
        let mut model = self.plan;
        model.visit_mut("", &mut |name, param| match self.holders.get(name) {
            Some((file, _)) if param.trained => param.set(file.tensor(name, device)?),
            _ => param.fill(name, device, 0),
        })?;
        Ok(model)
    }
}
