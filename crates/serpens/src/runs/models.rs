//! Models in folders and files.

use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::{ArgAction, Args};
use serde::{Deserialize, Serialize};
use serpens_core::Device;
use serpens_data::Tokenizer;
use serpens_nn::checkpoint::{self, Checkpoint, Format, Options, Verify};
use serpens_nn::{MambaLm, ToInfer, join};
use serpens_train::TrainedModel;
use toml::Value;

use super::{RUNS, RunFolder};
use crate::hub::{HubArgs, NEWEST};
use crate::output::{significant, tell};
use crate::progress::waiting;
use crate::recipe::{Recipe, located, no_model};
use crate::refusal::{Refusal, WrongModel};
use crate::{Error, Result};

/// Where a model is.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[group(arg = "path")]
#[serde(deny_unknown_fields)]
pub struct ModelPlace {
    /// A run's folder or its name below runs; a model's folder or file: Hugging Face's, the original program's, GGUF;
    /// or the name of one on the Hugging Face hub, or of a file there: state-spaces/mamba-130m-hf,
    /// owner/name/FILE.gguf.
    #[arg(long = "model", value_name = "RUN")]
    pub(crate) path: PathBuf,
    /// What stands before the names of the tensors in its files, as model in Lightning's.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    prefix: String,
    /// What low-rank adaptation learnt to add to it: a folder as the PEFT library's, such as a run's adapter.
    #[arg(long, value_name = "DIR")]
    #[serde(default)]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    #[serde(skip)]
    hub: HubArgs,
}

/// Options of the commands that read a model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Where it is.
    #[command(flatten)]
    pub(crate) place: ModelPlace,
    /// The tokenizer: its file or folder, or of a name on the hub the newest, or bytes; otherwise that in the model's
    /// folder.
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
    /// Where its tokenizer would be.
    pub(crate) checkpoint: Checkpoint,
    /// How a tokenizer that is named is found.
    hub: HubArgs,
}

impl ModelPlace {
    /// The model, on the processor.
    pub(crate) fn load(&self, verify: Verify) -> Result<Opened> {
        self.read(verify, None)
    }

    /// The model's folder or file, of which only headers were read.
    fn open(&self, verify: Verify) -> Result<(PathBuf, Checkpoint)> {
        let path = model_path(&self.path, &self.hub)?;
        if !self.prefix.is_empty() && Format::of_name(&path) == Format::Gguf {
            let wrong = Refusal::NoUse("names in GGUF files have none");
            return Err(Error::refused("--prefix", wrong));
        }
        let options = Options {
            verify,
            prefix: self.prefix.clone(),
        };
        let opened = Checkpoint::open(&path, &options).map_err(|error| wrong(&path, error))?;
        Ok((path, opened))
    }

    /// The model, on the processor, or as it is only asked.
    fn read(&self, verify: Verify, to_infer: Option<ToInfer>) -> Result<Opened> {
        let (path, checkpoint) = self.open(verify)?;
        let load = |checkpoint: &Checkpoint| match to_infer {
            Some(how) if self.adapter.is_none() => checkpoint.load_to_infer(how),
            _ => checkpoint.load(Device::Cpu), // what is added needs the matrices in f32
        };
        let read = waiting(&format!("reading {}", path.display()), || load(&checkpoint));
        let mut model = read.map_err(|error| wrong(&path, error))?;
        if let Some(adapter) = &self.adapter {
            checkpoint::load_adapter(&mut model, adapter, verify)?;
            if let Some(how) = to_infer {
                model.to_infer(how)?;
            }
        }
        Ok(Opened {
            model,
            path,
            checkpoint,
            hub: HubArgs {
                revision: NEWEST.into(),
                ..self.hub
            },
        })
    }
}

impl ModelArgs {
    /// The model, on the processor.
    pub(crate) fn load(&self) -> Result<Opened> {
        self.place.load(self.verify)
    }

    /// The model's files, of which only headers were read.
    pub(crate) fn open(&self) -> Result<Checkpoint> {
        Ok(self.place.open(self.verify)?.1)
    }

    /// The model as it is only asked, and its tokenizer.
    pub(crate) fn load_with_tokenizer(&self, how: ToInfer) -> Result<(Opened, Tokenizer)> {
        let opened = self.place.read(self.verify, Some(how))?;
        if let Some(asked) = how.weights {
            let asked_for = asked.to_string().to_lowercase();
            for (held, part) in opened.model.held_otherwise(asked)? {
                let part = significant(100.0 * part);
                tell(&format!(
                    "{part} % of the weights are held in {held}, as rows are no whole blocks of {asked_for}"
                ));
            }
        }
        let tokenizer = opened.needed_tokenizer(self.tokenizer.as_deref())?;
        Ok((opened, tokenizer))
    }

    /// The tokenizer that was given, or is in the model's file or folder; bytes for a model of 256 tokens that has
    /// none.
    pub(crate) fn tokenizer(&self, opened: &Opened) -> Result<Option<Tokenizer>> {
        opened.tokenizer(self.tokenizer.as_deref())
    }
}

impl Opened {
    /// Has a recipe go on from this model, with its tokenizer where the recipe names none.
    ///
    /// # Errors
    /// [`Error::Refused`] for a setting of another model in the recipe; a tokenizer that is missing or broken.
    pub(crate) fn begin(&self, recipe: &mut Recipe) -> Result<()> {
        let config = self.model.config();
        if recipe.model == no_model() {
            recipe.model = config.clone();
        }
        let [there, here] = [config, &recipe.model].map(|config| Value::try_from(config).ok());
        if let Some(setting) = difference("model", there.as_ref(), here.as_ref()) {
            let wrong = Refusal::OtherModel(self.path.clone());
            return Err(Error::refused(setting, wrong));
        }
        let adapter = recipe.init.as_ref().and_then(|place| place.adapter.clone());
        if let (Some(adapter), Some(_)) = (adapter, &recipe.lora) {
            let wrong = Refusal::TwoAdapters(self.path.clone(), adapter);
            return Err(Error::refused("--adapter", wrong));
        }
        if let Some(place) = &mut recipe.init {
            place.path = located(&self.path).into();
            place.adapter = place.adapter.take().map(|path| located(&path).into());
        }
        if let Some(setting) = recipe.task.settings_mut().tokenizer() {
            let given = setting.path.as_ref().map(Path::new);
            setting.opened = Some(self.needed_tokenizer(given)?);
        }
        Ok(())
    }

    fn needed_tokenizer(&self, given: Option<&Path>) -> Result<Tokenizer> {
        self.tokenizer(given)?.ok_or_else(|| self.no_tokenizer())
    }

    /// What is wrong where a text cannot be read.
    pub(crate) fn no_tokenizer(&self) -> Error {
        let wrong = WrongModel::NoTokenizer(self.model.config().vocab_size);
        Error::wrong_model(&self.path, wrong)
    }

    fn tokenizer(&self, given: Option<&Path>) -> Result<Option<Tokenizer>> {
        let vocabulary = self.model.config().vocab_size;
        let mut found = match (given, self.checkpoint.metadata()) {
            (Some(path), _) => Some(Tokenizer::open(&self.hub.fetch(path, false)?)?),
            (None, Some(metadata)) => Tokenizer::from_gguf(metadata)?,
            (None, None) => Tokenizer::find(self.checkpoint.folder())?,
        };
        if let (None, Some(run)) = (&found, RunFolder::around(self.checkpoint.folder())) {
            let kept = run.tokenizer();
            found = kept.map(|dir| Tokenizer::open(&dir)).transpose()?;
        }
        if found.is_none() && vocabulary == 256 {
            found = Some(Tokenizer::bytes());
        }
        if let Some(tokenizer) = &found {
            tokenizer.check_vocabulary(vocabulary)?;
        }
        Ok(found)
    }
}

/// The name of the first setting that is not the same in both.
fn difference(path: &str, one: Option<&Value>, other: Option<&Value>) -> Option<String> {
    match (one, other) {
        (Some(Value::Table(one)), Some(Value::Table(other))) => {
            let mut keys = one.keys().chain(other.keys());
            keys.find_map(|key| difference(&join(path, key), one.get(key), other.get(key)))
        }
        _ => (one != other).then(|| path.to_owned()),
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
pub(crate) fn load<M: TrainedModel>(dir: &Path, verify: Verify) -> Result<M> {
    M::load(dir, verify).map_err(|error| wrong(dir, error))
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
