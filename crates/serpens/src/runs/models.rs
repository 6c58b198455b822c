//! Models in folders and files.

use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::{ArgAction, Args};
use serpens_core::Device;
use serpens_data::Tokenizer;
use serpens_formats::gguf::Metadata;
use serpens_nn::checkpoint::{self, Checkpoint, Options, Verify};
use serpens_nn::{MambaLm, Module};
use serpens_train::Compute;

use super::RUNS;
use crate::hub::{HubArgs, NEWEST};
use crate::refusal::WrongModel;
use crate::{Error, Result};

/// Options of the commands that read a model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A run's folder or its name below runs; a model's folder or file: Hugging Face's, the original program's, GGUF; or the
    /// name of one on the Hugging Face hub, or of a file there: state-spaces/mamba-130m-hf, owner/name/FILE.gguf.
    #[arg(long = "model", value_name = "RUN")]
    pub(crate) path: PathBuf,
    /// What stands before the names of the tensors in its files, as model in Lightning's.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    prefix: String,
    #[command(flatten)]
    hub: HubArgs,
    /// The tokenizer: its file or folder, or of a name on the hub the newest, or bytes; otherwise that in the model's folder.
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Take the files as they are, though their digests say that they are damaged.
    #[arg(long = "no-verify", action = ArgAction::SetTrue, value_parser = verify())]
    verify: Verify,
}

/// Reads `--no-verify`.
pub(crate) fn verify() -> impl TypedValueParser<Value = Verify> {
    BoolishValueParser::new().map(|nothing| match nothing {
        true => Verify::Nothing,
        false => Verify::Digests,
    })
}

/// A model that was read.
pub(crate) struct Opened {
    pub(crate) model: MambaLm,
    /// Its folder or file.
    pub(crate) path: PathBuf,
    /// The folder where its tokenizer would be.
    folder: PathBuf,
    /// What a GGUF file says.
    metadata: Option<Metadata>,
}

impl ModelArgs {
    /// The model, on the processor.
    pub(crate) fn load(&self) -> Result<Opened> {
        let path = model_path(&self.path, &self.hub)?;
        let options = Options {
            verify: self.verify,
            prefix: self.prefix.clone(),
        };
        let opened = Checkpoint::open(&path, &options).and_then(|checkpoint| {
            let folder = checkpoint.folder().to_owned();
            let metadata = checkpoint.metadata().cloned();
            Ok((checkpoint.load(Device::Cpu)?, folder, metadata))
        });
        let (model, folder, metadata) = opened.map_err(|error| wrong(&path, error))?;
        Ok(Opened {
            model,
            path,
            folder,
            metadata,
        })
    }

    /// The model on that device, and its tokenizer.
    pub(crate) fn load_with_tokenizer(&self, compute: &Compute) -> Result<(Opened, Tokenizer)> {
        let mut opened = self.load()?;
        opened.model.to(compute.device, compute.precision)?;
        match self.tokenizer(&opened)? {
            Some(tokenizer) => Ok((opened, tokenizer)),
            None => {
                let vocabulary = opened.model.config().vocab_size;
                let wrong = WrongModel::NoTokenizer(vocabulary);
                Err(Error::wrong_model(opened.path, wrong))
            }
        }
    }

    /// The tokenizer that was given, or is in the model's file or folder; bytes for a model of 256 tokens that has none.
    pub(crate) fn tokenizer(&self, opened: &Opened) -> Result<Option<Tokenizer>> {
        let vocabulary = opened.model.config().vocab_size;
        let mut found = match (&self.tokenizer, &opened.metadata) {
            (Some(path), _) => {
                let revision = NEWEST.into();
                let hub = HubArgs {
                    revision,
                    ..self.hub
                };
                Some(Tokenizer::open(&hub.fetch(path, false)?)?)
            }
            (None, Some(metadata)) => Tokenizer::from_gguf(metadata)?,
            (None, None) => Tokenizer::find(&opened.folder)?,
        };
        if found.is_none() && vocabulary == 256 {
            found = Some(Tokenizer::bytes());
        }
        if let Some(tokenizer) = &found {
            tokenizer.check_vocabulary(vocabulary)?;
        }
        Ok(found)
    }
}

/// The model's folder or file, given that, or a run's folder or its name, or a name on the hub.
pub(crate) fn model_path(path: &Path, hub: &HubArgs) -> Result<PathBuf> {
    let path = &hub.fetch(path, true)?;
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let run = Path::new(RUNS).join(path);
    [path.join("model"), path.to_owned(), run.join("model")]
        .into_iter()
        .find(|dir| dir.join(checkpoint::CONFIG_FILE).exists())
        .ok_or_else(|| {
            let given = if path.exists() { path } else { &run };
            Error::wrong_model(path, why_no_model(given))
        })
}

fn why_no_model(path: &Path) -> WrongModel {
    if !path.is_dir() {
        return WrongModel::NoFolder;
    }
    match serpens_train::newest_checkpoint(path) {
        Ok(Some((_, checkpoint))) => WrongModel::Unfinished {
            run: path.to_owned(),
            checkpoint,
        },
        _ => WrongModel::NoConfig,
    }
}

/// Reads the model in this folder.
pub(crate) fn load(dir: &Path, verify: Verify) -> Result<MambaLm> {
    checkpoint::load(dir, Device::cpu(), verify).map_err(|error| wrong(dir, error))
}

/// The error of reading the model there.
fn wrong(path: &Path, error: serpens_nn::Error) -> Error {
    let config = match path.is_dir() {
        true => path.join(checkpoint::CONFIG_FILE),
        false => path.to_owned(),
    };
    match error.is_config() {
        true => Error::wrong_model(config, Box::new(error)),
        false => error.into(),
    }
}
