//! Prompts: given on the command line, in a file, or on standard input.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serpens_core::files::{self, Accept, FileError, MOST_WHOLE};

use crate::refusal::Refusal;
use crate::{Error, Result};

/// Options of the commands that read a prompt.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct PromptArgs {
    /// Text for a byte model; token ids apart by spaces for another.
    #[arg(long)]
    prompt: Option<String>,
    /// The prompt in a file, or on standard input where it is -.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
}

impl PromptArgs {
    /// The prompt's bytes, one at least, where one was given.
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>> {
        let (option, bytes) = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => ("--prompt", text.clone().into_bytes()),
            (None, Some(path)) => ("--prompt-file", read(path)?),
            (None, None) => return Ok(None),
        };
        match bytes.is_empty() {
            true => Err(Error::refused(option, Refusal::Empty)),
            false => Ok(Some(bytes)),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(match path.to_str() {
        Some("-") => files::read(io::stdin().lock(), MOST_WHOLE)
            .map_err(FileError::of("read", Path::new("standard input")))?,
        _ => files::read_bytes(path, Accept::Streams, MOST_WHOLE)?,
    })
}
