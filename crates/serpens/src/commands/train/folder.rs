//! The folder of a run.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::output::save;
use crate::recipe::Recipe;
use crate::{Error, Result};

/// A run's folder: `config.toml`, `metrics.jsonl`, `checkpoints/`, `model/`, `report.html` and its `figures/`, and `twin/` with the same of a
/// second model.
pub(super) struct RunFolder {
    pub(super) path: PathBuf,
}

impl RunFolder {
    /// Makes the folder, of this name or the first free one of the task's, with the settings in it.
    pub(super) fn create(out: &Path, name: Option<&str>, recipe: &Recipe) -> Result<Self> {
        if let Some(name) = name {
            check_name(name)?;
        }
        let folder = Self::make(out, name, recipe.task_name())?;
        if let Err(error) = save_settings(&folder.path, recipe) {
            // Nothing is in it; the first error is the one to report.
            let _ = fs::remove_dir(&folder.path);
            return Err(error);
        }
        Ok(folder)
    }

    fn make(out: &Path, name: Option<&str>, task: &str) -> Result<Self> {
        fs::create_dir_all(out).map_err(|e| Error::io("write", out, e))?;
        let make = |path: PathBuf| match fs::create_dir(&path) {
            Ok(()) => Ok(Some(Self { path })),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(Error::io("write", path, e)),
        };
        if let Some(name) = name {
            let path = out.join(name);
            return make(path.clone())?.ok_or(Error::RunExists { path });
        }
        for number in 1_u64.. {
            if let Some(folder) = make(out.join(format!("{task}-{number}")))? {
                return Ok(folder);
            }
        }
        unreachable!("there are fewer folders than numbers")
    }
}

/// Writes `config.toml`, a recipe for the same run.
pub(super) fn save_settings(run: &Path, recipe: &Recipe) -> Result<()> {
    save(&run.join("config.toml"), &recipe.to_toml())
}

/// A name that is a folder's and no more.
fn check_name(name: &str) -> Result<()> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(()),
        _ => Err(Error::Usage {
            option: "--name",
            reason: format!(
                "{name:?} is not the name of a folder; --out says which folder it goes into"
            ),
        }),
    }
}
