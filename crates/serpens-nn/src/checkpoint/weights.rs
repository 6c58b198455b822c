//! A model's parameters in safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serpens_core::{Device, Tensor};
use serpens_formats::TensorFile;
use serpens_formats::safetensors::write_tensors;

use crate::{Error, MambaLm, Module, Result};

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

/// Fills a planned model's parameters from the files that hold those of `path`, one after another: no value is in
/// memory twice.
pub(super) fn load_parameters(
    model: &mut MambaLm,
    path: &Path,
    files: &[TensorFile],
    device: Device,
) -> Result<()> {
    let mut wanted = BTreeSet::new();
    model.visit("", &mut |name, param| {
        wanted.extend(param.trained.then(|| name.to_owned()));
        Ok(())
    })?;
    let tied = model.config().tie_embeddings;
    let mut holders = BTreeMap::new();
    for file in files {
        for (name, shape) in file.tensors() {
            if wanted.contains(name) {
                holders.insert(name, (file, shape));
            } else if !(tied && name == HEAD) {
                return Err(Error::SurplusParameter {
                    path: file.path().to_owned(),
                    name: name.to_owned(),
                });
            }
        }
    }
    model.visit_mut("", &mut |name, param| {
        if !param.trained {
            return param.fill(name, device, 0);
        }
        match holders.get(name) {
            Some((file, shape)) if *shape == param.shape() => param.set(file.tensor(name, device)?),
            Some((file, shape)) => Err(Error::ParameterShape {
                path: file.path().to_owned(),
                name: name.to_owned(),
                expected: Box::new(param.shape()),
                got: Box::new(*shape),
            }),
            None => Err(Error::MissingParameter {
                path: path.to_owned(),
                name: name.to_owned(),
            }),
        }
    })
}
