//! `serpens quantize`: what `convert` writes, with a choice for each tensor, and what that changed.

use serde_json::{Value, json};
use serpens_formats::Encoding;
use serpens_nn::checkpoint::{Checkpoint, Format, Options, TensorError};
use serpens_nn::{MambaLm, ToInfer};
use serpens_ops::quantized_linear::Blocks;
use serpens_report::grouped;

use super::{convert, eval};
use crate::Result;
use crate::cli::QuantizeArgs;
use crate::output::{aligned, one_line, say, significant};

/// The tensors that are named, worst first.
const WORST: usize = 10;
/// The table and the head, whose errors are in every logit.
const ENDS: [&str; 2] = ["token_embd.weight", "output.weight"];

impl QuantizeArgs {
    /// How the tensor of this name is stored.
    fn encoding_of(&self, name: &str) -> Encoding {
        let kept = self.keep.iter().find(|(pattern, _)| pattern.matches(name));
        match (kept, self.encoding) {
            (Some((_, kept)), _) => *kept,
            (None, Encoding::Blocks(Blocks::Q4_K)) if ENDS.contains(&name) => {
                Encoding::Blocks(Blocks::Q6_K)
            }
            (None, encoding) => encoding,
        }
    }
}

pub(super) fn run(args: &QuantizeArgs) -> Result<()> {
    convert::check(&args.to, Format::Gguf)?;
    let mut opened = args.model.load()?;
    opened.model.merge()?;
    let tokenizer = args.model.tokenizer(&opened)?;
    let corpus = match (&args.data, &tokenizer) {
        (Some(data), Some(tokenizer)) => Some(eval::corpus(data, tokenizer)?),
        (Some(_), None) => return Err(opened.no_tokenizer()),
        (None, _) => None,
    };
    let perplexity = |model: &MambaLm| -> Result<Option<f64>> {
        let read = corpus
            .as_ref()
            .map(|corpus| eval::whole(model, &args.to, corpus));
        Ok(read.transpose()?.map(|read| read.tokens.mean().exp()))
    };
    let before = perplexity(&opened.model)?;
    let encoding = |name: &str| args.encoding_of(name);
    convert::write(&opened, tokenizer, &args.to, Format::Gguf, &encoding)?;
    let written = Checkpoint::open(&args.to, &Options::default())?;
    let bytes = [opened.checkpoint.bytes()?, written.bytes()?];
    let tensors = written.errors(&opened.model)?;
    drop(opened);
    let after = match before {
        Some(_) => perplexity(&written.load_to_infer(ToInfer::default())?)?,
        None => None,
    };
    let report = Report {
        bytes,
        perplexity: before.zip(after),
        tensors,
    };
    match args.json {
        true => {
            let mut value = report.json();
            value["model"] = args.model.place.path.to_string_lossy().into();
            value["to"] = args.to.to_string_lossy().into();
            value["data"] = args.data.clone().into();
            say(&value.to_string())
        }
        false => say(&format!(
            "{}\n{}",
            one_line(&args.to.display().to_string()),
            report.text()
        )),
    }
}

/// What quantising changed.
struct Report {
    /// Before and after.
    bytes: [u64; 2],
    perplexity: Option<(f64, f64)>,
    tensors: Vec<TensorError>,
}

impl Report {
    fn bits_per_weight(&self) -> [f64; 2] {
        let values: usize = self.tensors.iter().map(|tensor| tensor.values).sum();
        self.bytes
            .map(|bytes| 8.0 * bytes as f64 / values.max(1) as f64)
    }

    fn worst(&self) -> Vec<&TensorError> {
        let rounded = self.tensors.iter().filter(|tensor| tensor.relative != 0.0);
        let mut worst: Vec<_> = rounded.collect();
        worst.sort_by(|one, other| other.relative.total_cmp(&one.relative));
        worst.truncate(WORST);
        worst
    }

    fn json(&self) -> Value {
        let ([before, after], [bits_before, bits_after]) = (self.bytes, self.bits_per_weight());
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
        let [before, after] = self.bytes.map(|bytes| grouped(bytes as usize));
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
            row([
                one_line(&tensor.name),
                encoding,
                format!("{:.2e}", tensor.relative),
            ])
        }));
        format!("{}\n{}", aligned(table.iter()), aligned(worst.iter()))
    }
}
