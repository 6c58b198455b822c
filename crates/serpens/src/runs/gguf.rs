//! Tokenizers among the metadata of GGUF files.

use serpens_data::{GgufVocabulary, Tokenizer};
use serpens_formats::gguf::{Kind, Metadata};

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
    let Some(model) = find(metadata, "model")? else {
        return Ok(None);
    };
    let types: Option<Vec<i32>> = find(metadata, "token_type")?;
    let types = types.unwrap_or_default().into_iter();
    Ok(Some(GgufVocabulary {
        model,
        pre: find(metadata, "pre")?,
        tokens: find(metadata, "tokens")?.unwrap_or_default(),
        token_type: types.map(|kind| kind as u32).collect(),
        merges: find(metadata, "merges")?.unwrap_or_default(),
        scores: find(metadata, "scores")?.unwrap_or_default(),
        bos: find(metadata, "bos_token_id")?,
        eos: find(metadata, "eos_token_id")?,
        unknown: find(metadata, "unknown_token_id")?,
        add_bos: find(metadata, "add_bos_token")?,
        add_space_prefix: find(metadata, "add_space_prefix")?,
        huggingface: metadata.find::<String>(HUGGING_FACE)?.cloned(),
    }))
}

/// A value of the tokenizer's, by the end of its key.
fn find<T: Kind + Clone>(metadata: &Metadata, key: &str) -> serpens_formats::Result<Option<T>> {
    Ok(metadata.find(&format!("{PREFIX}{key}"))?.cloned())
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
    put(&mut metadata, "model", Some(lists.model));
    put(&mut metadata, "pre", lists.pre);
    put(&mut metadata, "tokens", Some(lists.tokens));
    put(&mut metadata, "token_type", Some(types));
    put(&mut metadata, "merges", Some(lists.merges));
    put(&mut metadata, "bos_token_id", lists.bos);
    put(&mut metadata, "eos_token_id", lists.eos);
    put(&mut metadata, "unknown_token_id", lists.unknown);
    put(&mut metadata, "add_bos_token", lists.add_bos);
    if let Some(text) = lists.huggingface {
        metadata.set(HUGGING_FACE, text);
    }
    Some(metadata)
}

/// Sets it, where there is one.
fn put(metadata: &mut Metadata, key: &str, value: Option<impl Kind>) {
    if let Some(value) = value {
        metadata.set(&format!("{PREFIX}{key}"), value);
    }
}
