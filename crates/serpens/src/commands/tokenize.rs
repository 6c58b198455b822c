//! `serpens tokenize`.

use serpens_data::{Content, Tokenizer, tokenize};

use crate::cli::TokenizeArgs;
use crate::output::{counted, say, tell};
use crate::progress::watched;
use crate::{Error, Result, stop};

pub(super) fn run(args: &TokenizeArgs) -> Result<()> {
    let tokenizer = Tokenizer::open(&args.hub.fetch(&args.tokenizer, false)?);
    let tokenizer = tokenizer.map_err(|error| Error::refused("--tokenizer", error))?;
    stop::listen();
    let mut watch = watched("bytes encoded".to_owned());
    let counts = tokenize(
        &args.files,
        &Content::Text,
        &tokenizer,
        &args.out,
        &mut watch,
    )?;
    drop(watch);
    if args.json {
        let mut value = serde_json::json!(counts);
        value["vocabulary"] = tokenizer.vocab_size().into();
        return say(&value.to_string());
    }
    let documents = counted(counts.documents as u64, "document");
    let bytes = counted(counts.bytes as u64, "byte");
    let tokens = counted(counts.tokens as u64, "token");
    let each = counts.bytes as f64 / counts.tokens as f64;
    tell(&format!(
        "{documents}, {bytes}: {tokens} of {each:.2} bytes"
    ));
    Ok(())
}
