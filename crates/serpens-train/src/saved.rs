//! The settings of a run that goes on: those of its newest checkpoint, and what may change.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::checkpoint;
use crate::state::State;
use crate::{Error, Result, TrainConfig};

/// What may change when a training goes on; all else is as its checkpoint says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Changes {
    /// Another number of steps.
    pub steps: Option<u64>,
    /// Another peak of the learning rate.
    pub lr: Option<f32>,
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
    /// [`Error::Config`] for fewer steps than were taken.
    pub(crate) fn apply(&self, state: &mut State) -> Result<()> {
        let config = &mut state.config;
        config.optimizer.lr = self.lr.unwrap_or(config.optimizer.lr);
        config.steps = self.steps.unwrap_or(config.steps);
        match self.steps {
            Some(steps) if steps < state.step => Err(Error::config(
                "steps",
                steps,
                "the run has taken more already",
            )),
            _ => config.check(),
        }
    }
}

/// The newest checkpoint of a run, as far as it tells how it was trained.
pub struct Saved {
    path: PathBuf,
    state: State,
    is_changed: bool,
}

impl Saved {
    /// That of the run in `run`, if there is one that can be read.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn newest(run: &Path) -> Result<Option<Self>> {
        let found = checkpoint::complete(run)?.into_iter().rev();
        let mut readable = found.filter_map(|(step, path)| {
            let state = checkpoint::read_state(step, &path).ok()?;
            Some(Self {
                path,
                state,
                is_changed: false,
            })
        });
        Ok(readable.next())
    }

    /// The same with changes, where it is then the checkpoint of a run of these settings: `recipe` is what
    /// [`crate::Trainer::with_recipe`] was given, `source` the description of its batches.
    ///
    /// # Errors
    /// [`Error::OtherSettings`] for the first field that differs; those of the changes.
    pub fn changed(
        mut self,
        changes: &Changes,
        config: &TrainConfig,
        recipe: &impl Serialize,
        source: &str,
    ) -> Result<Self> {
        let saved = self.state.config.optimizer.lr;
        changes.apply(&mut self.state)?;
        self.is_changed = self.state.config.optimizer.lr != saved;
        same("train", &plain(&self.state.config), &plain(config))?;
        same("", &self.state.recipe, &plain(recipe))?;
        self.state.check_source(source)?;
        Ok(self)
    }

    /// Brings another learning rate to disk; the number of steps is what a run is asked for each time.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self) -> Result<()> {
        match self.is_changed {
            true => checkpoint::write_state(&self.path, &self.state),
            false => Ok(()),
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
