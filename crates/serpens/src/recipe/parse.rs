//! Reading recipes with errors that name the nearest key.

use toml::{Table, Value};

use super::{BUILT_IN, Recipe};
use crate::refusal::WrongChange;
use crate::{Error, Result};

/// The most similar of `known`.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let similarity = |candidate: &&str| strsim::jaro_winkler(name, candidate);
    known
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn read(origin: &str, text: &str, changes: &[String]) -> Result<Recipe> {
    // The text by itself first: its errors have a line.
    let checked: Result<Recipe, _> = toml::from_str(text);
    if let Err(error) = checked {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        return Err(explain(format!("{origin}, line {line}"), error));
    }
    let mut table: Table = toml::from_str(text).map_err(|e| explain(origin.into(), e))?;
    for change in changes {
        let origin = format!("--set {change}");
        apply(&mut table, change, &origin)?;
        let changed: Result<Recipe, toml::de::Error> = Value::Table(table.clone()).try_into();
        changed.map_err(|e| explain(origin, e))?;
    }
    Value::Table(table)
        .try_into()
        .map_err(|e| explain(origin.into(), e))
}

/// Sets the value at a path of keys joined by dots.
fn apply(table: &mut Table, change: &str, origin: &str) -> Result<()> {
    let refuse = |source| Error::Change {
        origin: origin.to_owned(),
        source,
    };
    let Some((path, value)) = change.split_once('=') else {
        return Err(refuse(WrongChange::NoValue));
    };
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().unwrap_or_default();
    let mut place = table;
    for key in keys {
        let next = place
            .entry(key.to_owned())
            .or_insert_with(|| Value::Table(Table::new()));
        place = next
            .as_table_mut()
            .ok_or_else(|| refuse(WrongChange::NoTable))?;
    }
    place.insert(last.to_owned(), parse_value(value.trim()));
    Ok(())
}

/// A TOML value; what is none is taken as a string.
fn parse_value(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Makes one line of a deserialiser's message; for unknown names, with the nearest of those it expected.
fn explain(origin: String, source: toml::de::Error) -> Error {
    let line = source.message().lines().next().unwrap_or_default();
    let quoted: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
    let what = match line {
        line if line.starts_with("unknown field") => "key",
        line if line.starts_with("unknown variant") => "value",
        _ => "",
    };
    match quoted.split_first() {
        Some((key, known)) if !what.is_empty() && !known.is_empty() => Error::UnknownKey {
            origin,
            what,
            key: (*key).to_owned(),
            nearest: Some(*key)
                .filter(|_| what == "key")
                .and_then(elsewhere)
                .unwrap_or_else(|| nearest(key, known.iter().copied())),
        },
        _ => Error::Recipe {
            origin,
            source: Box::new(source),
        },
    }
}

/// The whole path of a key that exists, but in another table than where it was given.
fn elsewhere(key: &str) -> Option<String> {
    let recipes = BUILT_IN.iter().map(|(_, text)| *text);
    let recipes = recipes.filter_map(|text| toml::from_str::<Recipe>(text).ok());
    let tables = recipes.filter_map(|recipe| Table::try_from(recipe).ok());
    tables.into_iter().find_map(|table| find(&table, "", key))
}

fn find(table: &Table, path: &str, key: &str) -> Option<String> {
    let here = |name: &str| format!("{path}{name}");
    if let Some((name, _)) = table.get_key_value(key) {
        return Some(here(name));
    }
    table.iter().find_map(|(name, value)| {
        let below = value.as_table()?;
        find(below, &format!("{}.", here(name)), key)
    })
}
