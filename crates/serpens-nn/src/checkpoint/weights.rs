//! A model's parameters in safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use serpens_core::{Device, Shape, Tensor};
use serpens_formats::safetensors::{open_all, write_tensors};

use super::WEIGHTS_FILE;
use crate::{Error, MambaLm, Module, Result};

/// The head, absent from checkpoints where it is the embedding's table, though some carry a copy.
const HEAD: &str = "lm_head.weight";

pub(super) fn save_parameters(model: &MambaLm, path: &Path) -> Result<()> {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    model.visit("", &mut |name, param| {
        tensors.push((name.to_owned(), param.value().clone()));
    });
    Ok(write_tensors(path, &tensors)?)
}

/// Fills the model's parameters from the files in `dir`, after a look at the headers whether they fit.
pub(super) fn load_parameters(model: &mut MambaLm, dir: &Path, tied: bool) -> Result<()> {
    let mut wanted: BTreeMap<String, Shape> = BTreeMap::new();
    model.visit("", &mut |name, param| {
        wanted.insert(name.to_owned(), param.value().shape());
    });
    let files = open_all(&dir.join(WEIGHTS_FILE))?;
    let mut holders = BTreeMap::new();
    for file in &files {
        let path = || file.path().to_owned();
        for (name, shape) in file.tensors() {
            match wanted.get(name) {
                None if tied && name == HEAD => continue,
                None => {
                    return Err(Error::SurplusParameter {
                        path: path(),
                        name: name.to_owned(),
                    });
                }
                Some(expected) if *expected != shape => {
                    return Err(Error::ParameterShape {
                        path: path(),
                        name: name.to_owned(),
                        expected: Box::new(*expected),
                        got: Box::new(shape),
                    });
                }
                Some(_) => holders.insert(name, file),
            };
        }
    }
    if let Some(name) = wanted
        .keys()
        .find(|name| !holders.contains_key(name.as_str()))
    {
        return Err(Error::MissingParameter {
            path: files[0].path().to_owned(),
            name: name.clone(),
        });
    }
    let mut result = Ok(());
    model.visit_mut("", &mut |name, param| {
        if let (Ok(()), Some(file)) = (&result, holders.get(name)) {
            match file.tensor(name, Device::Cpu) {
                Ok(value) => *param.value_mut() = value,
                Err(error) => result = Err(error.into()),
            }
        }
    });
    result
}
