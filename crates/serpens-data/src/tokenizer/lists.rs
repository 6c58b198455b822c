//! Byte-pair encodings given as lists: GPT-2's files, and what is among the metadata of a GGUF file.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Value, json};
use serpens_formats::gguf::{Kind as Typed, Metadata};
use tokenizers::DecoderWrapper;

use super::json::read;
use super::{Kind, Loaded, Tokenizer, TokenizerError};
use crate::Result;

/// The key of a whole `tokenizer.json`.
const WHOLE: &str = "tokenizer.huggingface.json";

/// What GGUF files say that a token is: ordinary, special, added by a user, or never used.
const ORDINARY: i32 = 1;
const SPECIAL: i32 = 3;
const ADDED: i32 = 4;
const UNUSED: i32 = 5;
/// Tokens that stand for themselves: unknown and special ones, and those that were added.
const OF_THEMSELVES: RangeInclusive<i32> = 2..=ADDED;

/// How a text is cut into words, by the names that GGUF files have for it: as GPT-2 does (contractions, letters,
/// digits, other signs, each with the space before it, and white space), or as Falcon.
fn words(pre: &str) -> Option<Value> {
    let gpt2 = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    match pre {
        "gpt-2" | "mpt" | "olmo" | "phi-2" | "jais" => Some(gpt2),
        "falcon" => Some(json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Punctuation", "behavior": "Contiguous" },
            gpt2,
            { "type": "Digits", "individual_digits": false },
            { "type": "Split", "pattern": { "Regex": "[0-9][0-9][0-9]" }, "behavior": "Isolated", "invert": false },
        ] })),
        _ => None,
    }
}

/// The content of a `tokenizer.json` of byte-level pairs, with the tokens among them that stand for themselves: their
/// ids, and whether they are special.
fn byte_pairs(model: Value, words: Option<Value>, added: &[(usize, &str, bool)]) -> Value {
    let added = added.iter().map(|(id, name, special)| {
        json!({
            "id": id, "content": name, "special": special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    json!({
        "version": "1.0", "normalizer": null, "pre_tokenizer": words, "post_processor": null,
        "decoder": self::words("gpt-2"), "added_tokens": added.collect::<Value>(), "model": model,
    })
}

/// GPT-2's own two files: ids by name as JSON, and pairs line by line.
pub(super) fn gpt2(vocabulary: &str, merges: &str) -> Result<Loaded, TokenizerError> {
    let vocab: Value = serde_json::from_str(vocabulary).map_err(TokenizerError::broken)?;
    let end = "<|endoftext|>";
    let end = vocab[end].as_u64().map(|id| (id as usize, end, true));
    let merges = merges.lines().skip_while(|line| line.starts_with('#'));
    let merges: Vec<&str> = merges.filter(|line| !line.is_empty()).collect();
    let model = json!({ "type": "BPE", "vocab": vocab, "merges": merges });
    read(byte_pairs(model, words("gpt-2"), end.as_slice()))
}

/// A list of a GGUF file, empty where there is none.
fn list<T>(metadata: &Metadata, key: &str) -> Result<Vec<T>>
where
    Vec<T>: Typed,
{
    Ok(metadata.find(key)?.unwrap_or_default())
}

/// The content of the `tokenizer.json` that does what a GGUF file's lists say for a model of this kind: `gpt2`
/// (byte-level byte pairs) or `llama` (SentencePiece).
fn of_lists(model: &str, metadata: &Metadata) -> Result<Value> {
    let tokens: Vec<String> = list(metadata, "tokenizer.ggml.tokens")?;
    let types: Vec<i32> = list(metadata, "tokenizer.ggml.token_type")?;
    let vocab: BTreeMap<&str, usize> = tokens.iter().map(String::as_str).zip(0..).collect();
    let added = tokens.iter().zip(&types).enumerate();
    let added = added.filter(|(_, (_, kind))| OF_THEMSELVES.contains(*kind));
    let added = added.map(|(id, (name, kind))| (id, name.as_str(), *kind != ADDED));
    let added: Vec<_> = added.collect();
    let unknown = |what, found: &str| TokenizerError::Unknown(what, found.to_owned());
    match model {
        "gpt2" => {
            let pre = metadata.find::<String>("tokenizer.ggml.pre")?;
            let pre = pre.as_deref().unwrap_or("gpt-2");
            let words = words(pre).ok_or_else(|| unknown("pre-tokenizer", pre))?;
            let mut merges: Vec<String> = list(metadata, "tokenizer.ggml.merges")?;
            // llama.cpp's converter cuts the tokens to a model's number, and leaves all pairs.
            let is_there = |token: &str| vocab.contains_key(token);
            merges.retain(|merge| {
                merge.split_once(' ').is_none_or(|(left, right)| {
                    is_there(left) && is_there(right) && is_there(&[left, right].concat())
                })
            });
            let model = json!({ "type": "BPE", "vocab": vocab, "merges": merges });
            Ok(byte_pairs(model, Some(words), &added))
        }
        "llama" => {
            let scores: Vec<f32> = list(metadata, "tokenizer.ggml.scores")?;
            let unknown = metadata.find::<u32>("tokenizer.ggml.unknown_token_id")?;
            let unknown = unknown.and_then(|id| tokens.get(id as usize));
            let begins = metadata.find("tokenizer.ggml.add_space_prefix")? != Some(false);
            let model = json!({
                "type": "BPE", "vocab": vocab, "merges": merges_by_score(&tokens, &vocab, &scores),
                "unk_token": unknown, "fuse_unk": true, "byte_fallback": true,
            });
            Ok(with_spaces(byte_pairs(model, None, &added), begins))
        }
        _ => Err(unknown("model", model).into()),
    }
}

/// The same for a vocabulary that writes spaces as `▁`, and perhaps one at the beginning of every text.
fn with_spaces(mut file: Value, begins: bool) -> Value {
    let replace =
        |from, to| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let [bytes, fuse] = ["ByteFallback", "Fuse"].map(|name| json!({ "type": name }));
    let mut normalizers = vec![replace(" ", "▁")];
    let mut decoders = vec![replace("▁", " "), bytes, fuse];
    if begins {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    file["normalizer"] = json!({ "type": "Sequence", "normalizers": normalizers });
    file["decoder"] = json!({ "type": "Sequence", "decoders": decoders });
    file
}

/// Every way to make a token of two others, those of the highest score first: what SentencePiece does without a list.
fn merges_by_score<'a>(
    tokens: &'a [String],
    ids: &BTreeMap<&str, usize>,
    scores: &[f32],
) -> Vec<[&'a str; 2]> {
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        let score = scores.get(id).copied().unwrap_or(0.0);
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            let pair = ids.get(left).zip(ids.get(right));
            merges.extend(pair.map(|pair| (score, pair, [left, right])));
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    merges.into_iter().map(|(.., pair)| pair).collect()
}

impl Tokenizer {
    /// The tokenizer among the metadata of a GGUF file: a whole `tokenizer.json`, or lists; `None` where there is none.
    ///
    /// # Errors
    /// [`TokenizerError::Broken`] lists; [`TokenizerError::Unknown`] models and ways to cut words; metadata of other
    /// types than the format says.
    pub fn from_gguf(metadata: &Metadata) -> Result<Option<Self>> {
        let Some(model) = metadata.find::<String>("tokenizer.ggml.model")? else {
            return Ok(None);
        };
        let file = match metadata.find::<String>(WHOLE)? {
            Some(text) => serde_json::from_str(&text).map_err(TokenizerError::broken)?,
            None if model == "none" => return Ok(None),
            None => of_lists(&model, metadata)?,
        };
        let mut loaded = read(file)?;
        let [begin, end] = ["bos", "eos"].map(|name| {
            let id = metadata.find::<u32>(&format!("tokenizer.ggml.{name}_token_id"));
            id.map(|id| id.filter(|&id| (id as usize) < loaded.tokens.len()))
        });
        let begins = metadata.find::<bool>("tokenizer.ggml.add_bos_token")?;
        let begins = begins.unwrap_or(model == "llama");
        loaded.begin = begin?.filter(|_| begins).into_iter().collect();
        loaded.ends = end?.into_iter().collect();
        Ok(Some(Self(Arc::new(loaded))))
    }

    /// The metadata that a GGUF file has of it, for a model of so many tokens, those beyond its own unused; `None` for
    /// kinds that such files do not have, and for words that are cut as no name there says. Those are lists and ids,
    /// and the whole file besides.
    pub fn gguf(&self, vocabulary: usize) -> Option<Metadata> {
        let Kind::Json(inner) = &self.0.kind else {
            return None;
        };
        let cut = serde_json::to_value(inner.get_pre_tokenizer()).ok();
        let mut names = ["gpt-2", "falcon"].into_iter();
        let pre = names.find(|pre| words(pre) == cut)?;
        let Some(DecoderWrapper::ByteLevel(_)) = inner.get_decoder() else {
            return None;
        };
        let model = serde_json::to_value(inner.get_model()).ok()?;
        let merge = |pair: &Value| Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?));
        let merges = model["merges"].as_array()?.iter().map(merge);
        let merges = merges.collect::<Option<Vec<String>>>()?;
        let unused =
            (0..vocabulary.max(self.vocab_size())).map(|id| (format!("[PAD{id}]"), UNUSED));
        let (mut tokens, mut types): (Vec<String>, Vec<i32>) = unused.unzip();
        let added = inner.get_added_tokens_decoder();
        for (name, id) in inner.get_vocab(true) {
            types[id as usize] = match added.get(&id) {
                None => ORDINARY,
                Some(token) if token.special => SPECIAL,
                Some(_) => ADDED,
            };
            tokens[id as usize] = name;
        }
        let [begin, end] = [self.begin(), self.end_of_text()].map(<[u32]>::first);
        let mut metadata = Metadata::default();
        metadata.set("tokenizer.ggml.model", "gpt2".to_owned());
        metadata.set("tokenizer.ggml.pre", pre.to_owned());
        metadata.set("tokenizer.ggml.tokens", tokens);
        metadata.set("tokenizer.ggml.token_type", types);
        metadata.set("tokenizer.ggml.merges", merges);
        metadata.set("tokenizer.ggml.add_bos_token", begin.is_some());
        for (name, id) in [("bos", begin.or(end)), ("eos", end)] {
            if let Some(&id) = id {
                metadata.set(&format!("tokenizer.ggml.{name}_token_id"), id);
            }
        }
        metadata.set(WHOLE, self.0.text.clone());
        Some(metadata)
    }
}
