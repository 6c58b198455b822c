//! Text from tokens while they are drawn.

use serpens_data::Tokenizer;

use crate::Item;

/// The text of tokens that come one by one, in whole characters, up to the first of some stop strings. What may be the
/// beginning of one is held back until it is known, so that none is ever shown in part.
///
/// It goes on from a text: where a tokenizer writes a space before the first word of a text and
/// [`Tokenizer::decode`] leaves it out, it is kept here. Special tokens and ids beyond the vocabulary give no text;
/// bytes that are none become `�`.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    stops: Vec<String>,
    /// What is still missing bytes of a character.
    pending: Vec<u8>,
    /// The longest end of the text that a stop string begins with.
    held: String,
    stopped: bool,
}

impl TextStream {
    /// The text of this tokenizer's tokens up to one of these strings; empty ones stop nothing.
    pub fn new(tokenizer: &Tokenizer, stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        Self {
            tokenizer: tokenizer.clone(),
            stops: stops.cloned().collect(),
            pending: Vec::new(),
            held: String::new(),
            stopped: false,
        }
    }

    /// The text that is certain with this token; nothing once a stop string came.
    pub fn push(&mut self, token: u32) -> String {
        self.pending.extend(self.tokenizer.text_of(token));
        let end = self.pending.utf8_chunks().last();
        // A character that may still become whole is an error without a length.
        let open = end.map(|end| end.invalid()).filter(|open| {
            std::str::from_utf8(open).is_err_and(|error| error.error_len().is_none())
        });
        let open = open.map_or(0, <[u8]>::len);
        let rest = self.pending.split_off(self.pending.len() - open);
        let whole = std::mem::replace(&mut self.pending, rest);
        self.take(&String::from_utf8_lossy(&whole))
    }

    /// Whether a stop string came.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// What was held back, and is text as no token comes any more.
    pub fn finish(&mut self) -> String {
        let left = std::mem::take(&mut self.pending);
        let text = self.take(&String::from_utf8_lossy(&left));
        match self.stopped {
            true => text,
            false => text + &std::mem::take(&mut self.held),
        }
    }

    fn take(&mut self, new: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held += new;
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop));
        let certain = match found.min() {
            Some(at) => {
                self.stopped = true;
                at
            }
            None => self.held.len() - self.begun(),
        };
        let held = self.held.split_off(certain);
        std::mem::replace(&mut self.held, held)
    }

    /// Bytes at the end that may be the beginning of a stop string.
    fn begun(&self) -> usize {
        let begun = self.stops.iter().flat_map(|stop| {
            let beginnings = stop.char_indices().map(|(end, _)| &stop[..end]);
            beginnings.filter(|beginning| self.held.ends_with(beginning))
        });
        begun.map(str::len).max().unwrap_or(0)
    }
}

/// A prompt's tokens as the model reads them: what begins every text, unless this one goes on from another, and its
/// own.
///
/// # Errors
/// A text that the tokenizer does not read.
pub fn encode_prompt(
    tokenizer: &Tokenizer,
    text: &[u8],
    goes_on: bool,
) -> serpens_data::Result<Vec<u32>> {
    let begin = if goes_on { &[][..] } else { tokenizer.begin() };
    Ok([begin, &tokenizer.encode(text)?].concat())
}

/// The tokens of a context and of a text that goes on from it, split as lm-evaluation-harness does: both together are
/// encoded, and what comes behind the tokens of the context alone is the continuation's. White space at the context's
/// end is the continuation's too, as tokens often begin with it. Without a context it is what begins a text, or ends
/// one; where there is neither, the first token of the continuation is the context and not scored.
///
/// # Errors
/// A text that the tokenizer does not read.
pub fn encode_pair(
    tokenizer: &Tokenizer,
    context: &str,
    continuation: &str,
) -> serpens_data::Result<Item> {
    let kept = context.trim_end();
    let encode = |text: &str| encode_prompt(tokenizer, text.as_bytes(), kept.is_empty());
    let mut whole = encode(&[context, continuation].concat())?;
    let mut context = encode(kept)?;
    if kept.is_empty() {
        let mut before = tokenizer.begin().iter().chain(tokenizer.end_of_text());
        let before = before
            .next()
            .filter(|&before| whole.first() != Some(before));
        whole.splice(..0, before.copied());
        context.extend(whole.first());
    }
    whole.drain(..context.len().min(whole.len()));
    Ok(Item {
        context,
        continuation: whole,
    })
}
