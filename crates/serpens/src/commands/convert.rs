//! `serpens convert`.

use serpens_nn::checkpoint::{Format, export};

use crate::cli::ConvertArgs;
use crate::output::{one_line, say, tell};
use crate::refusal::Refusal;
use crate::{Error, Result};

pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    if args.to.symlink_metadata().is_ok() {
        return Err(Error::refused("TO", Refusal::Exists(args.to.clone())));
    }
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
    for line in export(&opened.model, &args.to, format, args.dtype, metadata)? {
        tell(&format!("warning: the model changes: {line}"));
    }
    match tokenizer {
        Some(tokenizer) if format != Format::Gguf => tokenizer.save(&args.to)?,
        _ => {}
    }
    say(&one_line(&args.to.display().to_string()))
}
