//! Tokenizers among the metadata of GGUF files.

use serpens_data::{GgufVocabulary, Tokenizer};
use serpens_formats::gguf::Metadata;

use crate::Result;

/// What stands before the keys of a tokenizer.
const PREFIX: &str = "tokenizer.ggml.";
/// The key of a whole `tokenizer.json`.
const HUGGING_FACE: &str = "tokenizer.huggingface.json";
/// The type of a token that no text becomes.
const UNUSED: u32 = 5;

/// The tokenizer in a file of these metadata, if there is one.
pub(super) fn tokenizer(metadata: &Metadata) -> Result<Option<Tokenizer>> {
    let lists = lists(metadata).map_err(serpens_nn::Error::from)?;
    let tokenizer = lists.map(|lists| Tokenizer::from_gguf(&lists)).transpose();
    Ok(tokenizer.map_err(serpens_data::Error::from)?.flatten())
}

/// What the file says of it.
fn lists(metadata: &Metadata) -> serpens_formats::Result<Option<GgufVocabulary>> {
    let text = |key: &str| metadata.find::<String>(key).map(Option::<&_>::cloned);
    let texts = |key: &str| metadata.find::<Vec<String>>(&format!("{PREFIX}{key}"));
    let id = |key: &str| metadata.find::<u32>(&format!("{PREFIX}{key}_token_id"));
    let flag = |key: &str| metadata.find::<bool>(&format!("{PREFIX}{key}"));
    let Some(model) = text(&format!("{PREFIX}model"))? else {
        return Ok(None);
    };
    let types = metadata.find::<Vec<i32>>(&format!("{PREFIX}token_type"))?;
    let scores = metadata.find::<Vec<f32>>(&format!("{PREFIX}scores"))?;
    Ok(Some(GgufVocabulary {
        model,
        pre: text(&format!("{PREFIX}pre"))?,
        tokens: texts("tokens")?.cloned().unwrap_or_default(),
        token_type: types.map_or_else(Vec::new, |types| {
            types.iter().map(|&kind| kind as u32).collect()
        }),
        merges: texts("merges")?.cloned().unwrap_or_default(),
        scores: scores.cloned().unwrap_or_default(),
        bos: id("bos")?.copied(),
        eos: id("eos")?.copied(),
        unknown: id("unknown")?.copied(),
        add_bos: flag("add_bos_token")?.copied(),
        add_space_prefix: flag("add_space_prefix")?.copied(),
        huggingface: text(HUGGING_FACE)?,
    }))
}

/// The metadata of this tokenizer for a model of so many tokens, those beyond the tokenizer's unused; `None` for a kind
/// that such files do not have.
pub(crate) fn metadata(tokenizer: &Tokenizer, vocabulary: usize) -> Option<Metadata> {
    let mut lists = tokenizer.gguf()?;
    lists.tokens.resize(vocabulary, String::new());
    lists.token_type.resize(vocabulary, UNUSED);
    for (id, name) in lists.tokens.iter_mut().enumerate() {
        if name.is_empty() {
            *name = format!("[PAD{id}]");
        }
    }
    let types: Vec<i32> = lists.token_type.iter().map(|&kind| kind as i32).collect();
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value: Option<u32>| {
        if let Some(value) = value {
            metadata.set(&format!("{PREFIX}{key}_token_id"), value);
        }
    };
    set("bos", lists.bos);
    set("eos", lists.eos);
    set("unknown", lists.unknown);
    metadata.set(&format!("{PREFIX}model"), lists.model);
    metadata.set(&format!("{PREFIX}tokens"), lists.tokens);
    metadata.set(&format!("{PREFIX}token_type"), types);
    metadata.set(&format!("{PREFIX}merges"), lists.merges);
    if let Some(pre) = lists.pre {
        metadata.set(&format!("{PREFIX}pre"), pre);
    }
    if let Some(add) = lists.add_bos {
        metadata.set(&format!("{PREFIX}add_bos_token"), add);
    }
    if let Some(text) = lists.huggingface {
        metadata.set(HUGGING_FACE, text);
    }
    Some(metadata)
}
