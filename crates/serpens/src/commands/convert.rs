//! `serpens convert`.

use std::fs;
use std::path::Path;

use serpens_core::files::{FileError, temporary};
use serpens_nn::checkpoint::{Format, export};

use crate::cli::ConvertArgs;
use crate::output::{one_line, say, tell};
use crate::refusal::Refusal;
use crate::{Error, Result};

/// Refuses to write over something.
fn free(to: &Path) -> Result<()> {
    match to.symlink_metadata() {
        Ok(_) => Err(Error::refused("TO", Refusal::Exists(to.to_owned()))),
        Err(_) => Ok(()),
    }
}

pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    free(&args.to)?;
    let format = args.format.unwrap_or_else(|| Format::of_name(&args.to));
    if format == Format::Gguf && Format::of_name(&args.to) != format {
        return Err(Error::refused("TO", Refusal::GgufEnding));
    }
    if format != Format::Gguf && args.dtype.block().0 > 1 {
        return Err(Error::refused("--dtype", Refusal::Blocks(args.dtype)));
    }
    let opened = args.model.load()?;
    let tokenizer = args.model.tokenizer(&opened)?;
    let vocabulary = opened.model.config().vocab_size;
    let into_file = (format == Format::Gguf).then(|| tokenizer.as_ref()?.gguf(vocabulary));
    if tokenizer.is_some() && into_file == Some(None) {
        tell("the tokenizer is left out: GGUF has none of its kind");
    }
    let metadata = into_file.flatten().unwrap_or_default();
    // Beside it, so that it is there whole or not at all.
    let beside = temporary(&args.to);
    let written = || {
        for line in export(&opened.model, &beside, format, args.dtype, metadata)? {
            tell(&format!("warning: the model changes: {line}"));
        }
        match tokenizer.filter(|_| format != Format::Gguf) {
            Some(tokenizer) => Ok(tokenizer.save(&beside)?),
            None => Ok(()),
        }
    };
    let placed = written().and_then(|()| free(&args.to)).and_then(|()| {
        let failed = FileError::of("write", &args.to);
        Ok(fs::rename(&beside, &args.to).map_err(failed)?)
    });
    if placed.is_err() {
        // What is left of it is of no use; the first error is the one to report.
        let _ = fs::remove_dir_all(&beside).or_else(|_| fs::remove_file(&beside));
    }
    placed?;
    say(&one_line(&args.to.display().to_string()))
}
