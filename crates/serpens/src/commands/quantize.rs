//! `serpens quantize`: what `convert` writes, with a choice for each tensor, and what that changed.

use std::fs;
use std::path::Path;

use glob::Pattern;
use serde_json::{Value, json};
use serpens_data::Corpus;
use serpens_formats::Encoding;
use serpens_nn::checkpoint::{Checkpoint, Format, Options, TensorError, encoding_of, stored};
use serpens_nn::{MambaLm, ToInfer};
use serpens_report::grouped;

use super::{convert, eval};
use crate::cli::QuantizeArgs;
use crate::output::{aligned, one_line, say, significant, tell};
use crate::refusal::Refusal;
use crate::{Error, Result};

/// The tensors that are named, worst first.
const WORST: usize = 10;
impl QuantizeArgs {
    /// The first pattern that a name matches, and how its tensor is stored.
    fn kept(&self, name: &str) -> Option<&(Pattern, Encoding)> {
        self.keep.iter().find(|(pattern, _)| pattern.matches(name))
    }

    /// How the tensor of this name is stored.
    fn encoding_of(&self, name: &str) -> Encoding {
        let kept = self.kept(name).map(|(_, kept)| *kept);
        kept.unwrap_or_else(|| encoding_of(self.encoding, name))
    }

    /// Refuses patterns of names by which nothing is stored otherwise.
    fn check_patterns(&self, model: &MambaLm) -> Result<()> {
        let asked = stored(model, Format::Gguf, &|name| self.encoding_of(name));
        let is_first = |name, keep| {
            self.kept(name)
                .is_some_and(|first| std::ptr::eq(first, keep))
        };
        let counts = |keep| asked.iter().any(|(name, _)| is_first(name, keep));
        match self.keep.iter().find(|keep| !counts(*keep)) {
            Some((pattern, _)) => {
                let some = asked.into_iter().map(|(name, _)| name).take(5).collect();
                let wrong = Refusal::NoTensor(pattern.to_string(), some);
                Err(Error::refused("--keep", wrong))
            }
            None => Ok(()),
        }
    }
}

/// The perplexity of a text.
fn perplexity(model: &MambaLm, path: &Path, corpus: &Corpus) -> Result<f64> {
    Ok(eval::whole(model, path, corpus)?.tokens.mean().exp())
}

pub(super) fn run(args: &QuantizeArgs) -> Result<()> {
    let target = (&*args.to, "OUT.gguf");
    convert::check(target, Format::Gguf)?;
    args.check_patterns(args.model.open()?.plan())?;
    let before = |data: &String| {
        // As its file has it: what is in blocks already is multiplied in them.
        let (held, tokenizer) = args.model.load_with_tokenizer(ToInfer::default())?;
        let corpus = eval::corpus(data, &held, &tokenizer)?;
        let before = perplexity(&held.model, &held.path, &corpus)?;
        Ok::<_, Error>((corpus, before))
    };
    let before = args.data.as_ref().map(before).transpose()?;
    let mut opened = args.model.load()?;
    opened.model.merge()?;
    let tokenizer = args.model.tokenizer(&opened)?;
    let encoding = |name: &str| args.encoding_of(name);
    convert::write(&opened, tokenizer, target, Format::Gguf, &encoding)?;
    let report = || {
        let written = Checkpoint::open(&args.to, &Options::default())?;
        let sizes = [opened.checkpoint.size()?, written.size()?];
        let tensors = written.errors(&opened.model)?;
        drop(opened);
        let after = |(corpus, before)| {
            let model = written.load_to_infer(ToInfer::default())?;
            Ok::<_, Error>((before, perplexity(&model, &args.to, &corpus)?))
        };
        Ok::<_, Error>(Report {
            sizes,
            perplexity: before.map(after).transpose()?,
            tensors,
        })
    };
    let report = report().inspect_err(|_| {
        let _ = fs::remove_file(&args.to); // there is an error already
    })?;
    // Numbers that stand alone have 16 or more.
    if report.bits_per_weight()[0] < 16.0 {
        tell("the model is in blocks already: what it lost by them is not counted");
    }
    match args.json {
        true => {
            let mut value = report.json();
            value["model"] = args.model.place.path.to_string_lossy().into();
            value["to"] = args.to.to_string_lossy().into();
            value["data"] = args.data.clone().into();
            say(&value.to_string())
        }
        false => {
            let to = one_line(&args.to.display().to_string());
            say(&format!("{to}\n{}", report.text()))
        }
    }
}

/// What quantising changed.
struct Report {
    /// Bytes and values, before and after.
    sizes: [[u64; 2]; 2],
    /// Before and after.
    perplexity: Option<(f64, f64)>,
    tensors: Vec<TensorError>,
}

impl Report {
    fn bits_per_weight(&self) -> [f64; 2] {
        self.sizes
            .map(|[bytes, values]| 8.0 * bytes as f64 / values.max(1) as f64)
    }

    fn worst(&self) -> Vec<&TensorError> {
        let rounded = self.tensors.iter().filter(|tensor| tensor.relative != 0.0);
        let mut worst: Vec<_> = rounded.collect();
        worst.sort_by(|one, other| other.relative.total_cmp(&one.relative));
        worst.truncate(WORST);
        worst
    }

    fn json(&self) -> Value {
        let [before, after] = self.sizes.map(|[bytes, _]| bytes);
        let [bits_before, bits_after] = self.bits_per_weight();
        let worst = self.worst().into_iter().map(|tensor| {
            json!({
                "tensor": tensor.name,
                "type": tensor.encoding.to_string().to_lowercase(),
                "relative_squared_error": tensor.relative,
            })
        });
        json!({
            "bytes": { "before": before, "after": after },
            "bits_per_weight": { "before": bits_before, "after": bits_after },
            "perplexity": self.perplexity.map(|(before, after)| json!({ "before": before, "after": after })),
            "worst": worst.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let row = |cells: [String; 3]| cells.to_vec();
        let mut table = vec![row(["", "before", "after"].map(str::to_owned))];
        let [before, after] = self.sizes.map(|[bytes, _]| grouped(bytes as usize));
        table.push(row(["bytes".into(), before, after]));
        let [before, after] = self.bits_per_weight().map(significant);
        table.push(row(["bits per weight".into(), before, after]));
        if let Some((before, after)) = self.perplexity {
            let change = 100.0 * (after / before - 1.0);
            let after = format!("{after:.4} ({change:+.2} %)");
            table.push(row(["perplexity".into(), format!("{before:.4}"), after]));
        }
        let head = ["worst tensors", "type", "relative squared error"];
        let mut worst = vec![row(head.map(str::to_owned))];
        worst.extend(self.worst().into_iter().map(|tensor| {
            let encoding = tensor.encoding.to_string().to_lowercase();
            let error = format!("{:.2e}", tensor.relative);
            row([one_line(&tensor.name), encoding, error])
        }));
        format!("{}\n{}", aligned(table.iter()), aligned(worst.iter()))
    }
}
