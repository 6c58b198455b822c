//! From lines of data to what is scored.

use std::collections::BTreeSet;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use rayon::prelude::*;
use serde::Deserialize;
use serpens_core::files::{Accept, read_text};
use serpens_data::Tokenizer;
use serpens_infer::{Item, encode_pair};

use super::EvalTask;
use crate::refusal::Refusal;
use crate::{Error, Result};

/// What a line asks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    /// The line, from 1 on.
    pub(crate) line: usize,
    /// Where there is only one, it is a target by itself.
    pub(crate) choices: Vec<String>,
    /// Which of them is right.
    pub(crate) gold: usize,
    /// Of each choice, what is scored.
    pub(crate) items: Vec<Item>,
}

impl EvalTask {
    /// The first questions of a file, a line of JSON each; in a folder the file is the task's.
    pub(crate) fn questions(
        &self,
        data: &str,
        limit: Option<usize>,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Question>> {
        let mut data = Path::new(data).to_owned();
        if data.is_dir() {
            data.push(&self.data);
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_unknown_method_callback(unknown_method_callback);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.expect("they are the usual signs"));
        let named = self.fields(&environment);
        let named = named.map_err(|wrong| Error::refused(&self.name, wrong))?;
        let labels = self.labels.as_ref().map(|name| data.with_file_name(name));
        let labels = labels.map(|path| read_text(&path, Accept::Files));
        let labels = labels.transpose()?.unwrap_or_default();
        let labels: Vec<&str> = labels.lines().collect();
        let text = read_text(&data, Accept::Streams)?;
        let lines = (1..).zip(text.lines());
        let lines = lines.filter(|(_, text)| !text.trim().is_empty());
        let lines: Vec<_> = lines.take(limit.unwrap_or(usize::MAX)).collect();
        let question = |(line, text)| {
            let fields = fields(text, labels.get(line - 1).copied(), &named);
            let question = fields.and_then(|of| self.question(line, of, &environment, tokenizer));
            let place = || format!("{}, line {line}", data.display());
            question.map_err(|wrong| Error::refused(place(), wrong))
        };
        let questions: Vec<Result<_>> = lines.into_par_iter().map(question).collect();
        match questions.is_empty() {
            true => Err(Error::refused(data.to_string_lossy(), Refusal::NoQuestions)),
            false => questions.into_iter().collect(), // what is wrong first is told
        }
    }

    /// The fields that its templates and expressions name, all of which are well formed then.
    fn fields(&self, environment: &Environment<'_>) -> Result<BTreeSet<String>, Refusal> {
        let mut fields = BTreeSet::new();
        for template in [&self.context, &self.target] {
            let template = environment.template_from_str(template)?;
            fields.extend(template.undeclared_variables(false));
        }
        for expression in [&self.choices, &self.gold] {
            let expression = environment.compile_expression(expression)?;
            fields.extend(expression.undeclared_variables(false));
        }
        let known = environment.globals().map(|(name, _)| name);
        for known in known.chain(["choice"]) {
            fields.remove(known);
        }
        Ok(fields)
    }

    fn question(
        &self,
        line: usize,
        fields: Value,
        environment: &Environment<'_>,
        tokenizer: &Tokenizer,
    ) -> Result<Question, Refusal> {
        let value = |expression| environment.compile_expression(expression)?.eval(&fields);
        let choices: Vec<String> = Vec::deserialize(value(&self.choices)?).unwrap_or_default();
        if choices.is_empty() {
            return Err(Refusal::NoChoices);
        }
        let gold = place(value(&self.gold)?.to_string(), choices.len())?;
        let item = |choice: &String| {
            let fields = context! { choice, ..fields.clone() };
            let text = |template| environment.render_str(template, &fields);
            let item = encode_pair(tokenizer, &text(&self.context)?, &text(&self.target)?)?;
            match item.continuation.is_empty() {
                true => Err(Refusal::NoTarget),
                false => Ok(item),
            }
        };
        let items = choices.iter().map(item).collect::<Result<_, _>>()?;
        Ok(Question {
            line,
            choices,
            gold,
            items,
        })
    }
}

/// A line's fields and its label, all that are named among them.
fn fields(text: &str, label: Option<&str>, named: &BTreeSet<String>) -> Result<Value, Refusal> {
    let parsed = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(text);
    let mut fields = parsed.map_err(Refusal::NoObject)?;
    fields.extend(label.map(|label| ("label".to_owned(), label.into())));
    match named.iter().find(|&field| !fields.contains_key(field)) {
        Some(field) => Err(Refusal::NoField {
            field: field.clone(),
            found: fields.keys().cloned().collect(),
        }),
        None => Ok(Value::from(Serde(&fields))),
    }
}

/// The place that a number or a letter names.
fn place(found: String, choices: usize) -> Result<usize, Refusal> {
    let place = match found.trim().as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => found.trim().parse().ok(),
    };
    let place = place.filter(|&place| place < choices);
    place.ok_or(Refusal::Gold { found, choices })
}
