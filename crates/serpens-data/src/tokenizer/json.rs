//! `tokenizer.json`, which the `tokenizers` crate reads.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use serde_json::Value;
use tokenizers::{Decoder, DecoderWrapper};

use super::{Kind, Loaded, Token, TokenizerError};

/// More tokens than any vocabulary has.
const MOST_TOKENS: usize = 1 << 22;

/// A tokenizer of that crate.
pub(super) struct Json {
    /// The file, of which what cuts, fills up or draws by lot is left out.
    pub(super) text: String,
    pub(super) inner: tokenizers::Tokenizer,
    /// Whether a text may be cut between a visible character and an end of line.
    pub(super) cuts_lines: bool,
    /// The space that it writes before the first word of a text is no part of it.
    pub(super) begins_with_space: bool,
}

impl Json {
    /// Reads the file's content. The ids that stop are not in it.
    pub(super) fn read(mut file: Value) -> Result<Loaded, TokenizerError> {
        for setting in ["/truncation", "/padding", "/model/dropout"] {
            if let Some(setting) = file.pointer_mut(setting) {
                *setting = Value::Null;
            }
        }
        let text = file.to_string();
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(&text))?;
        let spelling = Spelling::of(inner.get_decoder());
        let added = inner.get_added_tokens_decoder();
        let vocabulary = inner.get_vocab(true);
        let largest = vocabulary.values().max().map_or(0, |&id| id as usize);
        if largest >= MOST_TOKENS {
            return Err(TokenizerError::TooLarge(largest));
        }
        if vocabulary.is_empty() {
            return Err(TokenizerError::broken("it has no tokens"));
        }
        let mut tokens = vec![Token::default(); largest + 1];
        for (name, id) in vocabulary {
            tokens[id as usize].bytes = match added.contains_key(&id) {
                true => name.into_bytes().into(),
                false => spelling.bytes(&name).into(),
            };
        }
        for (id, token) in added {
            tokens[id as usize].special = token.special;
        }
        let json = Self {
            cuts_lines: cuts_lines(&file),
            begins_with_space: text_of(inner.get_decoder(), &["▁a"]) == "a"
                && spelling.bytes("▁a") == b" a",
            inner,
            text,
        };
        let begin = json.begin()?;
        let kind = Kind::Json(Box::new(json));
        Ok(Loaded {
            kind,
            tokens,
            begin,
            ends: Vec::new(),
        })
    }

    /// What it puts before a text.
    fn begin(&self) -> Result<Vec<u32>, TokenizerError> {
        let probe = guarded(|| self.inner.encode_fast("a", true))?;
        let added = probe.get_special_tokens_mask().iter();
        let before = added.take_while(|&&added| added == 1).count();
        match before < probe.len() {
            true => Ok(probe.get_ids()[..before].to_vec()),
            false => Ok(Vec::new()), // it knows no "a", and what stands behind it cannot be told from what stands before
        }
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoded = guarded(|| self.inner.encode_fast(text, false))?;
        Ok(encoded.get_ids().to_vec())
    }
}

/// What the crate gives, and what it fails or panics with as an error: files of others may lead it to either.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    let done = catch_unwind(AssertUnwindSafe(work));
    let done = done.unwrap_or_else(|panic| Err(crate::prefetch::message(&*panic).into()));
    done.map_err(TokenizerError::Broken)
}

/// Whether a text may be cut between a visible character and an end of line, and encoded apart: where normalising does not look
/// across, words end at white space, and no added token reaches over the cut.
fn cuts_lines(file: &Value) -> bool {
    let normalizer = &file["normalizer"]["type"];
    let words = &file["pre_tokenizer"];
    let added = file["added_tokens"].as_array();
    let within_line = |token: &Value| {
        let text = token["content"].as_str().unwrap_or("\n");
        token["rstrip"] != true && !text.contains('\n')
    };
    (normalizer.is_null()
        || ["NFC", "NFD", "NFKC", "NFKD"]
            .iter()
            .any(|name| normalizer == name))
        && words["type"] == "ByteLevel"
        && words["use_regex"] != false
        && words["add_prefix_space"] == false
        && added.is_none_or(|added| added.iter().all(within_line))
}

/// How the vocabulary writes bytes: what the decoder makes of names says so.
struct Spelling<'a> {
    decoder: Option<&'a DecoderWrapper>,
    /// A letter for each byte, as GPT-2 has it.
    letters: bool,
    /// Tokens such as `<0x0A>` are a byte.
    byte_tokens: bool,
}

impl<'a> Spelling<'a> {
    fn of(decoder: Option<&'a DecoderWrapper>) -> Self {
        Self {
            decoder,
            letters: text_of(decoder, &["Ġ"]) == " ",
            byte_tokens: text_of(decoder, &["<0x41>"]) == "A",
        }
    }

    /// The bytes that a token of this name stands for, behind others.
    fn bytes(&self, name: &str) -> Vec<u8> {
        if self.letters {
            let bytes: Option<Vec<u8>> = name.chars().map(byte_of_letter).collect();
            return bytes.unwrap_or_else(|| name.into());
        }
        let hex = name
            .strip_prefix("<0x")
            .and_then(|rest| rest.strip_suffix('>'));
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.filter(|_| self.byte_tokens) {
            Some(byte) => vec![byte],
            None => {
                let text = text_of(self.decoder, &["a", name]);
                text.strip_prefix('a').unwrap_or_default().into()
            }
        }
    }
}

/// What the decoder makes of tokens, of which it may drop what cannot be.
fn text_of(decoder: Option<&DecoderWrapper>, names: &[&str]) -> String {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    match decoder {
        Some(decoder) => guarded(|| decoder.decode(names)).unwrap_or_default(),
        None => names.concat(),
    }
}

/// The letter that GPT-2 writes for a byte: itself where it is printable, those from `Ā` on for the others in turn.
pub(super) fn letter_of_byte(byte: u8) -> char {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match printable(&byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|byte| !printable(byte)).count() as u32;
            char::from_u32(256 + before).expect("a letter beyond Latin-1")
        }
    }
}

fn byte_of_letter(letter: char) -> Option<u8> {
    static BYTES: LazyLock<HashMap<char, u8>> =
        LazyLock::new(|| (0..=255).map(|byte| (letter_of_byte(byte), byte)).collect());
    BYTES.get(&letter).copied()
}
