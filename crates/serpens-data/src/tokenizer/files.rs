//! Tokenizers in files: found beside a model, and saved there.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use serpens_core::files::{Accept, read_text, write_bytes};

use super::symbols::Symbols;
use super::{Kind, Loaded, Tokenizer, TokenizerError, json, lists};
use crate::{Error, Result};

/// The first of these in a folder is its tokenizer.
const FILES: [&str; 4] = ["tokenizer.json", "symbols.json", "vocab.bpe", "vocab.json"];

/// Ids by name, and pairs, as GPT-2 and its followers have them.
const GPT2: [[&str; 2]; 2] = [["encoder.json", "vocab.bpe"], ["vocab.json", "merges.txt"]];

/// Where other programs write what begins and ends texts.
const CONFIG: &str = "tokenizer_config.json";
const GENERATION: &str = "generation_config.json";

/// What ends a text, by the name of its token, where no file says so.
const ENDS: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];

/// The two of GPT-2's files that this is one of.
fn pair_of(name: &OsStr) -> Option<&'static [&'static str; 2]> {
    GPT2.iter().find(|pair| pair.iter().any(|of| name == *of))
}

impl Tokenizer {
    /// Files beside a tokenizer's own that say what begins and ends texts.
    pub const SETTINGS: [&str; 2] = [CONFIG, GENERATION];

    /// The names of what a tokenizer in a folder may be in, one file or several: [`find`](Self::find) takes the first.
    pub fn files() -> impl Iterator<Item = Vec<&'static str>> {
        let all = |name: &&'static str| {
            let pair = pair_of(OsStr::new(name));
            pair.map_or_else(|| vec![*name], |pair| pair.to_vec())
        };
        FILES.iter().map(all)
    }

    /// The tokenizer of a folder or a file, or the word `bytes`.
    ///
    /// A file is a `tokenizer.json` of any name, a `symbols.json`, or one of GPT-2's pairs (`vocab.bpe` with
    /// `encoder.json`, `vocab.json` with `merges.txt`). What ends a text is read from the files beside it, the first
    /// that says so: `eos_token_id` in `generation_config.json`, `eos_token` in `tokenizer_config.json`, `eos_token_id`
    /// in `config.json`; otherwise it is the special token called `<|endoftext|>`, `<|end_of_text|>`, `</s>` or
    /// `<eos>`. `add_bos_token` in `tokenizer_config.json` says whether `bos_token` begins texts, where it is there.
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
    /// are text, a character that begins none is refused, none is passed over, and nothing begins or ends a text. With
    /// `"fold": true` upper and lower case of ASCII are the same, and text comes out as the symbols are written.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] and [`Error::File`], which name the file.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "bytes" && !path.exists() {
            return Ok(Self::bytes());
        }
        let wrong = Error::of_tokenizer(path);
        if path.is_dir() {
            return Self::find(path)?
                .ok_or(TokenizerError::Missing)
                .map_err(wrong);
        }
        let dir = path.parent().unwrap_or(path);
        let name = path.file_name().unwrap_or_default();
        let loaded = match pair_of(name) {
            Some(pair) => {
                let read = |name| read_text(&dir.join(name), Accept::Files);
                let [vocabulary, merges] = pair.map(read);
                lists::gpt2(&vocabulary?, &merges?)
            }
            None => match read_json(path)? {
                table if table.get("symbols").is_some() => Symbols::read(table),
                file => json::read(file),
            },
        };
        with_neighbours(loaded.map_err(wrong)?, dir)
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

    /// Writes what [`find`](Self::find) finds again, the same, into the folder of a model: nothing for bytes.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        let write = |name: &str, text: &str| write_bytes(&dir.join(name), text);
        match &self.0.kind {
            Kind::Bytes => {}
            Kind::Symbols(_) => write("symbols.json", &self.0.text)?,
            Kind::Json(_) => {
                let name = |ids: &[u32]| ids.first().map(|&id| self.token_text(id));
                let config = json!({
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "add_bos_token": !self.begin().is_empty(),
                    "bos_token": name(self.begin()),
                    "eos_token": name(self.end_of_text()),
                });
                let ends = json!({ "eos_token_id": self.end_of_text() });
                write("tokenizer.json", &self.0.text)?;
                write(CONFIG, &config.to_string())?;
                write(GENERATION, &ends.to_string())?;
            }
        }
        Ok(())
    }
}

/// The content of a file of JSON.
fn read_json(path: &Path) -> Result<Value> {
    let text = read_text(path, Accept::Files)?;
    serde_json::from_str(&text)
        .map_err(TokenizerError::broken)
        .map_err(Error::of_tokenizer(path))
}

/// The tokenizer with what files beside it say of where texts begin and end.
fn with_neighbours(mut loaded: Loaded, dir: &Path) -> Result<Tokenizer> {
    if let Kind::Symbols(_) = loaded.kind {
        return Ok(Tokenizer(Arc::new(loaded)));
    }
    let settings = |name: &str| match read_json(&dir.join(name)) {
        Err(Error::File(error)) if error.source.kind() == ErrorKind::NotFound => Ok(Value::Null),
        read => read,
    };
    let generation = settings(GENERATION)?;
    let tokenizer = settings(CONFIG)?;
    let model = settings("config.json")?;
    // Numbers, or names of special tokens.
    let id = |told: &Value| match told.as_u64() {
        Some(id) => (id < loaded.tokens.len() as u64).then_some(id as u32),
        None => loaded.special(told["content"].as_str().or(told.as_str())?),
    };
    let ids = |told: &Value| -> Vec<u32> {
        let told = told
            .as_array()
            .map_or(std::slice::from_ref(told), |all| all);
        told.iter().filter_map(id).collect()
    };
    let told = [
        &generation["eos_token_id"],
        &tokenizer["eos_token"],
        &model["eos_token_id"],
    ];
    let usual = ENDS
        .iter()
        .filter_map(|name| Some(vec![loaded.special(name)?]));
    let mut ends = told.into_iter().map(ids).chain(usual);
    let ends = ends.find(|ends| !ends.is_empty()).unwrap_or_default();
    let begin = match tokenizer["add_bos_token"].as_bool() {
        Some(true) => ids(&tokenizer["bos_token"]),
        Some(false) => Vec::new(),
        None => loaded.begin.clone(),
    };
    (loaded.begin, loaded.ends) = (begin, ends);
    Ok(Tokenizer(Arc::new(loaded)))
}
