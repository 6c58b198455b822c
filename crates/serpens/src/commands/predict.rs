//! `serpens predict`: the answers of a model for new files.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use serpens_core::files::write_atomically;
use serpens_data::{Numbers, Record, Records, Tokenizer, scaled, windows};
use serpens_nn::checkpoint::Verify;
use serpens_nn::{Module, Predictor};
use serpens_train::{evaluate, go_on};

use crate::cli::PredictArgs;
use crate::hub::HubArgs;
use crate::output::unless_gone;
use crate::refusal::Refusal;
use crate::runs::models::{load, model_path};
use crate::stop::{self, STOP};
use crate::tasks::{Named, Reads};
use crate::{Error, Result};

/// Windows that are read side by side.
const ROWS: usize = 16;

pub(super) fn run(args: &PredictArgs) -> Result<()> {
    let compute = args.compute.resolve()?;
    stop::listen();
    let dir = model_path(&args.model, &HubArgs::default())?;
    let mut model: Predictor = load(&dir, Verify::Digests)?;
    let reads = Reads::open(&dir)?;
    model.to(compute.device, compute.precision)?;
    let tokenizer = Tokenizer::find(&dir)?.unwrap_or_else(Tokenizer::bytes);
    let asked = Asked {
        model,
        reads,
        tokenizer,
    };
    asked.reads.check(&dir, asked.model.config())?;
    let files = asked.reads.content.files(&args.data)?;
    match &args.out {
        Some(path) => write_atomically(path, |file| {
            asked.tell(&files, &mut BufWriter::new(file), args.json)
        }),
        None => asked.tell(&files, &mut io::stdout().lock(), args.json),
    }
}

/// A model with what it reads.
struct Asked {
    model: Predictor,
    reads: Reads,
    tokenizer: Tokenizer,
}

impl Asked {
    /// Writes the answers for all records of these files, file by file.
    fn tell(&self, files: &[PathBuf], out: &mut dyn Write, json: bool) -> Result<()> {
        let names = self.names();
        let header = names.iter().map(|name| json!(name)).collect();
        let mut out = Lines { names, out, json };
        if !json && !out.put(header)? {
            return Ok(());
        }
        for path in files {
            let path = path.to_string_lossy();
            let watch = &mut |_, _| Ok::<_, Error>(go_on(&STOP)?);
            let records = Records::open(&path, &self.reads.content, &self.tokenizer, watch)?;
            for record in records.all() {
                for line in self.answers(&records, record)? {
                    if !out.put(line)? {
                        return Ok(());
                    }
                }
            }
        }
        unless_gone(out.out.flush()).map(drop)
    }

    /// The names of the columns.
    fn names(&self) -> Vec<String> {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut names: Vec<String> = of(&["file", "record"]);
        match &self.reads.answers {
            Named::Tokens => {}
            Named::Classes(classes) => {
                names.extend::<Vec<_>>(of(&["label", "probability"]));
                names.extend(classes.iter().map(|class| format!("p({class})")));
            }
            Named::Columns { names: columns, .. } => {
                names.push("ahead".to_owned());
                names.extend_from_slice(columns);
            }
        }
        names
    }

    /// What is answered for a record: a line, or one for each row that is told.
    fn answers(&self, records: &Records, record: &Record) -> Result<Vec<Vec<Value>>> {
        let rows = match &self.reads.answers {
            Named::Tokens => Vec::new(),
            Named::Classes(classes) => vec![self.class(classes, records, record)?],
            Named::Columns { scale, horizon, .. } => self.rows(scale, *horizon, records, record)?,
        };
        let named = rows.into_iter().map(|row| {
            let file = json!(record.file.to_string_lossy());
            [file, json!(record.name)].into_iter().chain(row).collect()
        });
        Ok(named.collect())
    }

    /// The most probable class, its probability, and those of all, averaged over the record's windows.
    fn class(&self, classes: &[String], records: &Records, record: &Record) -> Result<Vec<Value>> {
        let windows: Vec<_> = windows(&record.positions, self.reads.length).collect();
        let mut sums = vec![0.0; classes.len()];
        for windows in windows.chunks(ROWS) {
            go_on(&STOP)?;
            let batch = records.batch(windows, self.reads.length)?;
            let outputs = evaluate::outputs(&self.model, &batch)?;
            let mut answered = outputs.chunks(classes.len());
            for window in windows {
                let logits = answered.next().expect("each window is answered");
                if window.len() < self.reads.length {
                    answered.next(); // what its row is filled with
                }
                let largest = logits.iter().copied().fold(f32::MIN, f32::max);
                let odds: Vec<f64> = logits
                    .iter()
                    .map(|x| f64::from(x - largest).exp())
                    .collect();
                let all: f64 = odds.iter().sum();
                sums.iter_mut()
                    .zip(odds)
                    .for_each(|(sum, odds)| *sum += odds / all);
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= windows.len() as f64);
        let best = (0..sums.len())
            .max_by(|a, b| sums[*a].total_cmp(&sums[*b]))
            .unwrap_or_default();
        let probabilities = sums.iter().map(|p| json!(rounded(*p)));
        Ok([json!(classes[best]), json!(rounded(sums[best]))]
            .into_iter()
            .chain(probabilities)
            .collect())
    }

    /// The rows that come next, as they would be in the file.
    fn rows(
        &self,
        scale: &[[f32; 2]],
        horizon: usize,
        records: &Records,
        record: &Record,
    ) -> Result<Vec<Vec<Value>>> {
        let (channels, length) = (scale.len(), self.reads.length);
        let rows = record.positions.clone();
        if rows.len() < length || records.channels() != channels {
            let (rows, columns) = (rows.len(), records.channels());
            let wrong = Refusal::Rows {
                rows,
                columns,
                length,
                channels,
            };
            return Err(Error::refused(record.file.display().to_string(), wrong));
        }
        let Numbers::Values(mut values) = records.read(rows.end - length..rows.end)? else {
            return Ok(Vec::new());
        };
        scaled(&mut values, scale);
        let told = evaluate::forecast(&self.model, &values, [1, length, channels])?;
        let row = |(ahead, row): (usize, &[f32])| {
            let values = row.iter().zip(scale);
            let values = values.map(|(value, [mean, deviation])| json!(value * deviation + mean));
            std::iter::once(json!(ahead + 1)).chain(values).collect()
        };
        debug_assert_eq!(told.len(), horizon * channels);
        Ok(told.chunks(channels).enumerate().map(row).collect())
    }
}

/// Enough digits of a probability.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Where lines go, as CSV or as JSON.
struct Lines<'a> {
    names: Vec<String>,
    out: &'a mut dyn Write,
    json: bool,
}

impl Lines<'_> {
    /// Writes a line; false once nobody reads any more.
    fn put(&mut self, line: Vec<Value>) -> Result<bool> {
        let line = match self.json {
            true => {
                let line: Map<String, Value> = self.names.iter().cloned().zip(line).collect();
                format!("{}\n", Value::Object(line)).into_bytes()
            }
            false => {
                let cells = line.iter().map(|value| match value {
                    Value::String(text) => quoted(text),
                    other => other.to_string(),
                });
                format!("{}\n", cells.collect::<Vec<_>>().join(",")).into_bytes()
            }
        };
        unless_gone(self.out.write_all(&line))
    }
}

/// A cell of a table, quoted where it has to be (RFC 4180).
fn quoted(cell: &str) -> String {
    match cell.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}
