//! Models in folders.

use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::{ArgAction, Args};
use serpens_core::Device;
use serpens_data::Tokenizer;
use serpens_nn::checkpoint::{self, Verify};
use serpens_nn::{MambaLm, Module};
use serpens_train::Compute;

use super::RUNS;
use crate::refusal::WrongModel;
use crate::{Error, Result};

/// Options of the commands that read a model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A run's folder or its name below runs, or a model's folder.
    #[arg(long = "model", value_name = "RUN")]
    pub(crate) path: PathBuf,
    /// The tokenizer: its file or folder, or bytes; otherwise that in the model's folder.
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

impl ModelArgs {
    /// The model and its folder.
    pub(crate) fn load(&self) -> Result<(PathBuf, MambaLm)> {
        let dir = model_dir(&self.path)?;
        let model = load(&dir, self.verify)?;
        Ok((dir, model))
    }

    /// The model on that device, its folder, and its tokenizer.
    pub(crate) fn load_with_tokenizer(
        &self,
        compute: &Compute,
    ) -> Result<(PathBuf, MambaLm, Tokenizer)> {
        let (dir, mut model) = self.load()?;
        model.to(compute.device, compute.precision)?;
        let vocabulary = model.config().vocab_size;
        match self.tokenizer(&dir, vocabulary)? {
            Some(tokenizer) => Ok((dir, model, tokenizer)),
            None => Err(Error::wrong_model(dir, WrongModel::NoTokenizer(vocabulary))),
        }
    }

    /// The tokenizer that was given, or is in the model's folder; bytes for a model of 256 tokens that has none.
    pub(crate) fn tokenizer(&self, dir: &Path, vocabulary: usize) -> Result<Option<Tokenizer>> {
        let found = match &self.tokenizer {
            Some(path) => Some(Tokenizer::open(path)?),
            None => Tokenizer::find(dir)?,
        };
        let found = found.or_else(|| (vocabulary == 256).then(Tokenizer::bytes));
        if let Some(tokenizer) = &found {
            tokenizer.check_vocabulary(vocabulary)?;
        }
        Ok(found)
    }
}

/// The model's folder, given that, or a run's folder or its name.
fn model_dir(path: &Path) -> Result<PathBuf> {
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
    checkpoint::load(dir, Device::cpu(), verify).map_err(|error| match error.is_config() {
        true => Error::wrong_model(dir.join(checkpoint::CONFIG_FILE), Box::new(error)),
        false => error.into(),
    })
}
