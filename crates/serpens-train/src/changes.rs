//! The settings of a run that goes on: those of its checkpoint, and what may change.

use serde::Serialize;
use serde_json::Value;
use serpens_formats::Verify;

use crate::state::State;
use crate::{Error, Result};

/// What may change when a training goes on, all else being as its checkpoint says; and how that is read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Changes {
    /// Another number of steps.
    pub steps: Option<u64>,
    /// Another peak of the learning rate.
    pub lr: Option<f32>,
    /// What is verified of the checkpoint.
    pub verify: Verify,
}

impl Changes {
    /// Another number of steps only.
    pub fn steps(steps: u64) -> Self {
        Self {
            steps: Some(steps),
            ..Self::default()
        }
    }

    /// Makes the changes.
    ///
    /// # Errors
    /// [`Error::Config`] for fewer steps than were taken, and for a learning rate with which no step is left to take.
    pub(crate) fn apply(&self, state: &mut State) -> Result<()> {
        let saved = state.config.optimizer.lr;
        let lr = self.lr.unwrap_or(saved);
        state.config.steps = self.steps.unwrap_or(state.config.steps);
        state.config.optimizer.lr = lr;
        let taken = "the run has taken more already";
        let finished = "a model of this run has no step left to take with it; give more steps too";
        match self.steps {
            Some(steps) if steps < state.step => Err(Error::config("steps", steps, taken)),
            _ if lr != saved && state.is_finished() => {
                Err(Error::config("optimizer.lr", lr, finished))
            }
            _ => state.config.check(),
        }
    }
}

/// Settings as a JSON file has them: the same number whether it was read from one or not.
pub(crate) fn plain(settings: &impl Serialize) -> Value {
    let text = serde_json::to_string(settings);
    let value = text.and_then(|text| serde_json::from_str(&text));
    value.expect("settings have string keys")
}

/// Refuses the first value that differs. What was not saved is of a later version.
pub(crate) fn same(path: &str, saved: &Value, here: &Value) -> Result<()> {
    match (saved, here) {
        (Value::Object(fields), _) => {
            // The kind first, as other fields depend on it.
            let mut fields = fields.get_key_value("kind").into_iter().chain(fields);
            fields.try_for_each(|(name, saved)| {
                let path = format!("{path}{}{name}", if path.is_empty() { "" } else { "." });
                same(&path, saved, here.get(name).unwrap_or(&Value::Null))
            })
        }
        _ if saved == here || path.is_empty() => Ok(()),
        _ => Err(Error::OtherSettings {
            field: path.to_owned(),
            saved: saved.to_string(),
            here: here.to_string(),
        }),
    }
}
