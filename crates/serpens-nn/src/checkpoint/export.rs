//! Models for other programs.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_formats::gguf::Metadata;
use serpens_formats::{Encoding, Planned, gguf as file};
use serpens_ops::quantized_linear::Blocks;

use super::hf::{ConfigFile, HfConfig};
use super::layout::{HUGGING_FACE, Layout, Place};
use super::weights::{HEAD, Names, Outgoing};
use super::{FILES, gguf, mamba_ssm};
use crate::infer::EMBEDDINGS;
use crate::lora::is_added;
use crate::precision::named;
use crate::{Error, MambaLm, Module, Param, Result};

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

    fn layout(self) -> &'static Layout {
        match self {
            Format::Hf => &HUGGING_FACE,
            Format::Gguf => &gguf::LAYOUT,
            Format::OriginalNames => &mamba_ssm::LAYOUT,
        }
    }

    /// How a tensor is stored that is to be encoded so; `None` where that is not asked.
    fn encode(self, encoding: &dyn Fn(&str) -> Encoding, place: &Place) -> Option<Encoding> {
        match self {
            Format::Gguf => {
                gguf::is_asked(place).then(|| encoding(&place.name).for_rows(place.shape.cols()))
            }
            Format::Hf | Format::OriginalNames => Some(encoding(&place.name)),
        }
    }
}

/// How the tensor of this name, here or in a file, is stored and held where all matrices are asked to be so: with Q4_K
/// the table and the head, whose errors are in every logit, are in Q6_K.
pub fn encoding_of(all: Encoding, name: &str) -> Encoding {
    let is_end = [EMBEDDINGS, HEAD, gguf::EMBEDDINGS, gguf::HEAD].contains(&name);
    match all {
        Encoding::Blocks(Blocks::Q4_K) if is_end => Encoding::Blocks(Blocks::Q6_K),
        all => all,
    }
}

fn is_exported(name: &str, param: &Param) -> bool {
    param.trained && !is_added(name)
}

/// The tensors that [`export`] stores as it is asked to, by their names there, and how: in GGUF rows that are no whole
/// blocks are in smaller ones or in bf16, and norms, biases, convolutions, A and D, which stay in f32, are not among
/// them. The model needs no values.
pub fn stored(
    model: &MambaLm,
    format: Format,
    encoding: &dyn Fn(&str) -> Encoding,
) -> Vec<(String, Encoding)> {
    let mut stored = Vec::new();
    let visited = model.visit("", &mut |name, param| {
        let place = format.layout().place(name, param);
        let encoding = format.encode(encoding, &place);
        let encoding = encoding.filter(|_| is_exported(name, param));
        stored.extend(encoding.map(|encoding| (place.name, encoding)));
        Ok(())
    });
    visited.expect("nothing is refused");
    stored
}

/// Writes a model in a format, with what [`MambaLm::adapt`] had trained added to its matrices: to the folder `path`,
/// made where it is missing, or to the file `path` (GGUF), which also gets these metadata, such as a tokenizer's.
/// Tensors are stored as `encoding` says of their names there, as far as [`stored`] tells. Gives what the format cannot
/// say, a line each.
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
    let names = Names(format.layout(), String::new());
    let encode = |place: &Place| format.encode(encoding, place).unwrap_or(Encoding::F32);
    let outgoing = Outgoing::new(model, is_exported, &names, encode, Param::merged)?;
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
