//! From lines of data to what is scored.

use std::collections::BTreeSet;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Expression, Template, UndefinedBehavior, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use rayon::prelude::*;
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
        let forms = Forms::new(self, &environment, tokenizer);
        let forms = forms.map_err(|wrong| Error::refused(&self.name, wrong))?;
        let labels = self.labels.as_ref().map(|name| data.with_file_name(name));
        let labels = labels.map(|path| read_text(&path, Accept::Files));
        let labels = labels.transpose()?.unwrap_or_default();
        let labels: Vec<&str> = labels.lines().collect();
        let text = read_text(&data, Accept::Streams)?;
        let lines = (1..).zip(text.lines());
        let lines = lines.filter(|(_, text)| !text.trim().is_empty());
        let lines: Vec<_> = lines.take(limit.unwrap_or(usize::MAX)).collect();
        let question = |(line, text)| {
            let question = forms.question(line, text, labels.get(line - 1).copied());
            let place = || format!("{}, line {line}", data.display());
            question.map_err(|wrong| Error::refused(place(), wrong))
        };
        let questions: Vec<Result<_>> = lines.into_par_iter().map(question).collect();
        match questions.is_empty() {
            true => Err(Error::refused(data.to_string_lossy(), Refusal::NoQuestions)),
            false => questions.into_iter().collect(), // what is wrong first is told
        }
    }
}

/// A task's templates and expressions, and the fields that they name.
struct Forms<'a> {
    tokenizer: &'a Tokenizer,
    context: Template<'a, 'a>,
    target: Template<'a, 'a>,
    choices: Expression<'a, 'a>,
    gold: Expression<'a, 'a>,
    fields: BTreeSet<String>,
}

impl<'a> Forms<'a> {
    fn new(
        task: &'a EvalTask,
        environment: &'a Environment<'a>,
        tokenizer: &'a Tokenizer,
    ) -> Result<Self, Refusal> {
        let context = environment.template_from_str(&task.context)?;
        let target = environment.template_from_str(&task.target)?;
        let choices = environment.compile_expression(&task.choices)?;
        let gold = environment.compile_expression(&task.gold)?;
        let texts = [&context, &target].map(|text| text.undeclared_variables(false));
        let values = [&choices, &gold].map(|value| value.undeclared_variables(false));
        let mut fields: BTreeSet<_> = texts.into_iter().chain(values).flatten().collect();
        for (known, _) in environment.globals().chain([("choice", Value::UNDEFINED)]) {
            fields.remove(known);
        }
        Ok(Self {
            tokenizer,
            context,
            target,
            choices,
            gold,
            fields,
        })
    }

    fn question(&self, line: usize, text: &str, label: Option<&str>) -> Result<Question, Refusal> {
        let parsed = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(text);
        let mut fields = parsed.map_err(Refusal::NoObject)?;
        fields.extend(label.map(|label| ("label".to_owned(), label.into())));
        if let Some(field) = self
            .fields
            .iter()
            .find(|&field| !fields.contains_key(field))
        {
            let (field, found) = (field.clone(), fields.keys().cloned().collect());
            return Err(Refusal::NoField { field, found });
        }
        let fields = Value::from(Serde(&fields));
        let choices = texts(&self.choices.eval(fields.clone())?)?;
        let gold = place(self.gold.eval(fields.clone())?.to_string(), choices.len())?;
        let item = |choice: &String| {
            let fields = context! { choice, ..fields.clone() };
            let (context, target) = (self.context.render(&fields)?, self.target.render(&fields)?);
            let item = encode_pair(self.tokenizer, &context, &target)?;
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

/// A list of texts.
fn texts(list: &Value) -> Result<Vec<String>, Refusal> {
    let texts: Option<Vec<String>> = match list.kind() {
        ValueKind::Seq => (list.try_iter()?)
            .map(|text| text.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    };
    texts
        .filter(|texts| !texts.is_empty())
        .ok_or(Refusal::NoChoices)
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
