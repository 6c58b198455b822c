//! Between text and tokens.

mod dna;
mod error;
mod files;
mod json;
mod lists;
mod symbols;

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use rayon::prelude::*;
use twox_hash::XxHash3_64;

pub use error::TokenizerError;

use symbols::Symbols;

use crate::Content;

type Result<T, E = TokenizerError> = std::result::Result<T, E>;

/// Bytes of a text that are encoded at a time, at least.
const BLOCK: usize = 1 << 16;

/// Between text and the numbers that a model reads. Cloning is cheap.
///
/// There are three kinds: bytes (256 tokens, any content), what `tokenizer.json` describes (byte-pair encodings as
/// those of GPT-2, GPT-NeoX and Llama, and whatever else the `tokenizers` crate reads), and plain tables of symbols, of
/// proteins for example. GPT-2's own files and the lists of a GGUF file become the second kind.
///
/// Text that is the name of a special token, such as `<|endoftext|>`, becomes that token, in a user's text as anywhere:
/// as in the programs that published models come from. Who reads text of strangers looks for it first
/// ([`Tokenizer::is_special`]).
#[derive(Clone)]
pub struct Tokenizer(Arc<Loaded>);

/// What a file of a tokenizer says.
#[derive(Default)]
struct Loaded {
    kind: Kind,
    tokens: Vec<Token>,
    /// Stands before every text.
    begin: Vec<u32>,
    /// Each of them ends a text.
    ends: Vec<u32>,
    /// Whether a text may be cut between a visible character and an end of line.
    cuts_lines: bool,
    /// The space that it writes before the first word of a text is no part of it.
    begins_with_space: bool,
    /// The content of the file that it is saved as.
    text: String,
}

#[derive(Default)]
enum Kind {
    #[default]
    Bytes,
    Json(Box<tokenizers::Tokenizer>),
    Symbols(Symbols),
}

#[derive(Clone, Default)]
struct Token {
    bytes: Box<[u8]>,
    special: bool,
}

impl Loaded {
    /// The special token of this name.
    fn special(&self, name: &str) -> Option<u32> {
        let is = |token: &Token| token.special && *token.bytes == *name.as_bytes();
        Some(self.tokens.iter().position(is)? as u32)
    }
}

impl Tokenizer {
    /// A token for each byte; nothing begins or ends a text.
    pub fn bytes() -> Self {
        let token = |byte| Token {
            bytes: [byte].into(),
            special: false,
        };
        Self(Arc::new(Loaded {
            tokens: (0..=255).map(token).collect(),
            text: "bytes".into(),
            ..Loaded::default()
        }))
    }

    /// What makes tokens of files of this content, where a user has no choice: a table of nucleotides for DNA, otherwise
    /// bytes.
    ///
    /// # Errors
    /// Those of [`Tokenizer::dna`].
    pub fn of(content: &Content) -> crate::Result<Self> {
        match content {
            Content::Dna(config) => Self::dna(config),
            _ => Ok(Self::bytes()),
        }
    }

    /// Whether tokens are bytes.
    pub fn is_bytes(&self) -> bool {
        matches!(self.0.kind, Kind::Bytes)
    }

    /// One more than the largest token. A model may have more tokens: their number is often rounded up.
    pub fn vocab_size(&self) -> usize {
        self.0.tokens.len()
    }

    /// Refuses a model that has fewer tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Vocabulary`].
    pub fn check_vocabulary(&self, vocabulary: usize) -> crate::Result<()> {
        let tokens = self.vocab_size();
        match tokens <= vocabulary {
            true => Ok(()),
            false => Err(TokenizerError::Vocabulary { tokens, vocabulary }.into()),
        }
    }

    /// The tokens that stand before every text, such as `<s>`; [`encode`](Self::encode) does not put them there.
    pub fn begin(&self) -> &[u32] {
        &self.0.begin
    }

    /// The tokens that end a text: each of them stops a generation. The first of them stands behind every document of a
    /// token file.
    pub fn end_of_text(&self) -> &[u32] {
        &self.0.ends
    }

    /// A number that differs where tokens, their meaning, or what begins and ends texts differ.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = XxHash3_64::new();
        hash.write(self.0.text.as_bytes());
        for ids in [self.begin(), self.end_of_text()] {
            hash.write(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| hash.write(&id.to_le_bytes()));
        }
        hash.finish()
    }

    /// What a token stands for, of a special one its name; nothing beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let token = self.0.tokens.get(id as usize);
        token.map_or(&[], |token| &token.bytes)
    }

    /// [`token_bytes`](Self::token_bytes) to be read: what is no whole character becomes `�`.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.token_bytes(id)).into_owned()
    }

    /// Whether a token is no text, but says something of it.
    pub fn is_special(&self, id: u32) -> bool {
        let token = self.0.tokens.get(id as usize);
        token.is_some_and(|token| token.special)
    }

    /// The bytes of text that a token stands for: [`token_bytes`](Self::token_bytes), of a special one none.
    pub fn text_of(&self, id: u32) -> &[u8] {
        match self.is_special(id) {
            true => &[],
            false => self.token_bytes(id),
        }
    }

    /// A text's tokens, without what stands before or behind it. Long texts are encoded by several threads, with the
    /// same result.
    ///
    /// # Errors
    /// [`TokenizerError::NotText`] (never of bytes), [`TokenizerError::NoSymbol`], and
    /// [`TokenizerError::Broken`] where a tokenizer turns out to be.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>> {
        let not_text = |error: std::str::Utf8Error| TokenizerError::NotText(error.valid_up_to());
        let read = |text| std::str::from_utf8(text).map_err(not_text);
        let encode: &(dyn Fn(&str) -> Result<Vec<u32>> + Sync) = match &self.0.kind {
            Kind::Bytes => return Ok(text.iter().copied().map(u32::from).collect()),
            Kind::Json(inner) => &|text| json::encode(inner, text),
            Kind::Symbols(symbols) if symbols.are_quick() => return symbols.encode(read(text)?),
            Kind::Symbols(symbols) => &|text| symbols.encode(text),
        };
        let mut rest = read(text)?;
        let mut blocks = Vec::new();
        while let Some(cut) = (BLOCK..rest.len()).find(|&at| self.may_cut(rest.as_bytes(), at)) {
            let (block, later) = rest.split_at(cut);
            blocks.push(block);
            rest = later;
        }
        blocks.push(rest);
        let ids: Result<Vec<Vec<u32>>> = blocks.into_par_iter().map(encode).collect();
        Ok(ids?.concat())
    }

    /// Whether the two sides of this place give the same tokens apart as together. There is a visible character before
    /// and an end of line behind, where the kind cuts at all; bytes are cut anywhere.
    fn may_cut(&self, text: &[u8], at: usize) -> bool {
        let between = || text[at - 1].is_ascii_graphic() && text[at] == b'\n';
        self.is_bytes() || (self.0.cuts_lines && between())
    }

    /// A late place where a text that goes on may be cut.
    pub(crate) fn last_cut(&self, text: &[u8]) -> Option<usize> {
        match &self.0.kind {
            Kind::Symbols(symbols) => symbols.last_cut(text),
            _ => (1..text.len()).rev().find(|&at| self.may_cut(text, at)),
        }
    }

    /// A whole text's bytes. Special tokens give none.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let text = ids.iter().flat_map(|&id| self.text_of(id));
        let mut text: Vec<u8> = text.copied().collect();
        if self.0.begins_with_space && text.first() == Some(&b' ') {
            text.remove(0);
        }
        text
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tokens, fingerprint) = (self.vocab_size(), self.fingerprint());
        write!(f, "Tokenizer({tokens} tokens, {fingerprint:016x})")
    }
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}
