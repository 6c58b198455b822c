//! `serpens data look`: what there is in files, before anything is learnt.

use std::path::Path;

use serde_json::json;
use serpens_data::{
    AudioForm, Content, Error as DataError, LabelledRecords, Numbers, Record, Records, Split,
    Tokenizer,
};
use serpens_report::grouped;

use crate::cli::LookArgs;
use crate::output::{aligned, counted, harmless, one_line, say};
use crate::tasks::read_records;
use crate::{Result, stop};

/// Records that are shown.
const SHOWN: usize = 5;
/// Classes that are shown.
const MOST_BARS: usize = 24;
/// Columns of a plot.
const COLUMNS: usize = 48;
/// The heights of its bars.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn run(args: &LookArgs) -> Result<()> {
    stop::listen();
    let mut content = Content::recognised(&args.data)?;
    if let Content::Audio(audio) = &mut content {
        audio.form = AudioForm::Values; // to be drawn
    }
    let tokenizer = Tokenizer::of(&content)?;
    let records = read_records(&args.data, &content, &tokenizer)?;
    let lengths = Lengths::of(&records);
    let shown: Vec<Vec<String>> = (records.all().iter().take(SHOWN))
        .map(|record| shown(&records, record, &tokenizer))
        .collect::<Result<_>>()?;
    let files = files(&records);
    let kind = content.name();
    let [shortest, median, longest] = lengths.quantiles();
    let (count, positions, channels) =
        (records.all().len(), records.positions(), records.channels());
    let plain = files == 1 || (count == files && !in_folders(&records));
    let classes = match args.labels.is_default() && plain {
        true => None,
        false => balance(records, args)?,
    };
    if args.json {
        return say(&json!({
            "kind": kind, "content": content, "files": files, "records": count, "positions": positions,
            "channels": channels, "length": { "shortest": shortest, "median": median, "longest": longest },
            "classes": classes.map(|classes| classes.into_iter().collect::<serde_json::Map<_, _>>()),
        })
        .to_string());
    }
    let each = match channels {
        0 => String::new(),
        channels => format!(" of {}", counted(channels as u64, "value")),
    };
    say(&format!(
        "{kind}: {}, {}, {}{each}",
        counted(files as u64, "file"),
        counted(count as u64, "record"),
        counted(positions as u64, content.unit()),
    ))?;
    say(&format!(
        "lengths {}: from {}, half of them up to {}, to {}",
        lengths.plot(),
        grouped(shortest),
        grouped(median),
        grouped(longest)
    ))?;
    if let Some(classes) = classes {
        say(&format!("\nclasses\n{}", bars(&classes)))?;
    }
    say(&format!("\nfirst records\n{}", aligned(shown.iter())))
}

/// How many files the records are of, which follow each other.
fn files(records: &Records) -> usize {
    let mut files: Vec<&Path> = records.all().iter().map(|record| &*record.file).collect();
    files.dedup();
    files.len()
}

/// Whether the files are in several folders, whose names may be labels.
fn in_folders(records: &Records) -> bool {
    let mut folders = records.all().iter().map(|record| record.file.parent());
    let first = folders.next();
    folders.any(|folder| Some(folder) != first)
}

/// The records of each class, as they would be labelled, if they are of classes.
fn balance(records: Records, args: &LookArgs) -> Result<Option<Vec<(String, serde_json::Value)>>> {
    let root = Path::new(&args.data);
    let labelled = match LabelledRecords::new(records, root, &args.labels, &[], 0.0) {
        Err(DataError::Classes(..)) if args.labels.is_default() => return Ok(None),
        labelled => labelled?,
    };
    let counts = labelled.counts(Split::Train);
    let classes = labelled.classes().iter().cloned();
    let mut classes: Vec<_> = classes
        .zip(counts.into_iter().map(|count| json!(count)))
        .collect();
    if !labelled.unlabelled().is_empty() {
        classes.push(("without a label".into(), json!(labelled.unlabelled().len())));
    }
    Ok(Some(classes))
}

/// A bar for each class.
fn bars(classes: &[(String, serde_json::Value)]) -> String {
    let count = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
    let counts = classes.iter().map(|(_, value)| count(value));
    let most = counts.clone().max().unwrap_or_default().max(1);
    let row =
        |(name, value): &(String, _)| vec![harmless(name).into_owned(), grouped(count(value))];
    let rows: Vec<Vec<String>> = classes.iter().map(row).collect();
    let named = aligned(rows.iter());
    let lines = named.lines().zip(counts).map(|(named, count)| {
        let bar = (count * COLUMNS as u64).div_ceil(most);
        format!("{named}  {}", "█".repeat(bar as usize))
    });
    let more = classes.len().saturating_sub(MOST_BARS);
    let more = (more > 0).then(|| format!("… and {more} more"));
    lines
        .take(MOST_BARS)
        .chain(more)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The lengths of records, sorted.
struct Lengths(Vec<usize>);

impl Lengths {
    fn of(records: &Records) -> Self {
        let mut lengths: Vec<usize> = records
            .all()
            .iter()
            .map(|one| one.positions.len())
            .collect();
        lengths.sort_unstable();
        Self(lengths)
    }

    fn quantiles(&self) -> [usize; 3] {
        let last = self.0.len() - 1;
        [0, last / 2, last].map(|place| self.0[place])
    }

    /// How many records there are of each length, on a scale of powers.
    fn plot(&self) -> String {
        const BINS: usize = 24;
        let [shortest, _, longest] = self.quantiles();
        let [low, high] = [shortest, longest].map(|length| (length.max(1) as f64).ln());
        let mut bins = [0.0_f32; BINS];
        for length in &self.0 {
            let place = ((*length).max(1) as f64).ln() - low;
            let place = place / (high - low).max(1e-9) * BINS as f64;
            bins[(place as usize).min(BINS - 1)] += 1.0;
        }
        drawn(&bins.map(|count| count.sqrt())) // few are to be seen beside many
    }
}

/// Values as bars between the least and the largest.
fn drawn(values: &[f32]) -> String {
    let least = values.iter().copied().fold(f32::MAX, f32::min);
    let largest = values.iter().copied().fold(f32::MIN, f32::max);
    let steps = (BARS.len() - 1) as f32 / (largest - least).max(f32::MIN_POSITIVE);
    let bar = |value: &f32| BARS[(((value - least) * steps) as usize).min(BARS.len() - 1)];
    values.iter().map(bar).collect()
}

/// The cells of a record: its file, its name, its length, its beginning.
fn shown(records: &Records, record: &Record, tokenizer: &Tokenizer) -> Result<Vec<String>> {
    let positions = record.positions.clone();
    let beginning = positions.start..positions.end.min(positions.start + COLUMNS);
    let beginning = match records.read(beginning)? {
        Numbers::Ids(ids) => String::from_utf8_lossy(&tokenizer.decode(&ids)).into_owned(),
        Numbers::Values(values) => {
            let first = values.into_iter().step_by(records.channels());
            drawn(&first.collect::<Vec<_>>())
        }
    };
    let file = record
        .file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let cells = [
        file.into_owned(),
        record.name.clone(),
        grouped(positions.len()),
        beginning,
    ];
    Ok(cells.map(|cell| one_line(&harmless(&cell))).to_vec())
}
