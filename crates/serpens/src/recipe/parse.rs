//! Reading recipes with errors that name the nearest key, or all choices.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use serpens_nn::mixers::MixerConfig;

use super::{BUILT_IN, MODELS, Recipe};
use crate::refusal::Refusal;
use crate::{Error, Result};

/// More keys than any path in a recipe has.
const DEEPEST: usize = 16;

/// What `none` leaves out.
const OPTIONAL: [&str; 5] = ["twin", "lora", "model.layers", "train.stop", "train.best"];

/// How alike, of 1, two names are of which one is meant by the other.
const ALIKE: f64 = 0.8;

/// The most similar of `known`, if one is similar.
fn nearest(name: &str, known: &[String]) -> Option<String> {
    let similarity = |known: &String| strsim::jaro_winkler(name, known);
    let known = known.iter().map(|known| (similarity(known), known));
    let nearest = known.max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest
        .filter(|(alike, _)| *alike >= ALIKE)
        .map(|(_, known)| known.clone())
}

/// Reads the text of a TOML file, which comes from `origin`.
pub(crate) fn from_toml<T: DeserializeOwned>(origin: &str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        let wrong = unknown_name(&error, "").unwrap_or_else(|| Box::new(error).into());
        Error::refused(format!("{origin}, line {line}"), wrong)
    })
}

pub(super) fn read(origin: &str, text: &str, changes: &[String]) -> Result<Recipe> {
    // The text by itself first: its errors have a line.
    let mut recipe = from_toml(origin, text)?;
    let mut table: Table = from_toml(origin, text)?;
    for change in changes {
        let changed = apply(&mut table, change);
        recipe = changed.map_err(|wrong| Error::refused(format!("--set {change}"), wrong))?;
    }
    Ok(recipe)
}

/// Sets the value at a path of keys, and gives the recipe of it.
fn apply(table: &mut Table, change: &str) -> Result<Recipe, Refusal> {
    let (path, value) = change.split_once('=').ok_or(Refusal::NoValue)?;
    let (path, value) = (path.trim(), value.trim());
    if path.is_empty() || path.split('.').count() > DEEPEST {
        return Err(Refusal::NoValue);
    }
    // What is no value of TOML is a text.
    let text = || Value::String(value.to_owned());
    let is_none = value == "none" && OPTIONAL.contains(&path);
    let parsed = || value.parse().unwrap_or_else(|_| text());
    match (path, (!is_none).then(parsed)) {
        ("model", Some(Value::String(name))) => set_model(table, &name)?,
        (_, value) => set(table, path, value)?,
    }
    let recipe = table.clone().try_into();
    recipe.map_err(|error| match unknown_name(&error, path) {
        Some(Refusal::Unknown {
            what: "key", key, ..
        }) if !change.contains(&key) => Refusal::Displaced {
            key,
            path: path.to_owned(),
        },
        Some(wrong) => wrong,
        None => {
            // Where a name is expected, what was given is none of them.
            let named = set(table, path, Some(text())).ok();
            let no_name = named.and_then(|()| table.clone().try_into::<Recipe>().err());
            let wrong = no_name.and_then(|no_name| unknown_name(&no_name, path));
            let wrong =
                wrong.filter(|wrong| matches!(wrong, Refusal::Unknown { what: "value", .. }));
            wrong.unwrap_or_else(|| Box::new(error).into())
        }
    })
}

/// Sets or removes the value at a path of keys joined by dots. Of a list of tables that of a kind is named by it.
fn set(table: &mut Table, path: &str, value: Option<Value>) -> Result<(), Refusal> {
    let Some((key, rest)) = path.split_once('.') else {
        match value {
            Some(value) => table.insert(path.to_owned(), value),
            None => table.remove(path),
        };
        return Ok(());
    };
    // Letters bring in kinds that are not among the tables.
    let by_letters = table.contains_key("layers");
    let below = table.entry(key).or_insert_with(|| Table::new().into());
    let kinds = MixerConfig::all().map(|mixer| mixer.kind().1);
    let kind = rest.split_once('.').map(|(kind, _)| kind);
    if by_letters && below.is_table() && kind.is_some_and(|kind| kinds.contains(&kind)) {
        *below = Value::Array(vec![below.clone()]);
    }
    match below {
        Value::Table(below) => set(below, rest, value),
        Value::Array(list) => set_of_kind(list, by_letters, rest, value),
        _ => Err(Refusal::NoTable),
    }
}

/// The same below the table of a kind, which is named first; a new one where there is none and there may be.
fn set_of_kind(
    list: &mut Vec<Value>,
    may_be_new: bool,
    path: &str,
    value: Option<Value>,
) -> Result<(), Refusal> {
    let (kind, rest) = path.split_once('.').ok_or(Refusal::NoKind)?;
    let is_of = |below: &Value| below.get("kind").and_then(Value::as_str) == Some(kind);
    if may_be_new && !list.iter().any(is_of) {
        list.push(Table::from_iter([("kind".to_owned(), kind.into())]).into());
    }
    let below = list.iter_mut().find(|below| is_of(below));
    let below = below.and_then(Value::as_table_mut);
    set(below.ok_or(Refusal::NoKind)?, rest, value)
}

/// Takes what a built-in model says for what the recipe says of its own; what it leaves open stays as it is.
fn set_model(table: &mut Table, name: &str) -> Result<(), Refusal> {
    let Some((_, text)) = MODELS.iter().find(|(known, _)| *known == name) else {
        let known = MODELS.map(|(known, _)| known.to_owned()).to_vec();
        return Err(Refusal::Unknown {
            what: "model",
            nearest: nearest(name, &known),
            key: name.to_owned(),
            known,
        });
    };
    let built_in: Table = text.parse().expect("a built-in model is a table");
    let model = table.entry("model").or_insert_with(|| Table::new().into());
    let model = model.as_table_mut().ok_or(Refusal::NoTable)?;
    for other in ["block", "layers", "positions"] {
        model.remove(other);
    }
    model.extend(built_in);
    Ok(())
}

/// An unknown name in a deserialiser's message, with those it expected where it was given, at a path if that is known.
fn unknown_name(error: &toml::de::Error, path: &str) -> Option<Refusal> {
    let message = error.message(); // a name in it may have ends of lines
    let what = match message {
        _ if message.starts_with("unknown field") => "key",
        _ if message.starts_with("unknown variant") => "value",
        _ => return None,
    };
    let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
    let key = quoted.next()?;
    let known: Vec<String> = quoted.collect();
    // Of values there are few enough to name them all.
    let here = [path, &format!("{path}.{key}")];
    let elsewhere = || elsewhere(&key).filter(|found| !here.contains(&found.as_str()));
    let similar = (what == "key").then(|| elsewhere().or_else(|| nearest(&key, &known)));
    Some(Refusal::Unknown {
        what,
        nearest: similar.flatten(),
        key,
        known,
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
