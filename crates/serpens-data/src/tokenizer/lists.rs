//! Byte-pair encodings given as lists: GPT-2's files, and what a GGUF file holds.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::json::Json;
use super::{Kind, Loaded, Tokenizer, TokenizerError};

/// What a GGUF file says of its tokenizer, under `tokenizer.ggml.` and the names of these fields where nothing else is
/// said. Lists that the file lacks are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `gpt2` (byte-level byte pairs), `llama` (SentencePiece) or `none`.
    pub model: String,
    /// How a text is cut into words, for `gpt2`.
    pub pre: Option<String>,
    /// Names, by id.
    pub tokens: Vec<String>,
    /// What each is: 1 ordinary, 2 unknown, 3 control, 4 added by a user, 5 unused, 6 a byte.
    pub token_type: Vec<u32>,
    /// Pairs that become one, each with a space between, the first first, for `gpt2`.
    pub merges: Vec<String>,
    /// The tokens' scores, for `llama`: pairs whose token has a higher one become one first.
    pub scores: Vec<f32>,
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`
    pub eos: Option<u32>,
    /// `unknown_token_id`
    pub unknown: Option<u32>,
    /// `add_bos_token`
    pub add_bos: Option<bool>,
    /// `add_space_prefix`
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.huggingface.json`, which is taken where it is there.
    pub huggingface: Option<String>,
}

/// GPT-2's words: contractions, letters, digits, other signs, each with the space before it, and white space.
fn gpt2_words() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true })
}

fn split(pattern: &str) -> Value {
    json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
}

/// How a text is cut into words, by the name that a GGUF file has for it.
fn words(pre: &str) -> Option<Value> {
    let letters = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
    let like_llama3 = |digits: &str| {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        json!({ "type": "Sequence", "pretokenizers": [split(&pattern), letters] })
    };
    Some(match pre {
        "gpt-2" | "gpt2" | "mpt" | "olmo" | "phi-2" | "jais" => gpt2_words(),
        "llama-bpe" | "llama3" | "llama-v3" => like_llama3(r"\p{N}{1,3}"),
        "qwen2" => like_llama3(r"\p{N}"),
        "falcon" => json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Punctuation", "behavior": "Contiguous" },
            gpt2_words(),
            { "type": "Digits", "individual_digits": false },
            split("[0-9][0-9][0-9]"),
        ] }),
        _ => return None,
    })
}

/// The content of a `tokenizer.json` of byte pairs.
fn byte_pairs(vocab: Value, merges: Value, words: Value, added: Vec<Value>) -> Value {
    let decoder = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": words,
        "post_processor": null,
        "decoder": decoder,
        "model": { "type": "BPE", "vocab": vocab, "merges": merges },
    })
}

fn added(id: usize, name: &str, special: bool) -> Value {
    json!({
        "id": id, "content": name, "special": special,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    })
}

/// GPT-2's own two files: ids by name as JSON, and pairs line by line.
pub(super) fn gpt2(vocabulary: &str, merges: &str) -> Result<Loaded, TokenizerError> {
    let vocabulary: Value = serde_json::from_str(vocabulary).map_err(TokenizerError::broken)?;
    let end = "<|endoftext|>";
    let special = vocabulary[end]
        .as_u64()
        .map(|id| added(id as usize, end, true));
    let merges = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty());
    let merges = merges.collect();
    Json::read(byte_pairs(
        vocabulary,
        merges,
        gpt2_words(),
        special.into_iter().collect(),
    ))
}

impl GgufVocabulary {
    /// The content of the `tokenizer.json` that does the same.
    fn file(&self) -> Result<Value, TokenizerError> {
        let ids = self.tokens.iter().enumerate();
        let vocab: Map<_, _> = ids
            .clone()
            .map(|(id, name)| (name.clone(), id.into()))
            .collect();
        let added = ids.filter_map(|(id, name)| match self.token_type.get(id) {
            Some(2 | 3) => Some(added(id, name, true)),
            Some(4) => Some(added(id, name, false)),
            _ => None,
        });
        let added = added.collect();
        let unknown = |what, found: &str| {
            let found = found.to_owned();
            TokenizerError::Unknown { what, found }
        };
        match &*self.model {
            "gpt2" => {
                let pre = self.pre.as_deref().unwrap_or("gpt-2");
                let words = words(pre).ok_or_else(|| unknown("pre-tokenizer", pre))?;
                Ok(byte_pairs(
                    vocab.into(),
                    self.merges.clone().into(),
                    words,
                    added,
                ))
            }
            "llama" => {
                let merges = self.merges_by_score();
                let mut file = byte_pairs(vocab.into(), merges, Value::Null, added);
                let space =
                    json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
                let first = json!({ "type": "Prepend", "prepend": "▁" });
                let first = Some(first).filter(|_| self.add_space_prefix != Some(false));
                let strip = json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 });
                let strip = first.as_ref().map(|_| strip);
                let normalizers: Vec<Value> = first.into_iter().chain([space]).collect();
                file["normalizer"] = json!({ "type": "Sequence", "normalizers": normalizers });
                let mut decoders = vec![
                    json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
                    json!({ "type": "ByteFallback" }),
                    json!({ "type": "Fuse" }),
                ];
                decoders.extend(strip);
                file["decoder"] = json!({ "type": "Sequence", "decoders": decoders });
                let unknown = self.unknown.and_then(|id| self.tokens.get(id as usize));
                file["model"]["unk_token"] = json!(unknown);
                file["model"]["fuse_unk"] = true.into();
                file["model"]["byte_fallback"] = true.into();
                Ok(file)
            }
            other => Err(unknown("model", other)),
        }
    }

    /// Every way to make a token of two others, those of the highest score first: what SentencePiece does without a list.
    fn merges_by_score(&self) -> Value {
        let ids: HashMap<&str, usize> = (self.tokens.iter().enumerate())
            .map(|(id, name)| (&**name, id))
            .collect();
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let score = self.scores.get(id).copied().unwrap_or(0.0);
            let cuts = token
                .char_indices()
                .skip(1)
                .map(|(at, _)| token.split_at(at));
            let pairs = cuts
                .filter_map(|(left, right)| Some((ids.get(left)?, ids.get(right)?, [left, right])));
            merges.extend(pairs.map(|(left, right, pair)| (score, *left, *right, pair)));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        merges.into_iter().map(|(.., pair)| json!(pair)).collect()
    }
}

impl Tokenizer {
    /// The tokenizer that a GGUF file describes; `None` where it has none.
    ///
    /// # Errors
    /// [`TokenizerError::Broken`] lists; [`TokenizerError::Unknown`] models and ways to cut words.
    pub fn from_gguf(lists: &GgufVocabulary) -> Result<Option<Self>, TokenizerError> {
        if lists.model == "none" && lists.huggingface.is_none() {
            return Ok(None);
        }
        let file = match &lists.huggingface {
            Some(text) => serde_json::from_str(text).map_err(TokenizerError::broken)?,
            None => lists.file()?,
        };
        let mut loaded = Json::read(file)?;
        let known = |id: &u32| (*id as usize) < loaded.tokens.len();
        loaded.ends = lists.eos.into_iter().filter(known).collect();
        let begins = lists.add_bos.unwrap_or(lists.model == "llama");
        loaded.begin = lists
            .bos
            .into_iter()
            .filter(|id| begins && known(id))
            .collect();
        Ok(Some(Self::of(loaded)))
    }

    /// The lists that a GGUF file has of it; `None` for kinds that such files do not have, and for words that are cut as
    /// no name there says. Those are `tokens`, `merges` and ids, and the whole file besides.
    pub fn gguf(&self) -> Option<GgufVocabulary> {
        let Kind::Json(json) = &self.0.loaded.kind else {
            return None;
        };
        let file: Value = serde_json::from_str(&json.text).ok()?;
        let same_words =
            |pre: &&&str| words(pre).is_some_and(|words| same(&words, &file["pre_tokenizer"]));
        let pre = ["gpt-2", "llama-bpe", "qwen2", "falcon"];
        let pre = pre
            .iter()
            .find(same_words)
            .filter(|_| file["decoder"]["type"] == "ByteLevel")?;
        let count = self.vocab_size();
        let (mut tokens, mut token_type) = (vec![String::new(); count], vec![5; count]);
        let added = json.inner.get_added_tokens_decoder();
        for (name, id) in json.inner.get_vocab(true) {
            let kind = added
                .get(&id)
                .map_or(1, |token| if token.special { 3 } else { 4 });
            (tokens[id as usize], token_type[id as usize]) = (name, kind);
        }
        let merge = |merge: &Value| match merge.as_array() {
            Some(pair) => Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
            None => merge.as_str().map(str::to_owned),
        };
        let merges: Option<Vec<_>> = file["model"]["merges"]
            .as_array()?
            .iter()
            .map(merge)
            .collect();
        Some(GgufVocabulary {
            model: "gpt2".into(),
            pre: Some((*pre).into()),
            tokens,
            token_type,
            merges: merges?,
            bos: self.begin().first().or(self.end_of_text().first()).copied(),
            eos: self.end_of_text().first().copied(),
            add_bos: Some(!self.begin().is_empty()),
            huggingface: Some(json.text.clone()),
            ..GgufVocabulary::default()
        })
    }
}

/// Whether all that the first says is so in the second.
fn same(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), _) => wanted.iter().all(|(key, value)| same(value, &found[key])),
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(w, f)| same(w, f))
        }
        // What is left out is true, or makes no difference.
        (Value::Bool(true), Value::Null) => true,
        _ => wanted == found,
    }
}
