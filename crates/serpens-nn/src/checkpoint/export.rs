//! Models for other programs.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_formats::gguf::Metadata;
use serpens_formats::{Encoding, Planned, gguf as file};

use super::hf::{ConfigFile, HfConfig};
use super::layout::{HUGGING_FACE, Place};
use super::weights::{Names, Outgoing};
use super::{FILES, gguf, mamba_ssm};
use crate::lora::is_added;
use crate::precision::named;
use crate::{Error, MambaLm, Param, Result};

/// The formats of models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A folder as `transformers` has it: `config.json` and safetensors.
    #[default]
    Hf,
    /// One file, as llama.cpp has it.
    Gguf,
    /// A folder with the original program's `config.json` and names; its own files are pickles (`pytorch_model.bin`),
    /// those written here are safetensors, for its `load_state_dict` (not strict where the head is the table: it is
    /// left out).
    OriginalNames,
}

named!(Format {
    Hf,
    Gguf,
    OriginalNames
});

impl Format {
    /// The format that a path's name says: [`Format::Gguf`] where it ends so, otherwise [`Format::Hf`].
    pub fn of_name(path: &Path) -> Self {
        match path.extension().is_some_and(|end| end == "gguf") {
            true => Format::Gguf,
            false => Format::Hf,
        }
    }
}

/// Writes a model in a format, with what [`MambaLm::adapt`] had trained added to its matrices: to the folder `path`,
/// made where it is missing, or to the file `path` (GGUF), which also gets these metadata, such as a tokenizer's.
/// Tensors are stored as `encoding` says of their names there; in GGUF norms, biases, convolutions, A and D stay in f32,
/// and rows that are no whole blocks are in smaller ones or in bf16. Gives what the format cannot say, a line each.
///
/// # Errors
/// [`Error::Inexpressible`] for a model that the format cannot describe; what cannot be encoded; the file system's.
pub fn export(
    model: &MambaLm,
    path: &Path,
    format: Format,
    encoding: &dyn Fn(&str) -> Encoding,
    mut metadata: Metadata,
) -> Result<Vec<String>> {
    let mut config = model.config().clone();
    config.lora = None;
    let described = HfConfig::describe(&config).ok_or(Error::Inexpressible("its kind of layers"));
    let layout = match format {
        Format::Hf => &HUGGING_FACE,
        Format::Gguf => &gguf::LAYOUT,
        Format::OriginalNames => &mamba_ssm::LAYOUT,
    };
    let names = Names(layout, String::new());
    let wanted = |name: &str, param: &Param| param.trained && !is_added(name);
    let encode = |place: &Place| match format {
        Format::Gguf => gguf::encoding(encoding(&place.name), place),
        Format::Hf | Format::OriginalNames => encoding(&place.name),
    };
    let outgoing = Outgoing::new(model, wanted, &names, encode, Param::merged)?;
    let mut said = Vec::new();
    match format {
        Format::Gguf => {
            said = gguf::describe(described?, &outgoing.planned, &mut metadata)?;
            let value = |planned: &Planned| outgoing.value(planned);
            file::write(path, &metadata, &outgoing.planned, value)?;
        }
        Format::OriginalNames => outgoing.write(path, &mamba_ssm::describe(&described?)?, FILES)?,
        Format::Hf => outgoing.write(path, &ConfigFile::of(&config), FILES)?,
    }
    Ok(said)
}
