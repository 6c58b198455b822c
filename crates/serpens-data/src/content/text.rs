//! Texts.

use std::io::Read as _;

use serde::Deserialize;

use super::{Block, Read, Take};
use crate::Tokenizer;
use crate::error::Error;
use crate::files::Found;
use crate::store::MOST_HELD;

/// Bytes that are read at a time, at least.
const READ: usize = 1 << 20;

/// A block of a text without a name.
fn block(text: Vec<u8>, at: usize, [begins, ends, learnt]: [bool; 3]) -> Block {
    Block {
        at,
        learnt,
        ..Block::new(String::new(), Read::Text(text), begins, ends)
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
pub(crate) fn are_lines(file: &Found) -> bool {
    file.extension().is_some_and(|end| end == "jsonl")
}

/// Hands on the documents of a file in blocks.
pub(super) fn read<E: From<Error>>(
    file: &Found,
    tokenizer: &Tokenizer,
    take: &mut Take<'_, E>,
) -> Result<(), E> {
    if !are_lines(file) {
        let cut = |text: &[u8]| tokenizer.last_cut(text);
        return in_blocks(file, cut, &mut |text, at, last| {
            take(block(text, at, [at == 0, last, true]))
        });
    }
    let last_line = |text: &[u8]| Some(text.iter().rposition(|&byte| byte == b'\n')? + 1);
    let mut number = 0;
    in_blocks(file, last_line, &mut |text, _, _| {
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let line = serde_json::from_slice(line).map_err(|source| {
                let (path, line) = (file.path.clone(), number);
                Error::Line { path, line, source }
            })?;
            let mut put = |text: String, is| take(block(text.into_bytes(), 0, is));
            match line {
                Line::Text { text } => put(text, [true; 3])?,
                Line::Pair { prompt, completion } => {
                    put(prompt, [true, false, false])?;
                    put(completion, [false, true, true])?;
                }
            }
        }
        Ok(())
    })
}

/// Reads a file in blocks that end where `cut` says of what was read so far, with where each lies and whether it is the
/// last.
fn in_blocks<E: From<Error>>(
    file: &Found,
    cut: impl Fn(&[u8]) -> Option<usize>,
    take: &mut dyn FnMut(Vec<u8>, usize, bool) -> Result<(), E>,
) -> Result<(), E> {
    let (mut content, mut at, mut block) = (file.open()?, 0, Vec::new());
    loop {
        let more = READ.max(block.len()) as u64;
        let read = content.by_ref().take(more).read_to_end(&mut block);
        let next = read.and_then(|_| content.fill_buf());
        let last = next.map_err(|error| file.unread(error))?.is_empty();
        if block.is_empty() {
            return Ok(()); // nothing was compressed
        }
        let end = if last { Some(block.len()) } else { cut(&block) };
        if let Some(end) = end {
            let later = block.split_off(end);
            take(std::mem::replace(&mut block, later), at, last)?;
            at += end;
        } else if block.len() > MOST_HELD {
            return Err(Error::LongDocument(file.path.clone()).into());
        }
        if last {
            return Ok(());
        }
    }
}
