//! Recipes: everything that defines a training run, in TOML.

mod parse;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serpens_data::{InductionHeadsConfig, SelectiveCopyingConfig};
use serpens_nn::MambaLmConfig;
use serpens_nn::ssm::SsmConfig;
use serpens_train::TrainConfig;

use crate::{Error, Result};

/// The built-in recipes by name.
pub const BUILT_IN: [(&str, &str); 5] = [
    (
        "induction-heads",
        include_str!("../../recipes/induction-heads.toml"),
    ),
    (
        "induction-heads-short",
        include_str!("../../recipes/induction-heads-short.toml"),
    ),
    (
        "selective-copying",
        include_str!("../../recipes/selective-copying.toml"),
    ),
    ("text", include_str!("../../recipes/text.toml")),
    ("text-130m", include_str!("../../recipes/text-130m.toml")),
];

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seeds weights and data.
    #[serde(default)]
    pub seed: u64,
    /// What is learnt.
    pub task: Task,
    /// What learns it.
    pub model: MambaLmConfig,
    /// The state space model of a second model, which is otherwise the same and trained the same way.
    #[serde(default)]
    pub twin: Option<SsmConfig>,
    /// How it is trained.
    pub train: TrainConfig,
    /// How it is tested.
    #[serde(default)]
    pub evaluate: Evaluate,
}

/// What is learnt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Task {
    /// Find what followed the special token the first time.
    InductionHeads(InductionHeadsConfig),
    /// Repeat the data, leave out the noise.
    SelectiveCopying(SelectiveCopyingConfig),
    /// Predict the next byte of a text.
    Text(TextConfig),
}

/// Settings of [`Task::Text`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// A file, a folder or a glob.
    pub data: Option<String>,
    /// Rows of a batch.
    pub batch: usize,
    /// Bytes of a row.
    pub length: usize,
    /// The part at the end that is held out.
    pub validation: f64,
    /// What a sample of the trained model continues.
    pub prompt: String,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            data: None,
            batch: 8,
            length: 256,
            validation: 0.1,
            prompt: "\n".into(),
        }
    }
}

/// How a model is tested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evaluate {
    /// Lengths of induction-heads sequences.
    pub lengths: Vec<usize>,
    /// Sequences of each length; batches for selective copying.
    pub samples: usize,
    /// Sequences read side by side.
    pub rows: usize,
    /// Positions read at a time, with carried state.
    pub chunk: usize,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self {
            lengths: Vec::new(),
            samples: 16,
            rows: 8,
            chunk: 512,
        }
    }
}

/// Where a recipe comes from.
pub enum Origin<'a> {
    /// A built-in one.
    BuiltIn(&'a str),
    /// A file, with its text.
    File(&'a std::path::Path, &'a str),
}

/// The text of a built-in recipe.
///
/// # Errors
/// [`Error::UnknownRecipe`], with the most similar name.
pub fn built_in(name: &str) -> Result<&'static str> {
    let found = BUILT_IN.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, text)| *text)
        .ok_or_else(|| Error::UnknownRecipe {
            name: name.to_owned(),
            nearest: parse::nearest(name, BUILT_IN.iter().map(|(known, _)| *known)),
        })
}

impl Recipe {
    /// Reads a recipe and applies `KEY=VALUE` changes.
    ///
    /// # Errors
    /// Text that is not TOML, keys that are not a recipe's (with the most similar one), values of the wrong kind.
    pub fn read(origin: &Origin<'_>, changes: &[String]) -> Result<Self> {
        let (name, text) = match origin {
            Origin::BuiltIn(name) => (format!("recipe {name}"), built_in(name)?),
            Origin::File(path, text) => (path.display().to_string(), *text),
        };
        let mut recipe = parse::read(&name, text, changes)?;
        recipe.spread_seed();
        Ok(recipe)
    }

    /// One seed for weights and data.
    pub(crate) fn spread_seed(&mut self) {
        match &mut self.task {
            Task::InductionHeads(task) => task.seed = self.seed,
            Task::SelectiveCopying(task) => task.seed = self.seed,
            Task::Text(_) => {}
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

    /// A name for runs of it.
    pub fn task_name(&self) -> &'static str {
        match self.task {
            Task::InductionHeads(_) => "induction-heads",
            Task::SelectiveCopying(_) => "selective-copying",
            Task::Text(_) => "text",
        }
    }
}
