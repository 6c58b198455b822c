//! Reading recipes with errors that name the nearest key.

use toml::{Table, Value};

use super::{BUILT_IN, Recipe};
use crate::refusal::{Refusal, first_line};
use crate::{Error, Result};

/// The most similar of `known`, if there are any.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let similarity = |candidate: &&str| strsim::jaro_winkler(name, candidate);
    let known = known.into_iter();
    let nearest = known.max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    nearest.map(str::to_owned)
}

pub(super) fn read(origin: &str, text: &str, changes: &[String]) -> Result<Recipe> {
    let explain_text = |error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        explain(format!("{origin}, line {line}"), error)
    };
    // The text by itself first: its errors have a line.
    let mut recipe = toml::from_str(text).map_err(explain_text)?;
    let mut table: Table = toml::from_str(text).map_err(explain_text)?;
    for change in changes {
        let origin = format!("--set {change}");
        apply(&mut table, change).map_err(|wrong| Error::refused(&origin, wrong))?;
        let changed = table.clone().try_into();
        recipe = changed.map_err(|e| explain(origin, e))?;
    }
    Ok(recipe)
}

/// Sets the value at a path of keys joined by dots.
fn apply(mut table: &mut Table, change: &str) -> Result<(), Refusal> {
    let (path, value) = change.split_once('=').ok_or(Refusal::NoValue)?;
    let mut keys = path.trim().split('.');
    let last = keys.next_back().unwrap_or_default();
    for key in keys {
        let below = table.entry(key).or_insert_with(|| Table::new().into());
        table = below.as_table_mut().ok_or(Refusal::NoTable)?;
    }
    table.insert(last.to_owned(), parse_value(value.trim()));
    Ok(())
}

/// A TOML value; what is none is taken as a string.
fn parse_value(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn explain(origin: String, source: toml::de::Error) -> Error {
    let wrong = unknown_name(first_line(&source));
    Error::refused(origin, wrong.unwrap_or_else(|| Box::new(source).into()))
}

/// An unknown name in a deserialiser's message, with the nearest of those it expected.
fn unknown_name(message: &str) -> Option<Refusal> {
    let what = match message {
        _ if message.starts_with("unknown field") => "key",
        _ if message.starts_with("unknown variant") => "value",
        _ => return None,
    };
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = quoted.next()?;
    let nearest = nearest(key, quoted)?;
    let other_table = (what == "key").then(|| elsewhere(key)).flatten();
    Some(Refusal::Unknown {
        what,
        key: key.to_owned(),
        nearest: other_table.unwrap_or(nearest),
    })
}

/// The whole path of a key that exists, but in another table than where it was given.
fn elsewhere(key: &str) -> Option<String> {
    BUILT_IN.iter().find_map(|(_, text)| {
        let recipe: Recipe = toml::from_str(text).ok()?;
        find(&Table::try_from(recipe).ok()?, "", key)
    })
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
