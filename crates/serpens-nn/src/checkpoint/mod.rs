//! Models on disk: a folder with `config.json` and `model.safetensors`, in the Hugging Face layout.

mod hf;
#[cfg(test)]
mod tests;
mod weights;

use std::path::Path;

use serpens_core::Device;
use serpens_core::files::make_folders;
pub use serpens_formats::Verify;
use serpens_formats::safetensors::open_all;

use crate::{MambaLm, MambaLmConfig, Result};

/// The name of the configuration's file.
pub const CONFIG_FILE: &str = "config.json";
/// The name of the weights' file.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// Reads the configuration of the model in the folder `dir`: Hugging Face's (`model_type: mamba`), or Serpens's own for
/// models that the former cannot describe.
pub fn load_config(dir: &Path) -> Result<MambaLmConfig> {
    hf::read(&dir.join(CONFIG_FILE))
}

/// The model in the folder `dir` without its values, which are those that its files say they hold: only headers are
/// read.
///
/// # Errors
/// A missing, truncated or foreign file; a parameter that is missing, surplus or of another shape than the
/// configuration's.
pub fn plan(dir: &Path) -> Result<MambaLm> {
    let (config, path) = (load_config(dir)?, dir.join(WEIGHTS_FILE));
    let files = open_all(&path, Verify::Nothing)?;
    Ok(weights::Located::new(config, &path, &files)?.plan)
}

/// Reads the model in the folder `dir`; weights may be in one file or several with an index, in f32, bf16 or f16.
///
/// # Errors
/// Those of [`plan`]; [`Error::Memory`](crate::Error::Memory), before any is taken; a tensor that is damaged, where
/// that is verified and its file has digests, as those that [`save`] writes.
pub fn load(dir: &Path, device: Device, verify: Verify) -> Result<MambaLm> {
    let (config, path) = (load_config(dir)?, dir.join(WEIGHTS_FILE));
    let files = open_all(&path, verify)?;
    weights::Located::new(config, &path, &files)?.fill(device)
}

/// Writes the model to the folder `dir`, made where it is missing. Each file appears complete or not at all.
pub fn save(model: &MambaLm, dir: &Path) -> Result<()> {
    make_folders(dir).map_err(serpens_formats::Error::from)?;
    hf::write(model.config(), &dir.join(CONFIG_FILE))?;
    weights::save_parameters(model, &dir.join(WEIGHTS_FILE))
}
