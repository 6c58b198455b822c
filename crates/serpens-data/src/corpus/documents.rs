//! Texts a block at a time.

use serde::Deserialize;

use super::MOST_HELD;
use super::files::Found;
use crate::Tokenizer;
use crate::error::Error;

/// Bytes that are read at a time, at least.
const READ: usize = 1 << 20;

/// A part of a document that is encoded by itself.
pub(super) struct Block {
    pub(super) text: Vec<u8>,
    /// Where it lies in its file, if the text is there as it is.
    pub(super) at: usize,
    pub(super) begins: bool,
    pub(super) ends: bool,
    /// Whether it is to be learnt.
    pub(super) learnt: bool,
}

impl Block {
    fn new(text: Vec<u8>, at: usize, [begins, ends, learnt]: [bool; 3]) -> Self {
        Self {
            text,
            at,
            begins,
            ends,
            learnt,
        }
    }
}

/// A line of a file of documents.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text { text: String },
    Pair { prompt: String, completion: String },
}

/// Whether every line of a file is a document.
pub(super) fn are_lines(file: &Found) -> bool {
    file.path.extension().is_some_and(|end| end == "jsonl")
}

/// Hands on the documents of a file in blocks.
pub(super) fn read_documents<E: From<Error>>(
    file: &Found,
    tokenizer: &Tokenizer,
    take: &mut dyn FnMut(Block) -> Result<(), E>,
) -> Result<(), E> {
    if !are_lines(file) {
        let cut = |text: &[u8]| tokenizer.last_cut(text);
        return read(file, cut, &mut |text, at, last| {
            take(Block::new(text, at, [at == 0, last, true]))
        });
    }
    let last_line = |text: &[u8]| Some(text.iter().rposition(|&byte| byte == b'\n')? + 1);
    let mut number = 0;
    read(file, last_line, &mut |text, _, _| {
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let line = serde_json::from_slice(line).map_err(|source| {
                let (path, line) = (file.path.clone(), number);
                Error::Line { path, line, source }
            })?;
            let mut block = |text: String, is| take(Block::new(text.into_bytes(), 0, is));
            match line {
                Line::Text { text } => block(text, [true; 3])?,
                Line::Pair { prompt, completion } => {
                    block(prompt, [true, false, false])?;
                    block(completion, [false, true, true])?;
                }
            }
        }
        Ok(())
    })
}

/// Reads a file in blocks that end where `cut` says of what was read so far, with where each lies and whether it is the
/// last.
fn read<E: From<Error>>(
    file: &Found,
    cut: impl Fn(&[u8]) -> Option<usize>,
    take: &mut dyn FnMut(Vec<u8>, usize, bool) -> Result<(), E>,
) -> Result<(), E> {
    let (size, mut at, mut block) = (file.bytes as usize, 0, Vec::new());
    while at + block.len() < size {
        let begin = block.len();
        block.resize((size - at).min(begin + READ.max(begin)), 0);
        file.read((at + begin) as u64, &mut block[begin..])?;
        let last = at + block.len() == size;
        let end = if last { Some(block.len()) } else { cut(&block) };
        if let Some(end) = end {
            let later = block.split_off(end);
            take(std::mem::replace(&mut block, later), at, last)?;
            at += end;
        } else if block.len() > MOST_HELD {
            return Err(Error::LongDocument(file.path.clone()).into());
        }
    }
    Ok(())
}
