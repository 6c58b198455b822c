//! Models in files: folders and files of the formats that published models come in.
//!
//! | what is opened | configuration | weights |
//! |---|---|---|
//! | a folder of Hugging Face's, or ours | `config.json` | `model.safetensors`, `pytorch_model.bin`, or an index's |
//! | a folder of the original program's | `config.json` | the same |
//! | a file `.safetensors`, `.bin`, `.pt`, `.ckpt` | `config.json` beside it, either | that file |
//! | a file `.gguf` | the file's metadata | that file |
//!
//! Hugging Face's are those of `model_type` `mamba` and `falcon_mamba`, the original program's `state-spaces/mamba-*`.
//! [`Checkpoint::open`] reads headers alone, and has checked names and shapes against the configuration.

mod export;
mod gguf;
mod hf;
mod layout;
mod mamba_ssm;
mod peft;
#[cfg(test)]
mod tests;
mod weights;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serpens_core::{Device, Error as CoreError};
pub use serpens_formats::Verify;
use serpens_formats::gguf::Metadata;
use serpens_formats::{Encoding, gguf as file, json, pytorch, safetensors, shards};

pub use self::export::{Format, encoding_of, export, stored};
use self::hf::ConfigFile;
use self::layout::HUGGING_FACE;
pub use self::peft::{load_adapter, save_adapter};
use self::weights::{Incoming, Names, Outgoing};
use crate::{
    Error, MambaLm, MambaLmConfig, Module, Param, ParameterFault, Predictor, Result, ToInfer,
};

/// The name of the configuration's file.
pub const CONFIG_FILE: &str = "config.json";
/// The name of the weights' file.
pub const WEIGHTS_FILE: &str = "model.safetensors";
const FILES: [&str; 2] = [CONFIG_FILE, WEIGHTS_FILE];
/// The name that PyTorch's programs give it.
pub const PICKLED_FILE: &str = "pytorch_model.bin";

/// Whether a parameter is in files at all.
fn is_kept(_: &str, param: &Param) -> bool {
    param.trained
}

/// How a checkpoint is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is verified of what is read.
    pub verify: Verify,
    /// What stands before the tensors' names, as `model` in Lightning's files; a dot follows.
    pub prefix: String,
}

/// How near a tensor in a file comes to a model's.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorError {
    /// Its name in the file.
    pub name: String,
    /// How it is stored.
    pub encoding: Encoding,
    /// Σ (w - w')² / Σ w².
    pub relative: f64,
}

/// A model in files, of which only headers were read.
pub struct Checkpoint {
    path: PathBuf,
    metadata: Option<Metadata>,
    plan: MambaLm,
    weights: Incoming,
}

impl Checkpoint {
    /// Opens the folder or file.
    ///
    /// # Errors
    /// A missing, truncated or foreign file; [`Error::OtherModel`] for a model that is not computed here; a parameter
    /// that is missing, surplus or of another shape than the configuration's.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        let (config, weights, metadata) = match Format::of_name(path) {
            Format::Gguf => gguf_file(path)?,
            Format::Hf | Format::OriginalNames => beside_a_config(path, options)?,
        };
        // A layer has parameters: where there are fewer than layers, not even a plan is made.
        let tensors = weights.files.iter().map(|file| file.tensors().count());
        let (layers, tensors) = (config.n_layer, tensors.sum());
        if layers > tensors {
            return Err(Error::TooFewTensors {
                path: weights.path,
                layers,
                tensors,
            });
        }
        let plan = config.plan()?;
        weights.check(&plan, is_kept)?;
        Ok(Self {
            path: path.to_owned(),
            metadata,
            plan,
            weights,
        })
    }

    /// The model without its values.
    pub fn plan(&self) -> &MambaLm {
        &self.plan
    }

    /// The folder where a tokenizer's files would be.
    pub fn folder(&self) -> &Path {
        match self.path.is_dir() {
            true => &self.path,
            false => self.path.parent().unwrap_or(&self.path),
        }
    }

    /// What a GGUF file says, its tokenizer too.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// Reads the model, one parameter after another: no value is in memory twice.
    ///
    /// # Errors
    /// [`Error::Memory`], before any is taken; a tensor that is damaged, where that is verified and its file has
    /// digests, as those written here; one whose values are no numbers or infinite.
    pub fn load(&self, device: Device) -> Result<MambaLm> {
        self.plan.check_memory(4, device)?;
        let mut model = self.plan.clone();
        model.visit_mut("", &mut |name, param| {
            self.weights.fill(name, param, device)
        })?;
        Ok(model)
    }

    /// As [`Checkpoint::load`], to be asked and not trained: each parameter is read as it will be held.
    ///
    /// # Errors
    /// Those of [`Checkpoint::load`]; [`Error::Precision`]; [`Error::Weights`]; values that blocks cannot hold.
    pub fn load_to_infer(&self, how: ToInfer) -> Result<MambaLm> {
        how.check()?;
        if self.plan.config().lora.is_some() {
            let mut model = self.load(Device::Cpu)?; // what is added needs the matrices in f32
            model.to_infer(how)?;
            return Ok(model);
        }
        let held = |name: &str, param: &Param| {
            let stored = self.weights.encoding(name, param);
            (stored, how.encoding(name, param, stored))
        };
        let bytes = |name: &str, param: &Param| held(name, param).1.bytes(param.shape()) as u64;
        self.plan.check_bytes(&bytes, how.device)?;
        let mut model = self.plan.clone();
        model.visit_mut("", &mut |name, param| {
            let (stored, encoding) = held(name, param);
            if stored == encoding && encoding != Encoding::F32 {
                let matrix = self.weights.matrix(name, param, how.device)?;
                param.hold(matrix, how.precision);
                return Ok(());
            }
            self.weights.fill(name, param, Device::Cpu)?;
            let narrow = param.narrow(how.device, how.precision, encoding);
            let (file, place) = (&self.weights.path, self.weights.name(name, param));
            let fault = ParameterFault::TooLarge(encoding);
            narrow.map_err(|error| match error {
                Error::Core(CoreError::Value { .. }) => fault.of(&place, file),
                other => other,
            })
        })?;
        Ok(model)
    }

    /// Bytes of the model's tensors in the files, and their values.
    pub fn size(&self) -> Result<[u64; 2]> {
        let [mut bytes, mut values] = [0; 2];
        self.plan.visit("", &mut |name, param| {
            if param.trained {
                let encoding = self.weights.encoding(name, param);
                bytes += encoding.bytes(param.shape()) as u64;
                values += param.count() as u64;
            }
            Ok(())
        })?;
        Ok([bytes, values])
    }

    /// How near each tensor there comes to the model's, which are on the processor.
    ///
    /// # Errors
    /// Those of [`Checkpoint::load`]; [`Error::NoValue`].
    pub fn errors(&self, model: &MambaLm) -> Result<Vec<TensorError>> {
        let mut errors = Vec::new();
        model.visit("", &mut |ours, param| {
            let Some(here) = self.weights.value(ours, param)? else {
                return Ok(());
            };
            let pairs = param.value()?.as_slice::<f32>()?.iter();
            let pairs = pairs.zip(here.as_slice::<f32>()?);
            let [mut off, mut all] = [0.0; 2];
            for (w, here) in pairs.map(|(w, here)| (f64::from(*w), f64::from(*here))) {
                off += (w - here) * (w - here);
                all += w * w;
            }
            errors.push(TensorError {
                name: self.weights.name(ours, param),
                encoding: self.weights.encoding(ours, param),
                relative: if off == 0.0 { 0.0 } else { off / all },
            });
            Ok(())
        })?;
        Ok(errors)
    }
}

/// What a model is, its files, and what a GGUF file says besides.
type Found = (MambaLmConfig, Incoming, Option<Metadata>);

fn gguf_file(path: &Path) -> Result<Found> {
    let (metadata, weights) = file::open(path)?;
    let config = gguf::read(&metadata, &weights)?;
    let weights = Incoming {
        path: path.to_owned(),
        files: vec![weights],
        names: Names(&gguf::LAYOUT, String::new()),
    };
    Ok((config, weights, Some(metadata)))
}

fn beside_a_config(path: &Path, options: &Options) -> Result<Found> {
    /// What tells Hugging Face's configurations from others.
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<IgnoredAny>,
        d_model: Option<IgnoredAny>,
    }

    let (folder, given) = match path.is_file() {
        true => (path.parent().unwrap_or(path), Some(path)),
        false => (path, None),
    };
    let config = folder.join(CONFIG_FILE);
    if given.is_some() && !config.exists() {
        return Err(Error::NoModel(path.to_owned()));
    }
    let kind: Kind = json::read(&config, "model configuration")?;
    let (layout, config) = match (kind.model_type, kind.d_model) {
        (None, Some(_)) => (&mamba_ssm::LAYOUT, mamba_ssm::read(&config)?),
        _ => (&HUGGING_FACE, hf::read(&config)?),
    };
    let candidates = match given {
        Some(file) => vec![file.to_owned()],
        None => vec![folder.join(WEIGHTS_FILE), folder.join(PICKLED_FILE)],
    };
    let mut there = candidates.iter();
    let there = there.find(|path| !matches!(shards(path), Ok(None)));
    let path = there.unwrap_or(&candidates[0]).clone();
    let shards = shards(&path)?.unwrap_or_else(|| vec![path.clone()]);
    // What stands under a prefix is found while a pickle is read, which has other things beside it.
    let pickled = path.extension().is_none_or(|end| end != "safetensors");
    let prefix = match options.prefix.trim_end_matches('.') {
        "" => String::new(),
        prefix => format!("{prefix}."),
    };
    let open = |file: &PathBuf| match pickled {
        true => pytorch::open(file, &prefix),
        false => safetensors::open(file, options.verify),
    };
    let weights = Incoming {
        files: shards.iter().map(open).collect::<Result<_, _>>()?,
        path,
        names: Names(layout, if pickled { String::new() } else { prefix }),
    };
    Ok((config, weights, None))
}

/// Reads the model in the folder or file; see [`Checkpoint`].
///
/// # Errors
/// Those of [`Checkpoint::open`] and [`Checkpoint::load`].
pub fn load(path: &Path, device: Device, verify: Verify) -> Result<MambaLm> {
    let options = Options {
        verify,
        ..Options::default()
    };
    Checkpoint::open(path, &options)?.load(device)
}

/// Writes the model to the folder `dir`, made where it is missing, to be gone on with: as it is, in f32, in the words
/// of Hugging Face where they suffice. Each file appears complete or not at all.
///
/// # Errors
/// [`Error::NoValue`]; what the file system says.
pub fn save(model: &MambaLm, dir: &Path) -> Result<()> {
    write(model, &ConfigFile::of(model.config()), dir)
}

fn write(model: &impl Module, config: &ConfigFile, dir: &Path) -> Result<()> {
    let names = Names(&HUGGING_FACE, String::new());
    let as_it_is = |param: &Param| param.value().cloned();
    let outgoing = Outgoing::new(model, is_kept, &names, |_| Encoding::F32, as_it_is)?;
    outgoing.write(dir, config, FILES)
}

/// As [`save`], a model that answers: `config.json` has its settings in our own words.
///
/// # Errors
/// Those of [`save`].
pub fn save_predictor(model: &Predictor, dir: &Path) -> Result<()> {
    let predictor = model.config().clone();
    write(model, &ConfigFile::SerpensPredictor { predictor }, dir)
}

/// Reads what [`save_predictor`] wrote.
///
/// # Errors
/// As [`load`]; [`Error::Writes`] for a language model.
pub fn load_predictor(dir: &Path, device: Device, verify: Verify) -> Result<Predictor> {
    let config = hf::read_predictor(&dir.join(CONFIG_FILE))?;
    let path = dir.join(WEIGHTS_FILE);
    let weights = Incoming {
        files: vec![safetensors::open(&path, verify)?],
        path,
        names: Names(&HUGGING_FACE, String::new()),
    };
    let mut model = config.plan()?;
    weights.check(&model, is_kept)?;
    model.check_memory(4, device)?;
    model.visit_mut("", &mut |name, param| weights.fill(name, param, device))?;
    Ok(model)
}
