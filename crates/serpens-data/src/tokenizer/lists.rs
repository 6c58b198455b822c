//! Byte-pair encodings given as lists: GPT-2's files, and what a GGUF file holds.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tokenizers::DecoderWrapper;

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

/// How a text is cut into words, by the names that GGUF files have for it: as GPT-2 does (contractions, letters, digits,
/// other signs, each with the space before it, and white space), or as Falcon.
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

/// The content of a `tokenizer.json` of byte pairs, with the tokens among them that stand for themselves: their ids, and
/// whether they are special.
fn byte_pairs(
    vocab: Value,
    merges: Value,
    cut: Option<Value>,
    added: &[(usize, &str, bool)],
) -> Value {
    let added = added.iter().map(|(id, name, special)| {
        json!({
            "id": id, "content": name, "special": special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let decoder = words("gpt-2");
    json!({
        "version": "1.0", "normalizer": null, "pre_tokenizer": cut, "post_processor": null, "decoder": decoder,
        "added_tokens": added.collect::<Value>(), "model": { "type": "BPE", "vocab": vocab, "merges": merges },
    })
}

/// GPT-2's own two files: ids by name as JSON, and pairs line by line.
pub(super) fn gpt2(vocabulary: &str, merges: &str) -> Result<Loaded, TokenizerError> {
    let vocab: Value = serde_json::from_str(vocabulary).map_err(TokenizerError::broken)?;
    let end = "<|endoftext|>";
    let end = vocab[end].as_u64().map(|id| (id as usize, end, true));
    let merges = merges.lines().skip_while(|line| line.starts_with('#'));
    let merges = merges.filter(|line| !line.is_empty()).collect();
    Json::read(byte_pairs(vocab, merges, words("gpt-2"), end.as_slice()))
}

impl GgufVocabulary {
    /// The content of the `tokenizer.json` that does the same.
    fn file(&self) -> Result<Value, TokenizerError> {
        let ids = || self.tokens.iter().enumerate();
        let vocab = ids()
            .map(|(id, name)| (name.clone(), id.into()))
            .collect::<Map<_, _>>();
        let added = ids().filter_map(|(id, name)| {
            let kind = self
                .token_type
                .get(id)
                .filter(|kind| (2..=4).contains(*kind))?;
            Some((id, &**name, *kind < 4))
        });
        let added: Vec<_> = added.collect();
        let unknown = |what, found: &str| {
            let found = found.to_owned();
            TokenizerError::Unknown { what, found }
        };
        if self.model == "gpt2" {
            let pre = self.pre.as_deref().unwrap_or("gpt-2");
            let words = words(pre).ok_or_else(|| unknown("pre-tokenizer", pre))?;
            return Ok(byte_pairs(
                vocab.into(),
                json!(self.merges),
                Some(words),
                &added,
            ));
        }
        if self.model != "llama" {
            return Err(unknown("model", &self.model));
        }
        let mut file = byte_pairs(vocab.into(), self.merges_by_score(), None, &added);
        let replace =
            |from, to| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let mut normalizers = vec![replace(" ", "▁")];
        let mut decoders = vec![
            replace("▁", " "),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.add_space_prefix != Some(false) {
            normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        file["normalizer"] = json!({ "type": "Sequence", "normalizers": normalizers });
        file["decoder"] = json!({ "type": "Sequence", "decoders": decoders });
        let model = &mut file["model"];
        model["unk_token"] = json!(self.unknown.and_then(|id| self.tokens.get(id as usize)));
        (model["fuse_unk"], model["byte_fallback"]) = (true.into(), true.into());
        Ok(file)
    }

    /// Every way to make a token of two others, those of the highest score first: what SentencePiece does without a list.
    fn merges_by_score(&self) -> Value {
        let ids: HashMap<&str, usize> = (self.tokens.iter().enumerate())
            .map(|(id, name)| (&**name, id))
            .collect();
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let score = self.scores.get(id).copied().unwrap_or(0.0);
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                let pair = ids.get(left).zip(ids.get(right));
                merges.extend(pair.map(|pair| (score, pair, [left, right])));
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
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
        let begin = lists.bos.filter(|id| begins && known(id));
        loaded.begin = begin.into_iter().collect();
        Ok(Some(Self::of(loaded)))
    }

    /// The lists that a GGUF file has of it; `None` for kinds that such files do not have, and for words that are cut as
    /// no name there says. Those are `tokens`, `merges` and ids, and the whole file besides.
    pub fn gguf(&self) -> Option<GgufVocabulary> {
        let Kind::Json(json) = &self.0.loaded.kind else {
            return None;
        };
        let inner = &json.inner;
        let cut = serde_json::to_value(inner.get_pre_tokenizer()).ok();
        let pre = ["gpt-2", "falcon"]
            .into_iter()
            .find(|pre| words(pre) == cut)?;
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return None;
        }
        let model = serde_json::to_value(inner.get_model()).ok()?;
        let merge = |pair: &Value| Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?));
        let merges = model["merges"].as_array()?.iter().map(merge);
        let count = self.vocab_size();
        let (mut tokens, mut token_type) = (vec![String::new(); count], vec![5; count]);
        let added = inner.get_added_tokens_decoder();
        for (name, id) in inner.get_vocab(true) {
            let special = added.get(&id).map(|token| token.special);
            let kind = special.map_or(1, |special| if special { 3 } else { 4 });
            (tokens[id as usize], token_type[id as usize]) = (name, kind);
        }
        Some(GgufVocabulary {
            model: "gpt2".into(),
            pre: Some(pre.into()),
            tokens,
            token_type,
            merges: merges.collect::<Option<_>>()?,
            bos: self.begin().first().or(self.end_of_text().first()).copied(),
            eos: self.end_of_text().first().copied(),
            add_bos: Some(!self.begin().is_empty()),
            huggingface: Some(json.text.clone()),
            ..GgufVocabulary::default()
        })
    }
}
