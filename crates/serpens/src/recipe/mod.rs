//! Recipes: everything that defines a training run, in TOML.

mod parse;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_core::files::{Accept, read_text};
use serpens_nn::ssm::SsmConfig;
use serpens_nn::{LoraConfig, MambaLmConfig};
use serpens_train::TrainConfig;

use crate::refusal::Refusal;
use crate::runs::models::ModelPlace;
use crate::tasks::{TaskConfig, TaskSettings, TestConfig};
use crate::{Error, Result};

pub(crate) use parse::from_toml;

/// Names and texts of the TOML files in this folder.
macro_rules! toml_files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!($folder, $name, ".toml")))),*]
    };
}

pub(crate) use toml_files;

/// The built-in recipes by name.
pub const BUILT_IN: [(&str, &str); 14] = toml_files![
    "../../recipes/":
    "induction-heads",
    "induction-heads-short",
    "selective-copying",
    "text",
    "text-130m",
    "text-finetune",
    "dna",
    "dna-large",
    "audio",
    "audio-large",
    "classify",
    "classify-large",
    "forecast",
    "forecast-large",
];

/// The built-in models by name: what `model=NAME` sets of a recipe's `[model]`.
pub const MODELS: [(&str, &str); 9] = toml_files![
    "../../recipes/models/":
    "mamba-mlp",
    "mamba-attention",
    "transformer",
    "gpt",
    "gau",
    "h3-attention",
    "gated-rnn",
    "lstm",
    "unet",
];

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seeds weights and data.
    #[serde(default)]
    pub seed: u64,
    /// The model that is gone on from, in place of one of random values.
    #[serde(default)]
    pub init: Option<ModelPlace>,
    /// What is learnt.
    pub task: TaskConfig,
    /// What learns it; where it is left out, that of `init`.
    #[serde(default = "no_model")]
    pub model: MambaLmConfig,
    /// What is trained in place of the model's matrices, if anything is.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// The state space model of a second model, which is otherwise the same and trained the same way.
    #[serde(default)]
    pub twin: Option<SsmConfig>,
    /// How it is trained.
    pub train: TrainConfig,
    /// How it is tested.
    #[serde(default)]
    pub evaluate: TestConfig,
}

/// The settings of a model that is left out.
pub(crate) fn no_model() -> MambaLmConfig {
    MambaLmConfig::new(0, 0, 0)
}

/// A path from the root on, to be found from anywhere, unless that is no text, as recipes are.
pub(crate) fn located(path: &Path) -> String {
    let whole = std::path::absolute(path).ok();
    let whole = whole.and_then(|whole| whole.to_str().map(str::to_owned));
    whole.unwrap_or_else(|| path.to_string_lossy().into_owned())
}

/// Their names, for people.
pub(crate) fn names() -> String {
    BUILT_IN.map(|(name, _)| name).join(", ")
}

/// The text of a built-in recipe.
///
/// # Errors
/// [`Error::UnknownRecipe`].
pub fn built_in(name: &str) -> Result<&'static str> {
    let found = BUILT_IN.iter().find(|(known, _)| *known == name);
    let text = found.map(|(_, text)| *text);
    text.ok_or_else(|| Error::UnknownRecipe(name.to_owned()))
}

/// The recipes and models that are built in, with their texts.
pub(crate) fn shown() -> impl Iterator<Item = (&'static str, &'static str)> {
    BUILT_IN.into_iter().chain(MODELS)
}

impl Recipe {
    /// Reads the text of a recipe, which comes from `origin`, and applies `KEY=VALUE` changes.
    ///
    /// # Errors
    /// Text that is not TOML, keys that are not a recipe's (with the most similar one), values of the wrong kind.
    pub fn read(origin: &str, text: &str, changes: &[String]) -> Result<Self> {
        let mut recipe = parse::read(origin, text, changes)?;
        recipe.task.settings_mut().set_seed(recipe.seed); // one seed for weights and data
        Ok(recipe)
    }

    /// [`Recipe::read`] of a file, or of what else is accepted.
    pub fn open(path: &Path, accept: Accept, changes: &[String]) -> Result<Self> {
        let (origin, text) = (path.display().to_string(), read_text(path, accept)?);
        Self::read(&origin, &text, changes)
    }

    /// A setting of tasks that read data of a user's own, for this option.
    ///
    /// # Errors
    /// [`Error::Refused`] where the task has none.
    pub(crate) fn asked<'a, T>(
        &'a mut self,
        option: &str,
        setting: impl Fn(&'a mut dyn TaskSettings) -> Option<&'a mut T>,
    ) -> Result<&'a mut T> {
        let refused = Error::refused(option, Refusal::NoTextTask(self.task.name()));
        setting(self.task.settings_mut()).ok_or(refused)
    }

    /// Says where the task's data and labels lie from the root on, so that the run can be gone on with from anywhere.
    pub(crate) fn locate_text(&mut self) {
        let text = self.task.settings_mut().data().and_then(Option::as_mut);
        // A folder's name must not become a part of a pattern.
        let here = std::env::current_dir().unwrap_or_default();
        let plain = !here.to_string_lossy().contains(['*', '?', '[']);
        if let Some(text) = text.filter(|text| plain || Path::new(text).exists()) {
            *text = located(Path::new(text));
        }
        if let Some(labels) = self.task.settings_mut().labels() {
            let text = String::from(labels.clone());
            if Path::new(&text).is_file() {
                *labels = located(Path::new(&text)).into();
            }
        }
    }

    /// The recipe as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe has string keys and values that TOML knows")
    }

    /// The twin's model.
    pub fn twin_model(&self) -> Option<MambaLmConfig> {
        Some(self.model.clone().with_ssm(self.twin.as_ref()?))
    }
}
