//! Records that are asked for by name.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};

/// Other names that a message has.
const FEW: usize = 3;

/// Names of records, each with whether it was seen.
#[derive(Default)]
pub(crate) struct Asked {
    names: BTreeMap<String, bool>,
    /// The first other ones.
    others: Vec<String>,
}

impl Asked {
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().map(|name| (name, false)).collect();
        let others = Vec::new();
        Self { names, others }
    }

    /// Sees a record of this name, or a stretch of one, `name:FROM-TO`: whether it is asked for.
    pub(crate) fn see(&mut self, mut name: &str) -> bool {
        loop {
            if let Some(seen) = self.names.get_mut(name) {
                *seen = true;
                return true;
            }
            match of_stretch(name) {
                Some(record) => name = record,
                None => break,
            }
        }
        if self.others.len() < FEW && self.others.iter().all(|other| other != name) {
            self.others.push(name.to_owned());
        }
        false
    }

    /// Refuses names that were asked for in this place and not seen.
    pub(crate) fn check(&self, place: &Path) -> Result<()> {
        let Some((name, _)) = self.names.iter().find(|(_, seen)| !**seen) else {
            return Ok(());
        };
        let seen = self.names.iter().filter(|(_, seen)| **seen);
        let all = seen.map(|(name, _)| name).chain(&self.others);
        let there: Vec<String> = all.take(FEW).map(|name| format!("`{name}`")).collect();
        let wrong = match there.is_empty() {
            true => format!("nothing that is read is of a record `{name}`: correct the name"),
            false => format!(
                "nothing that is read is of a record `{name}`, but of {} for example: correct the name",
                there.join(", ")
            ),
        };
        Err(Error::of_content(place, "", wrong))
    }
}

/// The name of the record that `name:FROM-TO` is a stretch of; `TO` is missing where more of it follows.
pub(crate) fn of_stretch(name: &str) -> Option<&str> {
    let (record, stretch) = name.rsplit_once(':')?;
    let (from, to) = stretch.split_once('-')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (!from.is_empty() && is_number(from) && is_number(to)).then_some(record)
}
