//! Models on disk: a folder with `config.json` and `model.safetensors`, in the Hugging Face layout.

mod hf;
#[cfg(test)]
mod tests;
mod weights;

use std::fs;
use std::path::Path;

use serpens_core::Device;
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

/// Reads the model in the folder `dir`; weights may be in one file or several with an index, in f32, bf16 or f16.
///
/// # Errors
/// A missing, truncated or foreign file; a parameter that is missing, surplus or of another shape than the
/// configuration's.
pub fn load(dir: &Path, device: Device) -> Result<MambaLm> {
    let mut model = load_config(dir)?.plan()?;
    let path = dir.join(WEIGHTS_FILE);
    weights::load_parameters(&mut model, &path, &open_all(&path)?, device)?;
    Ok(model)
}

/// Writes the model to the folder `dir`, made where it is missing. Each file appears complete or not at all.
pub fn save(model: &MambaLm, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(serpens_formats::Error::io("write", dir))?;
    hf::write(model.config(), &dir.join(CONFIG_FILE))?;
    weights::save_parameters(model, &dir.join(WEIGHTS_FILE))
}
