//! Tokenizers in files: found beside a model, and saved there.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Value, json};
use serpens_core::files::{Accept, read_text, write_bytes};

use super::json::Json;
use super::symbols::Symbols;
use super::{Kind, Loaded, Tokenizer, TokenizerError, lists};
use crate::{Error, Result};

/// The first of these in a folder is its tokenizer.
const FILES: [&str; 4] = ["tokenizer.json", "symbols.json", "vocab.bpe", "vocab.json"];

/// Where other programs write what begins and ends texts.
const CONFIG: &str = "tokenizer_config.json";
const GENERATION: &str = "generation_config.json";

/// What ends a text, by the name of its token, where no file says so.
const ENDS: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];

impl Tokenizer {
    /// The tokenizer of a folder or a file, or the word `bytes`.
    ///
    /// A file is a `tokenizer.json` of any name, a `symbols.json`, or one of GPT-2's pairs (`vocab.bpe` with
    /// `encoder.json`, `vocab.json` with `merges.txt`). What ends a text is read from the files beside it, the first that
    /// says so: `eos_token_id` in `generation_config.json`, `eos_token` in `tokenizer_config.json`, `eos_token_id` in
    /// `config.json`; otherwise it is the special token called `<|endoftext|>`, `<|end_of_text|>`, `</s>` or `<eos>`.
    /// `add_bos_token` in `tokenizer_config.json` says whether `bos_token` begins texts, where it is there.
    ///
    /// `symbols.json` is a table of symbols, whose ids are their places:
    ///
    /// ```json
    /// {
    ///   "symbols": ["<cls>", "<eos>", "<unk>", "L", "A", "G"],
    ///   "special": ["<cls>", "<eos>", "<unk>"],
    ///   "unknown": "<unk>",
    ///   "skip": "\n",
    ///   "begin": "<cls>",
    ///   "end": "<eos>"
    /// }
    /// ```
    ///
    /// Of several symbols that a text goes on with, the longest is taken. All but `symbols` may be left out: then all
    /// are text, a character that begins none is refused, none is passed over, and nothing begins or ends a text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] and [`Error::File`], which name the file.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "bytes" && !path.exists() {
            return Ok(Self::bytes());
        }
        if path.is_dir() {
            return Self::find(path)?.ok_or_else(|| at(path)(TokenizerError::Missing));
        }
        let dir = path.parent().unwrap_or(path);
        let read = |name: &str| Ok::<_, Error>(read_text(&dir.join(name), Accept::Files)?);
        let gpt2 = |vocabulary: &str, merges: &str| {
            let (vocabulary, merges) = (read(vocabulary)?, read(merges)?);
            lists::gpt2(&vocabulary, &merges).map_err(at(path))
        };
        let loaded = match path.file_name().and_then(|name| name.to_str()) {
            Some("vocab.bpe" | "encoder.json") => gpt2("encoder.json", "vocab.bpe")?,
            Some("vocab.json" | "merges.txt") => gpt2("vocab.json", "merges.txt")?,
            _ => Self::in_text(&read_text(path, Accept::Files)?).map_err(at(path))?,
        };
        with_neighbours(loaded, dir)
    }

    /// The tokenizer in a model's folder, as [`open`](Self::open) reads it; `None` where there is none.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn find(dir: &Path) -> Result<Option<Self>> {
        let mut files = FILES.iter().map(|name| dir.join(name));
        let found = files.find(|file| file.exists());
        found.map(|file| Self::open(&file)).transpose()
    }

    fn in_text(text: &str) -> Result<Loaded, TokenizerError> {
        let file: Value = serde_json::from_str(text).map_err(TokenizerError::broken)?;
        match (file.get("symbols"), file.get("model")) {
            (Some(_), _) => Symbols::read(text),
            (None, Some(_)) => Json::read(file),
            (None, None) => Err(TokenizerError::broken("it has neither a model nor symbols")),
        }
    }

    /// Writes what [`find`](Self::find) finds again, the same, into the folder of a model: nothing for bytes.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        let write = |name: &str, text: &str| write_bytes(&dir.join(name), text);
        match &self.0.loaded.kind {
            Kind::Bytes => {}
            Kind::Symbols(symbols) => write("symbols.json", &symbols.text())?,
            Kind::Json(json) => {
                let name = |ids: &[u32]| ids.first().map(|&id| self.token_text(id));
                let config = json!({
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "add_bos_token": !self.begin().is_empty(),
                    "bos_token": name(self.begin()),
                    "eos_token": name(self.end_of_text()),
                });
                let ends = json!({ "eos_token_id": self.end_of_text() });
                write("tokenizer.json", &json.text)?;
                write(CONFIG, &config.to_string())?;
                write(GENERATION, &ends.to_string())?;
            }
        }
        Ok(())
    }
}

fn at(path: &Path) -> impl Fn(TokenizerError) -> Error {
    let path = path.to_owned();
    move |source| Error::Tokenizer {
        path: path.clone(),
        source,
    }
}

/// A file of settings, empty where there is none.
fn settings(path: &Path) -> Result<Value> {
    match read_text(path, Accept::Files) {
        Ok(text) => {
            serde_json::from_str(&text).map_err(|error| at(path)(TokenizerError::broken(error)))
        }
        Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(error.into()),
    }
}

/// The tokenizer with what files beside it say of where texts begin and end.
fn with_neighbours(mut loaded: Loaded, dir: &Path) -> Result<Tokenizer> {
    if matches!(loaded.kind, Kind::Symbols(_)) {
        return Ok(Tokenizer::of(loaded));
    }
    let [generation, tokenizer, model] =
        [GENERATION, CONFIG, "config.json"].map(|name| settings(&dir.join(name)));
    let (generation, tokenizer, model) = (generation?, tokenizer?, model?);
    let known = loaded.tokens.len() as u64;
    let id_of = |name: &str| {
        let mut tokens = loaded.tokens.iter();
        let at = tokens.position(|token| token.special && *token.bytes == *name.as_bytes());
        at.map(|at| at as u32)
    };
    let named = |token: &Value| {
        token
            .as_str()
            .or_else(|| token["content"].as_str())
            .and_then(id_of)
    };
    let numbered = |ids: &Value| {
        let ids = ids.as_array().map_or(std::slice::from_ref(ids), |all| all);
        let ids = ids
            .iter()
            .filter_map(Value::as_u64)
            .filter(|&id| id < known);
        ids.map(|id| id as u32).collect()
    };
    let ends: [Vec<u32>; 4] = [
        numbered(&generation["eos_token_id"]),
        named(&tokenizer["eos_token"]).into_iter().collect(),
        numbered(&model["eos_token_id"]),
        ENDS.into_iter().find_map(id_of).into_iter().collect(),
    ];
    let begin = tokenizer["add_bos_token"].as_bool().map(|begins| {
        let begin = named(&tokenizer["bos_token"]).filter(|_| begins);
        begin.into_iter().collect()
    });
    loaded.ends = ends
        .into_iter()
        .find(|ends| !ends.is_empty())
        .unwrap_or_default();
    loaded.begin = begin.unwrap_or(loaded.begin);
    Ok(Tokenizer::of(loaded))
}
