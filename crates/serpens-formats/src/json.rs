//! Settings in JSON files.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serpens_core::files::{Accept, read_text, write_bytes};

use crate::{Error, Fault, Result};

/// Reads the file, which is to be `what`, such as a model configuration.
///
/// # Errors
/// [`Error::Io`]; [`Fault::Json`] where it is something else.
pub fn read<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T> {
    let read = serde_json::from_str(&read_text(path, Accept::Files)?);
    read.map_err(|source| Error::at(path)(Fault::Json(what, source)))
}

/// Writes the file, which appears complete or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).expect("settings have string keys");
    Ok(write_bytes(path, &text)?)
}
