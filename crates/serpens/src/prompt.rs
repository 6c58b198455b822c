//! Prompts: given on the command line, in a file, or on standard input.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serpens_core::files::{self, Accept, FileError, MOST_WHOLE};

use crate::refusal::Refusal;
use crate::{Error, Result};

/// Options of the commands that read a prompt.
#[derive(Debug, Args)]
#[group(id = "one_prompt", multiple = false)]
pub struct PromptArgs {
    /// Text; token ids apart by spaces for a model without a tokenizer.
    #[arg(long)]
    prompt: Option<String>,
    /// The prompt in a file, or on standard input where it is -.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
}

/// Options of the command that reads many of them.
#[derive(Debug, Args)]
pub struct PromptsArgs {
    /// One prompt.
    #[command(flatten)]
    one: PromptArgs,
    /// Many prompts in a file, or on standard input where it is -: a line each, empty ones left out; in a .jsonl file
    /// each a JSON string or an object with a "prompt".
    #[arg(long, value_name = "FILE", conflicts_with = "one_prompt")]
    prompts: Option<PathBuf>,
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

impl PromptsArgs {
    /// The file of the one prompt, where it is in a file.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.one.prompt_file.as_deref()
    }

    /// Whether none is given.
    pub(crate) fn is_left_out(&self) -> bool {
        self.prompts.is_none() && self.one.prompt.is_none() && self.one.prompt_file.is_none()
    }

    /// The prompts; an end of line where none is given, and nothing is gone on from.
    pub(crate) fn read(&self, goes_on: bool) -> Result<Vec<Vec<u8>>> {
        const OPTION: &str = "--prompts";
        let Some(path) = &self.prompts else {
            let beginning = if goes_on { "" } else { "\n" };
            return Ok(vec![self.one.read()?.unwrap_or_else(|| beginning.into())]);
        };
        let bytes = read(path)?;
        // Some editors put a mark before a text.
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let lines = text.split(|byte| *byte == b'\n').enumerate();
        let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
        let in_json = path.extension().is_some_and(|ending| ending == "jsonl");
        let prompt = |(at, line): (usize, &[u8])| match in_json {
            false => Ok(line.strip_suffix(b"\r").unwrap_or(line).into()),
            true => match serde_json::from_slice(line) {
                Ok(JsonPrompt::Text(prompt) | JsonPrompt::Object { prompt }) => Ok(prompt.into()),
                Err(_) => Err(Error::refused(OPTION, Refusal::NoPrompt(at + 1))),
            },
        };
        let prompts = lines.map(prompt).collect::<Result<Vec<Vec<u8>>>>()?;
        match prompts.is_empty() {
            true => Err(Error::refused(OPTION, Refusal::Empty)),
            false => Ok(prompts),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonPrompt {
    Text(String),
    Object { prompt: String },
}

fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(match path.to_str() {
        Some("-") => files::read(io::stdin().lock(), MOST_WHOLE)
            .map_err(FileError::of("read", Path::new("standard input")))?,
        _ => files::read_bytes(path, Accept::Streams, MOST_WHOLE)?,
    })
}
