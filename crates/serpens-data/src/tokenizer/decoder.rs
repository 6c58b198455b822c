//! From tokens to text while they come.

use super::Tokenizer;

/// Text from tokens that come one by one, in whole characters: what is still missing bytes is held back.
///
/// It goes on from a text: where a tokenizer writes a space before the first word of a text and
/// [`Tokenizer::decode`] leaves it out, it is kept here. Special tokens and ids beyond the vocabulary give no text; bytes
/// that are none become `�`.
#[derive(Clone, Debug)]
pub struct Decoder {
    tokenizer: Tokenizer,
    pending: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        let pending = Vec::new();
        Self { tokenizer, pending }
    }

    /// The characters that this token makes complete.
    pub fn push(&mut self, id: u32) -> String {
        if !self.tokenizer.is_special(id) {
            self.pending.extend(self.tokenizer.token_bytes(id));
        }
        let complete = complete(&self.pending);
        let rest = self.pending.split_off(complete);
        text(std::mem::replace(&mut self.pending, rest))
    }

    /// What is left of a character that never became whole.
    pub fn finish(&mut self) -> String {
        text(std::mem::take(&mut self.pending))
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bytes before a character that may still become whole.
fn complete(bytes: &[u8]) -> usize {
    let open = bytes.utf8_chunks().last().map_or(0, |last| {
        let left = last.invalid();
        let open = std::str::from_utf8(left).is_err_and(|error| error.error_len().is_none());
        if open { left.len() } else { 0 }
    });
    bytes.len() - open
}
