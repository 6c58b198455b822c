//! Where labels come from.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::content::idx_labels;
use crate::corpus::of_stretch;
use crate::error::{Error, Result};
use crate::records::Record;

/// Where the labels of records come from, as it is written in a recipe:
///
/// - nothing: the folders, where every file is in one below that of the data, otherwise the files' names;
/// - `folder`: the name of the folder that the file is in;
/// - `file`: the file's name without what stands behind its first dot;
/// - a pattern with `{label}`, such as `{label}_{group}_*.wav`, for the file's name, or else for `FILE:RECORD`; `*` stands for anything;
/// - a file of labels as MNIST has it (`…idx1-ubyte`), for the images of one file;
/// - a path that ends in `.csv` or `.tsv`: a table with the columns `name` (of a file, with or without its folder or
///   ending, or of a record) and `label`, and, if it has one, `group`.
///
/// Records of a group are learnt from or held out together, such as the speakers of words. Where none is named, records
/// of one name are a group, as contigs are of which several files have a version; a file that is one record has its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Labels(String);

impl From<String> for Labels {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<Labels> for String {
    fn from(labels: Labels) -> String {
        labels.0
    }
}

/// A record's label and group.
pub(crate) type Labelled = (String, String);

impl Labels {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }

    /// Each record's label and group, where it has a label.
    pub(crate) fn of(&self, root: &Path, records: &[Record]) -> Result<Vec<Option<Labelled>>> {
        let own = |record: &Record| match whole(&record.name) {
            "" => name_of(&record.file),
            name => name.to_owned(),
        };
        let by = |label: &dyn Fn(&Path) -> Option<String>| {
            let labelled = |record: &Record| Some((label(&record.file)?, own(record)));
            Ok(records.iter().map(labelled).collect())
        };
        let folder = |path: &Path| Some(text(path.parent()?.file_name()?));
        let file = |path: &Path| Some(stem(&name_of(path)).to_owned());
        match &*self.0 {
            "" => {
                let folders: BTreeSet<_> = records.iter().map(|it| it.file.parent()).collect();
                let in_folders = match root.is_dir() {
                    true => !folders.contains(&Some(root)),
                    false => folders.len() > 1, // of a glob
                };
                match in_folders {
                    true => by(&folder),
                    false => by(&file),
                }
            }
            "folder" => by(&folder),
            "file" => by(&file),
            pattern if pattern.contains("{label}") => {
                let pattern = compiled(pattern)?;
                let labelled = |record: &Record| {
                    let file = name_of(&record.file);
                    let both = format!("{file}:{}", record.name);
                    let found = pattern.captures(&file);
                    let found = found.or_else(|| pattern.captures(&both))?;
                    let group = found.name("group").map(|group| group.as_str().to_owned());
                    Some((
                        found["label"].to_owned(),
                        group.unwrap_or_else(|| own(record)),
                    ))
                };
                Ok(records.iter().map(labelled).collect())
            }
            table if table.ends_with(".csv") || table.ends_with(".tsv") => {
                let table = Table::open(Path::new(table))?;
                let labelled = |record: &Record| {
                    let (label, group) = table.find(record)?;
                    let group = group.clone().unwrap_or_else(|| own(record));
                    Some((label.clone(), group))
                };
                Ok(records.iter().map(labelled).collect())
            }
            idx if idx.contains("idx1-ubyte") => {
                let labels = idx_labels(Path::new(idx))?;
                let labelled =
                    |(record, label): (&Record, u32)| Some((label.to_string(), own(record)));
                let images = records.len() == labels.len();
                let wrong = format!(
                    "it has {} labels for {} images: give those that belong together",
                    labels.len(),
                    records.len()
                );
                match images {
                    true => Ok(records.iter().zip(labels).map(labelled).collect()),
                    false => Err(Error::of_content(Path::new(idx), "", wrong)),
                }
            }
            other => Err(Error::Labels(other.to_owned())),
        }
    }
}

/// A record's name without the stretch of it that was cut out, as chr1 of chr1:1-100.
fn whole(name: &str) -> &str {
    of_stretch(name).unwrap_or(name)
}

fn text(name: &std::ffi::OsStr) -> String {
    name.to_string_lossy().into_owned()
}

fn name_of(path: &Path) -> String {
    path.file_name().map(text).unwrap_or_default()
}

fn stem(name: &str) -> &str {
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

/// The pattern as a regular expression with names.
fn compiled(pattern: &str) -> Result<Regex> {
    let escaped = regex::escape(pattern).replace("\\*", ".*");
    let escaped = escaped.replace("\\{label\\}", "(?<label>.+?)");
    let escaped = escaped.replace("\\{group\\}", "(?<group>.+?)");
    let compiled = Regex::new(&format!("(?s)^{escaped}$"));
    compiled.map_err(|_| Error::Labels(pattern.to_owned()))
}

/// A table of labels: by names, the label and the group.
struct Table(HashMap<String, (String, Option<String>)>);

impl Table {
    fn open(path: &Path) -> Result<Self> {
        let wrong = |error: csv::Error| {
            let line = error.position().map(|place| place.line());
            let place = line.map(|line| format!(", line {line}"));
            Error::of_content(path, place.unwrap_or_default(), error)
        };
        let tab = path.extension().is_some_and(|end| end == "tsv");
        let mut reader = csv::ReaderBuilder::new();
        let reader = reader.delimiter(if tab { b'\t' } else { b',' });
        let mut reader = reader.from_path(path).map_err(wrong)?;
        let header = reader.headers().map_err(wrong)?.clone();
        let column = |name: &str| header.iter().position(|column| column.trim() == name);
        let needed = |name: &str| {
            let missing = format!("there is no column `{name}`: its first line names the columns");
            column(name).ok_or_else(|| Error::of_content(path, ", line 1", missing))
        };
        let (name, label, group) = (needed("name")?, needed("label")?, column("group"));
        let mut table = HashMap::new();
        for row in reader.records() {
            let row = row.map_err(wrong)?;
            let cell = |column: usize| row.get(column).unwrap_or_default().trim().to_owned();
            // Without a label it is as if it were not there.
            if !cell(label).is_empty() && !cell(name).is_empty() {
                let group = group.map(cell).filter(|group| !group.is_empty());
                table.insert(cell(name), (cell(label), group));
            }
        }
        Ok(Self(table))
    }

    /// The entry of a record: by its own name, or by its file's, the longest first.
    fn find(&self, record: &Record) -> Option<&(String, Option<String>)> {
        let path = record.file.to_string_lossy();
        let folders = path.match_indices('/').map(|(at, _)| &path[at + 1..]);
        let file = name_of(&record.file);
        let mut names = [whole(&record.name), &path].into_iter().chain(folders);
        names
            .find_map(|name| self.0.get(name))
            .or_else(|| self.0.get(stem(&file)))
            .or_else(|| self.0.get(&*record.file.file_stem()?.to_string_lossy()))
    }
}
