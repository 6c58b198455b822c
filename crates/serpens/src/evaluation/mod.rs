//! Evaluation tasks: what a model is asked and how its answers are judged, a file of TOML each.

mod metric;
mod questions;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serpens_core::files::{Accept, read_text};
use smart_default::SmartDefault;

use crate::recipe::{from_toml, toml_files};
use crate::refusal::Refusal;
use crate::{Error, Result};

pub(crate) use metric::Metric;
pub(crate) use questions::Question;

/// The built-in tasks by name.
pub(crate) const BUILT_IN: [(&str, &str); 7] = toml_files![
    "../../evaluation/":
    "lambada",
    "hellaswag",
    "piqa",
    "arc-easy",
    "arc-challenge",
    "winogrande",
    "openbookqa",
];

/// How a line of JSON becomes what a model is asked. Context and target are templates of Jinja, choices and gold its
/// expressions, over the line's fields.
#[derive(Clone, Debug, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EvalTask {
    #[serde(skip)]
    pub(crate) name: String,
    /// Where its questions lie in a folder of data.
    data: PathBuf,
    /// A file beside them whose lines have the field `label` of theirs.
    labels: Option<PathBuf>,
    /// What stands before the target.
    context: String,
    /// A list; context and target are made with each of it as `choice`. Otherwise there is one.
    #[default = "['']"]
    choices: String,
    /// What is scored.
    target: String,
    /// Which of the choices is right: its place, from 0 on, or letter.
    #[default = "0"]
    gold: String,
    /// What is told.
    #[default(vec![Metric::Acc])]
    pub(crate) metrics: Vec<Metric>,
}

impl EvalTask {
    /// The built-in task of this name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Self::read(name, text),
            None => Err(Error::refused("TASK", Refusal::NoTask(name.to_owned()))),
        }
    }

    /// The task in this file.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        Self::read(&file.to_string_lossy(), &read_text(file, Accept::Streams)?)
    }

    /// The task of this text.
    fn read(name: &str, text: &str) -> Result<Self> {
        let task = from_toml(name, text)?;
        let name = name.to_owned();
        Ok(Self { name, ..task })
    }
}

/// What may be evaluated, for people.
pub(crate) fn names() -> String {
    let names = BUILT_IN.map(|(name, _)| name).join(", ");
    format!("perplexity (of a text) or tasks: {names}")
}
