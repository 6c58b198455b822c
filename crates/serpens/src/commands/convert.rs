//! `serpens convert`.

use std::fs;
use std::path::Path;

use serpens_core::files::{FileError, temporary};
use serpens_data::Tokenizer;
use serpens_formats::Encoding;
use serpens_nn::checkpoint::{Format, export};

use crate::cli::ConvertArgs;
use crate::output::{one_line, say, tell};
use crate::refusal::Refusal;
use crate::runs::models::Opened;
use crate::{Error, Result};

/// Refuses to write over something.
fn free(to: &Path) -> Result<()> {
    match to.symlink_metadata() {
        Ok(_) => Err(Error::refused("TO", Refusal::Exists(to.to_owned()))),
        Err(_) => Ok(()),
    }
}

/// Refuses a place that is not free, or does not say its format.
pub(super) fn check(to: &Path, format: Format) -> Result<()> {
    free(to)?;
    match format == Format::Gguf && Format::of_name(to) != format {
        true => Err(Error::refused("TO", Refusal::GgufEnding)),
        false => Ok(()),
    }
}

pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    let format = args.format.unwrap_or_else(|| Format::of_name(&args.to));
    check(&args.to, format)?;
    if format != Format::Gguf && args.dtype.block().0 > 1 {
        return Err(Error::refused("--dtype", Refusal::Blocks(args.dtype)));
    }
    let opened = args.model.load()?;
    let tokenizer = args.model.tokenizer(&opened)?;
    write(&opened, tokenizer, &args.to, format, &|_| args.dtype)?;
    say(&one_line(&args.to.display().to_string()))
}

/// Writes a model and its tokenizer to a place that is free, whole or not at all.
pub(super) fn write(
    opened: &Opened,
    tokenizer: Option<Tokenizer>,
    to: &Path,
    format: Format,
    encoding: &dyn Fn(&str) -> Encoding,
) -> Result<()> {
    let vocabulary = opened.model.config().vocab_size;
    let into_file = (format == Format::Gguf).then(|| tokenizer.as_ref()?.gguf(vocabulary));
    if tokenizer.is_some() && into_file == Some(None) {
        tell("the tokenizer is left out: GGUF has none of its kind");
    }
    let metadata = into_file.flatten().unwrap_or_default();
    // Beside it, so that it is there whole or not at all.
    let beside = temporary(to);
    let written = || {
        for line in export(&opened.model, &beside, format, encoding, metadata)? {
            tell(&format!("warning: the model changes: {line}"));
        }
        match tokenizer.filter(|_| format != Format::Gguf) {
            Some(tokenizer) => Ok(tokenizer.save(&beside)?),
            None => Ok(()),
        }
    };
    let placed = written().and_then(|()| free(to)).and_then(|()| {
        let failed = FileError::of("write", to);
        Ok(fs::rename(&beside, to).map_err(failed)?)
    });
    if placed.is_err() {
        // What is left of it is of no use; the first error is the one to report.
        let _ = fs::remove_dir_all(&beside).or_else(|_| fs::remove_file(&beside));
    }
    placed
}
