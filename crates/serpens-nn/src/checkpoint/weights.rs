//! The parameters of a model in files.

use std::collections::BTreeMap;
use std::path::Path;

use serpens_core::{Device, Shape, Tensor};
use serpens_formats::{Encoding, Planned, TensorFile, safetensors};

use super::layout::{Form, Layout, Place};
use crate::{Error, Module, Param, Result};

/// The head, absent from files where it is the embedding's table, though some carry a copy.
const HEAD: &str = "lm_head.weight";

/// How the names in files are made: by a layout, and under a prefix, which ends with a dot where there is one.
pub(super) struct Names<'a>(pub(super) &'a Layout, pub(super) &'a str);

/// Where each parameter of a module is in files.
pub(super) struct Located {
    files: Vec<TensorFile>,
    /// The number of the file, and the place in it, by our names.
    places: BTreeMap<String, (usize, Place)>,
}

impl Located {
    /// Looks for the parameters that are `wanted` in files, of which only the headers were read. What does not stand
    /// under the prefix is of no concern.
    ///
    /// # Errors
    /// A parameter that is missing from `path`, surplus, of another shape, or in two files.
    pub(super) fn new(
        module: &impl Module,
        wanted: impl Fn(&str, &Param) -> bool,
        Names(layout, prefix): &Names<'_>,
        path: &Path,
        files: Vec<TensorFile>,
    ) -> Result<Self> {
        let mut holders: BTreeMap<&str, (usize, Shape)> = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for (name, shape) in file.tensors().filter(|(name, _)| name.starts_with(prefix)) {
                if holders.insert(name, (i, shape)).is_some() {
                    return Err(Error::RepeatedParameter {
                        path: file.path().to_owned(),
                        name: name.to_owned(),
                    });
                }
            }
        }
        let (mut places, mut has_head) = (BTreeMap::new(), false);
        module.visit("", &mut |ours, param| {
            if !wanted(ours, param) {
                return Ok(());
            }
            has_head |= ours == HEAD;
            let mut place = layout.place(ours, param);
            place.name.insert_str(0, prefix);
            match holders.remove(&*place.name) {
                Some((i, shape)) if shape == place.shape => {
                    places.insert(ours.to_owned(), (i, place));
                    Ok(())
                }
                Some((i, shape)) => Err(Error::ParameterShape {
                    path: files[i].path().to_owned(),
                    name: place.name,
                    expected: Box::new(place.shape),
                    got: Box::new(shape),
                }),
                None => Err(Error::MissingParameter {
                    path: path.to_owned(),
                    name: place.name,
                }),
            }
        })?;
        if !has_head {
            holders.remove(&*format!("{prefix}{HEAD}"));
        }
        match holders.first_key_value() {
            None => Ok(Self { files, places }),
            Some((name, (i, _))) => Err(Error::SurplusParameter {
                path: files[*i].path().to_owned(),
                name: (*name).to_owned(),
            }),
        }
    }

    /// The value of our parameter of this name on the processor, if it is in the files.
    pub(super) fn value(&self, name: &str, param: &Param) -> Result<Option<Tensor>> {
        let Some((i, place)) = self.places.get(name) else {
            return Ok(None);
        };
        let file = &self.files[*i];
        let value = place
            .form
            .read(file.tensor(&place.name, Device::Cpu)?, param.shape())?;
        if place.form == Form::A && value.as_slice::<f32>()?.iter().any(|log| log.is_nan()) {
            return Err(Error::PositiveA {
                path: file.path().to_owned(),
                name: place.name.clone(),
            });
        }
        Ok(Some(value))
    }
}

/// What a file is to hold, and the parameters whose values it holds, by the file's names.
pub(super) struct Outgoing {
    pub(super) planned: Vec<Planned>,
    params: BTreeMap<String, (Param, Form)>,
    value: fn(&Param) -> Result<Tensor>,
}

impl Outgoing {
    /// The `value` of each parameter that is `wanted`; `encode` says how it is stored.
    pub(super) fn new(
        module: &impl Module,
        wanted: impl Fn(&str, &Param) -> bool,
        Names(layout, prefix): &Names<'_>,
        encode: impl Fn(&Place) -> Encoding,
        value: fn(&Param) -> Result<Tensor>,
    ) -> Result<Self> {
        let (mut planned, mut params) = (Vec::new(), BTreeMap::new());
        module.visit("", &mut |ours, param| {
            if wanted(ours, param) {
                param.value()?;
                let mut place = layout.place(ours, param);
                place.name.insert_str(0, prefix);
                let encoding = encode(&place);
                let Place { name, shape, form } = place;
                params.insert(name.clone(), (param.clone(), form));
                planned.push(Planned {
                    name,
                    shape,
                    encoding,
                });
            }
            Ok(())
        })?;
        Ok(Self {
            planned,
            params,
            value,
        })
    }

    /// Writes a safetensors file.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let value = |planned: &Planned| self.value(planned);
        Ok(safetensors::write(path, &self.planned, value)?)
    }

    /// The value of a planned tensor.
    pub(super) fn value(&self, planned: &Planned) -> serpens_formats::Result<Tensor> {
        let (param, form) = &self.params[&planned.name];
        let value = (self.value)(param).and_then(|value| form.write(value, planned.shape));
        Ok(value.map_err(serpens_core::Error::from)?)
    }
}
