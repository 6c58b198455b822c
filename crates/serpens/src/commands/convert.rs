//! `serpens convert`.

use std::collections::BTreeMap;
use std::path::Path;

use serpens_core::files::{FileError, check_writable, remove_begun, rename, temporary};
use serpens_data::Tokenizer;
use serpens_formats::{Encoding, Error as FormatError, Fault};
use serpens_nn::Error as ModelError;
use serpens_nn::checkpoint::{Format, encoding_of, export, stored};

use crate::cli::ConvertArgs;
use crate::output::{counted, one_line, say, tell};
use crate::progress::waiting;
use crate::refusal::Refusal;
use crate::runs::models::Opened;
use crate::{Error, Result, stop};

/// Where a model is written, and what that is called on the command line.
pub(super) type Target<'a> = (&'a Path, &'static str);

/// Refuses to write over something.
fn free((to, argument): Target<'_>) -> Result<()> {
    match to.symlink_metadata() {
        Ok(_) => Err(Error::refused(argument, Refusal::Exists(to.to_owned()))),
        Err(_) => Ok(()),
    }
}

/// Refuses a target that is there, cannot be written to, or does not say its format. What is begun there is removed
/// where a signal ends the process.
pub(super) fn check(target @ (to, argument): Target<'_>, format: Format) -> Result<()> {
    free(target)?;
    if format == Format::Gguf && Format::of_name(to) != format {
        return Err(Error::refused(argument, Refusal::GgufEnding));
    }
    stop::leave_nothing(to);
    Ok(check_writable(to)?)
}

/// Writes a model and its tokenizer, whole or not at all, and says what is stored otherwise than asked.
pub(super) fn write(
    opened: &Opened,
    tokenizer: Option<Tokenizer>,
    target: Target<'_>,
    format: Format,
    encoding: &dyn Fn(&str) -> Encoding,
) -> Result<()> {
    let (to, vocabulary) = (target.0, opened.model.config().vocab_size);
    let into_file = (format == Format::Gguf).then(|| tokenizer.as_ref()?.gguf(vocabulary));
    // Models of bytes need none.
    if tokenizer.as_ref().is_some_and(|it| !it.is_bytes()) && into_file == Some(None) {
        tell("the tokenizer is left out, as GGUF has none of its kind: name it with --tokenizer");
    }
    let metadata = into_file.flatten().unwrap_or_default();
    tell_others(&stored(&opened.model, format, encoding), encoding);
    // Beside it, so that it is there whole or not at all.
    let beside = temporary(to);
    let written = waiting(&format!("writing {}", to.display()), || {
        for line in export(&opened.model, &beside, format, encoding, metadata)? {
            tell(&format!("warning: the model changes: {line}"));
        }
        match tokenizer.filter(|_| format != Format::Gguf) {
            Some(tokenizer) => Ok(tokenizer.save(&beside)?),
            None => Ok(()),
        }
    });
    let written = written.map_err(|error| named(error, &opened.path, to));
    let placed = written.and_then(|()| free(target)).and_then(|()| {
        let failed = FileError::of("write", to);
        Ok(rename(&beside, to).map_err(failed)?)
    });
    if placed.is_err() {
        remove_begun(to);
    }
    placed
}

/// Says which tensors' rows are no whole blocks of what they were to be stored in.
fn tell_others(stored: &[(String, Encoding)], asked: &dyn Fn(&str) -> Encoding) {
    let mut others = BTreeMap::<_, Vec<_>>::new();
    for (name, stored) in stored.iter().filter(|(name, it)| *it != asked(name)) {
        let pair = [*stored, asked(name)].map(|it| it.to_string().to_lowercase());
        others.entry(pair).or_default().push(name);
    }
    for ([stored, asked], names) in others {
        let (tensors, first) = (counted(names.len() as u64, "tensor"), one_line(names[0]));
        tell(&format!(
            "{tensors} from {first} on stored in {stored}, as rows are no whole blocks of {asked}"
        ));
    }
}

/// The error with the path that is known outside: what cannot be encoded is in the model, and what is made is `to`.
fn named(error: Error, from: &Path, to: &Path) -> Error {
    let Error::Model(ModelError::Format(mut error)) = error else {
        return error;
    };
    match &mut error {
        FormatError::File { path, source } => {
            let is_value = matches!(source, Fault::Value(..));
            *path = if is_value { from } else { to }.to_owned();
        }
        FormatError::Io(FileError { path, .. }) => *path = to.to_owned(),
        _ => {}
    }
    ModelError::Format(error).into()
}

pub(super) fn run(args: &ConvertArgs) -> Result<()> {
    let format = args.format.unwrap_or_else(|| Format::of_name(&args.to));
    let target = (&*args.to, "TO");
    check(target, format)?;
    if format != Format::Gguf && args.dtype.block().0 > 1 {
        return Err(Error::refused("--dtype", Refusal::Blocks(args.dtype)));
    }
    let opened = args.model.load()?;
    let tokenizer = args.model.tokenizer(&opened)?;
    let encoding = |name: &str| encoding_of(args.dtype, name);
    write(&opened, tokenizer, target, format, &encoding)?;
    say(&one_line(&args.to.display().to_string()))
}
