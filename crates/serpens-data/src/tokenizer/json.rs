//! `tokenizer.json`, which the `tokenizers` crate reads.

use serde_json::Value;
use tokenizers::{Decoder, DecoderWrapper, Tokenizer};

use super::{Kind, Loaded, Result, Token, TokenizerError};
use crate::prefetch::caught;

/// More tokens than any vocabulary has.
const MOST_TOKENS: usize = 1 << 22;

/// Reads the file's content, of which what cuts, fills up or draws by lot is left out. The ids that stop are not in it.
pub(super) fn read(mut file: Value) -> Result<Loaded> {
    for setting in ["/truncation", "/padding", "/model/dropout"] {
        if let Some(setting) = file.pointer_mut(setting) {
            *setting = Value::Null;
        }
    }
    let text = file.to_string();
    let inner = guarded(|| Tokenizer::from_bytes(&text))?;
    let decoder = inner.get_decoder();
    let [first, later] = [spelt(decoder, &["▁a"]), spelt(decoder, &["a", "▁a"])];
    Ok(Loaded {
        tokens: tokens(&inner)?,
        begin: begin(&inner)?,
        cuts_lines: cuts_lines(&file),
        begins_with_space: first == "a" && later == "a a",
        kind: Kind::Json(Box::new(inner)),
        text,
        ..Loaded::default()
    })
}

/// What its tokens stand for.
fn tokens(inner: &Tokenizer) -> Result<Vec<Token>> {
    let added = inner.get_added_tokens_decoder();
    let vocabulary = inner.get_vocab(true);
    let largest = match vocabulary.values().max() {
        Some(&id) if (id as usize) < MOST_TOKENS => id as usize,
        Some(id) => return Err(TokenizerError::broken(format!("it has a token {id}"))),
        None => return Err(TokenizerError::broken("it has no tokens")),
    };
    let bytes = spelling(inner.get_decoder());
    let mut tokens = vec![Token::default(); largest + 1];
    for (name, id) in vocabulary {
        let added = added.get(&id);
        tokens[id as usize] = Token {
            bytes: added.map_or_else(|| bytes(&name), |_| name.as_bytes().into()),
            special: added.is_some_and(|token| token.special),
        };
    }
    Ok(tokens)
}

/// What it puts before a text.
fn begin(inner: &Tokenizer) -> Result<Vec<u32>> {
    let probe = guarded(|| inner.encode_fast("a", true))?;
    let added = probe.get_special_tokens_mask().iter();
    let before = added.take_while(|&&added| added == 1).count();
    match before < probe.len() {
        true => Ok(probe.get_ids()[..before].to_vec()),
        false => Ok(Vec::new()), // it knows no "a", and what stands behind it cannot be told from what stands before
    }
}

pub(super) fn encode(inner: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoded = guarded(|| inner.encode_fast(text, false))?;
    Ok(encoded.get_ids().to_vec())
}

/// What the crate gives, and what it fails or panics with as an error: files of others may lead it to either.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let done = caught(work).unwrap_or_else(|panic| Err(panic.into()));
    done.map_err(TokenizerError::Broken)
}

/// Whether a text may be cut between a visible character and an end of line, and encoded apart: where normalising does
/// not look across, words end at white space, and no added token reaches over the cut.
fn cuts_lines(file: &Value) -> bool {
    let normalizer = file["normalizer"]["type"].as_str();
    let words = &file["pre_tokenizer"];
    let added = file["added_tokens"].as_array();
    let within_line = |token: &Value| {
        let text = token["content"].as_str().unwrap_or("\n");
        token["rstrip"] != true && !text.contains('\n')
    };
    normalizer.is_none_or(|name| ["NFC", "NFD", "NFKC", "NFKD"].contains(&name))
        && words["type"] == "ByteLevel"
        && words["use_regex"] != false
        && words["add_prefix_space"] == false
        && added.is_none_or(|added| added.iter().all(within_line))
}

/// The bytes that a token of a name stands for, behind others. How the vocabulary writes them, the decoder says by what
/// it makes of names: a letter for each byte, as GPT-2 has it, bytes as `<0x0A>`, or text.
fn spelling(decoder: Option<&DecoderWrapper>) -> impl Fn(&str) -> Box<[u8]> {
    let in_letters = spelt(decoder, &["Ġ"]) == " ";
    let in_digits = spelt(decoder, &["<0x41>"]) == "A";
    move |name| {
        if in_letters {
            let bytes: Option<_> = name.chars().map(byte_of_letter).collect();
            return bytes.unwrap_or_else(|| name.as_bytes().into());
        }
        let digits = name
            .strip_prefix("<0x")
            .and_then(|rest| rest.strip_suffix('>'));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|_| in_digits) {
            Some(byte) => [byte].into(),
            None => {
                let text = spelt(decoder, &["a", name]);
                text.strip_prefix('a').unwrap_or_default().as_bytes().into()
            }
        }
    }
}

/// What the decoder makes of tokens, of which it may drop what cannot be.
fn spelt(decoder: Option<&DecoderWrapper>, names: &[&str]) -> String {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    match decoder {
        Some(decoder) => guarded(|| decoder.decode(names)).unwrap_or_default(),
        None => names.concat(),
    }
}

/// The byte that GPT-2 writes this letter for: itself where it is printable, the others in turn from `Ā` on.
fn byte_of_letter(letter: char) -> Option<u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(letter).checked_sub(256) {
        Some(place) => (0..=255)
            .filter(|byte| !printable(byte))
            .nth(place as usize),
        None => u8::try_from(letter).ok().filter(printable),
    }
}
