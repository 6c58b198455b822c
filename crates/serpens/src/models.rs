//! Models in folders.

use std::path::{Path, PathBuf};

use serpens_core::Device;
use serpens_nn::{MambaLm, Module, Param, checkpoint};

use crate::output::shell_word;
use crate::{Error, Result, size};

/// The model's folder, given that or a run's.
pub(crate) fn model_dir(path: &Path) -> Result<PathBuf> {
    [path.join("model"), path.to_owned()]
        .into_iter()
        .find(|dir| dir.join(checkpoint::CONFIG_FILE).exists())
        .ok_or_else(|| Error::NoModel {
            path: path.to_owned(),
            reason: why_no_model(path),
        })
}

fn why_no_model(path: &Path) -> String {
    if !path.is_dir() {
        return "there is no such folder; give that of a run or of a model".into();
    }
    match serpens_train::newest_checkpoint(path) {
        Ok(Some((_, checkpoint))) => format!(
            "its training is not finished; go on with: serpens train --resume {}, or give its checkpoint {}",
            shell_word(&path.to_string_lossy()),
            checkpoint.display()
        ),
        _ => {
            "neither config.json nor model/config.json is there; give the folder of a finished run"
                .into()
        }
    }
}

/// Reads the model in this folder.
pub(crate) fn load(dir: &Path) -> Result<MambaLm> {
    check_loadable(dir)?;
    checkpoint::load(dir, Device::cpu()).map_err(|error| wrong_config(dir, error))
}

fn wrong_config(dir: &Path, error: serpens_nn::Error) -> Error {
    match error.is_config() {
        true => Error::WrongModel {
            path: dir.join(checkpoint::CONFIG_FILE),
            reason: error.to_string(),
        },
        false => error.into(),
    }
}

/// Refuses a model that the memory cannot hold, before anything is allocated for it.
pub(crate) fn check_loadable(dir: &Path) -> Result<()> {
    let plan = checkpoint::load_config(dir).and_then(|config| config.plan());
    let plan = plan.map_err(|error| wrong_config(dir, error))?;
    let weights = 4.0 * plan.count(Param::is_trained)? as f64;
    if size::fits(weights, Device::Cpu) {
        return Ok(());
    }
    Err(Error::WrongModel {
        path: dir.join(checkpoint::CONFIG_FILE),
        reason: format!(
            "weights of {:.1} GB exceed this machine's memory; check the sizes",
            weights / 1e9
        ),
    })
}
