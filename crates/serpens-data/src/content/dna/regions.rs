//! Regions of records: BED.

use std::collections::BTreeMap;
use std::path::Path;

use serpens_core::files::{Accept, read_text};

use crate::error::{Error, Result};

/// What is read of a record, from 0 on, without its end.
pub(super) struct Region {
    pub from: u64,
    pub to: u64,
    /// The line that says where it ends.
    pub line: usize,
}

/// Regions of each record, in order and apart.
pub(super) type Regions = BTreeMap<String, Vec<Region>>;

/// Reads a BED file.
pub(super) fn read(path: &str) -> Result<Regions> {
    let path = Path::new(path);
    let mut all = Regions::new();
    for (line, text) in (1..).zip(read_text(path, Accept::Files)?.lines()) {
        let mut columns = text.split_whitespace();
        let name = match columns.next() {
            None | Some("track" | "browser") => continue,
            Some(name) if name.starts_with('#') => continue,
            Some(name) => name,
        };
        let mut place = || columns.next()?.parse::<u64>().ok();
        let (Some(from), Some(to)) = (place(), place()) else {
            let wrong =
                "this is no region: write a record's name, its begin (from 0 on) and its end";
            return Err(Error::of_content(path, format!(", line {line}"), wrong));
        };
        if from >= to {
            let wrong = "this region ends before or where it begins: correct it";
            return Err(Error::of_content(path, format!(", line {line}"), wrong));
        }
        let regions = all.entry(name.to_owned()).or_default();
        regions.push(Region { from, to, line });
    }
    for regions in all.values_mut() {
        regions.sort_by_key(|region| region.from);
        regions.dedup_by(|next, last| {
            let overlaps = next.from < last.to;
            if overlaps && next.to > last.to {
                (last.to, last.line) = (next.to, next.line);
            }
            overlaps
        });
    }
    match all.is_empty() {
        true => Err(Error::of_content(
            path,
            "",
            "it has no regions: write some, or leave it out",
        )),
        false => Ok(all),
    }
}
