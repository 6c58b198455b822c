//! The parameters of a model in files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serpens_core::files::make_folders;
use serpens_core::{Device, Shape, Tensor};
use serpens_formats::{Encoding, Planned, TensorFile, json, safetensors};
use serpens_ops::linear::Held;

use super::layout::{Form, Layout, Place};
use crate::{Module, Param, ParameterFault as Fault, Result};

/// The head, absent from files where it is the embedding's table, though some carry a copy.
pub(super) const HEAD: &str = "lm_head.weight";

/// How the names in files are made: by a layout, and under a prefix, which ends with a dot where there is one.
pub(super) struct Names(pub(super) &'static Layout, pub(super) String);

impl Names {
    fn place(&self, ours: &str, param: &Param) -> Place {
        let mut place = self.0.place(ours, param);
        place.name.insert_str(0, &self.1);
        place
    }
}

/// Files of weights, of which only the headers were read.
pub(super) struct Incoming {
    /// The file, or that of the index, or where one was looked for.
    pub(super) path: PathBuf,
    pub(super) files: Vec<TensorFile>,
    pub(super) names: Names,
}

impl Incoming {
    /// Checks that the parameters that are `wanted` are in the files. What does not stand under the prefix is of no
    /// concern.
    ///
    /// # Errors
    /// A parameter that is missing, surplus, of another shape, or in two files.
    pub(super) fn check(
        &self,
        module: &impl Module,
        wanted: impl Fn(&str, &Param) -> bool,
    ) -> Result<()> {
        let prefix = &self.names.1;
        let mut holders: BTreeMap<&str, (&Path, Shape)> = BTreeMap::new();
        for file in &self.files {
            for (name, shape) in file.tensors().filter(|(name, _)| name.starts_with(prefix)) {
                if holders.insert(name, (file.path(), shape)).is_some() {
                    return Err(Fault::Repeated.of(name, file.path()));
                }
            }
        }
        let mut has_head = false;
        module.visit("", &mut |ours, param| {
            has_head |= ours == HEAD;
            if !wanted(ours, param) {
                return Ok(());
            }
            let Place { name, shape, .. } = self.names.place(ours, param);
            match holders.remove(&*name) {
                None => Err(Fault::Missing.of(&name, &self.path)),
                Some((_, got)) if got == shape => Ok(()),
                Some((path, got)) => {
                    let [expected, got] = [shape, got].map(Box::new);
                    Err(Fault::Shape { expected, got }.of(&name, path))
                }
            }
        })?;
        if !has_head {
            holders.remove(&*format!("{prefix}{HEAD}"));
        }
        match holders.pop_first() {
            None => Ok(()),
            Some((name, (path, _))) => Err(Fault::Surplus.of(name, path)),
        }
    }

    /// The name in the files of our parameter of this name.
    pub(super) fn name(&self, name: &str, param: &Param) -> String {
        self.names.place(name, param).name
    }

    /// The file that has a tensor of this name.
    fn file(&self, name: &str) -> Option<&TensorFile> {
        let mut files = self.files.iter();
        files.find(|file| file.encoding(name).is_some())
    }

    /// How our parameter of this name is stored; as f32 where it is not.
    pub(super) fn encoding(&self, name: &str, param: &Param) -> Encoding {
        let name = self.name(name, param);
        let stored = self.file(&name).and_then(|file| file.encoding(&name));
        stored.unwrap_or(Encoding::F32)
    }

    /// Our parameter of this name, which is in the files, as it is stored.
    pub(super) fn matrix(&self, name: &str, param: &Param, device: Device) -> Result<Held> {
        let name = self.name(name, param);
        let missing = || Fault::Missing.of(&name, &self.path);
        let file = self.file(&name).ok_or_else(missing)?;
        Ok(file.matrix(&name, device)?)
    }

    /// Gives a parameter of this name its value there, or where there is none that which it starts with.
    pub(super) fn fill(&self, name: &str, param: &mut Param, device: Device) -> Result<()> {
        match self.value(name, param)? {
            Some(value) => param.set(value.to(device)?),
            None => param.fill(name, device, 0),
        }
    }

    /// The value of our parameter of this name on the processor, if it is in the files: finite, and A too.
    pub(super) fn value(&self, ours: &str, param: &Param) -> Result<Option<Tensor>> {
        let Place { name, form, .. } = self.names.place(ours, param);
        let Some(file) = self.file(&name) else {
            return Ok(None);
        };
        let value = form.read(&file.tensor(&name, Device::Cpu)?, param.shape())?;
        let is_a = ours.ends_with(".A_log");
        let is_wrong = |x: &f32| !(if is_a { x.exp() } else { *x }).is_finite();
        match (form, value.as_slice::<f32>()?.par_iter().any(is_wrong)) {
            (_, false) => Ok(Some(value)),
            (Form::A, true) => Err(Fault::PositiveA.of(&name, file.path())),
            (_, true) => Err(Fault::NotFinite.of(&name, file.path())),
        }
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
        names: &Names,
        encode: impl Fn(&Place) -> Encoding,
        value: fn(&Param) -> Result<Tensor>,
    ) -> Result<Self> {
        let (mut planned, mut params) = (Vec::new(), BTreeMap::new());
        module.visit("", &mut |ours, param| {
            if wanted(ours, param) {
                param.value()?;
                let place = names.place(ours, param);
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

    /// Writes a configuration and a safetensors file to a folder, made where it is missing.
    pub(super) fn write(
        &self,
        dir: &Path,
        config: &impl Serialize,
        [config_file, weights_file]: [&str; 2],
    ) -> Result<()> {
        let weights = dir.join(weights_file);
        safetensors::check(&weights, &self.planned)?;
        make_folders(dir).map_err(serpens_formats::Error::from)?;
        json::write(&dir.join(config_file), config)?;
        let value = |planned: &Planned| self.value(planned);
        Ok(safetensors::write(&weights, &self.planned, value)?)
    }

    /// The value of a planned tensor.
    pub(super) fn value(&self, planned: &Planned) -> serpens_formats::Result<Tensor> {
        let (param, form) = &self.params[&planned.name];
        let value = (self.value)(param).and_then(|value| form.write(&value, planned.shape));
        Ok(value.map_err(serpens_core::Error::from)?)
    }
}
