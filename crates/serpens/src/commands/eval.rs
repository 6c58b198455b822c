//! `serpens eval`.

use std::f64::consts::LN_2;
use std::path::Path;

use serde_json::{Value, json};
use serpens_core::files::{check_writable, is_same, write_bytes};
use serpens_data::{Corpus, Split, Tokenizer};
use serpens_infer::{Item, Score, Scores, score};
use serpens_nn::MambaLm;
use serpens_report::grouped;
use serpens_train::evaluate::{self, TextTotals};

use crate::cli::EvalArgs;
use crate::evaluation::{EvalTask, Metric, Question};
use crate::output::{OutputMode, aligned, counted, say, significant, tell};
use crate::progress::Meter;
use crate::refusal::{Refusal, WrongModel};
use crate::runs::models::Opened;
use crate::tasks::{READ_LENGTH, Reads};
use crate::{Error, Result};

/// What is told to programs and to people.
type Told = (Value, Vec<Vec<String>>);

pub(super) fn run(args: &EvalArgs) -> Result<()> {
    let how = args.infer.resolve()?;
    let of_text = args.task_file.is_empty() && args.tasks == ["perplexity"];
    let of_questions = args.limit.is_some() || args.items.is_some();
    if (of_text && of_questions) || (!of_text && args.window.is_some()) {
        return Err(Error::refused("TASK", Refusal::TextOrTasks));
    }
    let named = args.tasks.iter().filter(|_| !of_text);
    let named = named.map(|name| EvalTask::named(name));
    let own = args.task_file.iter().map(|file| EvalTask::open(file));
    let tasks = named.chain(own).collect::<Result<Vec<_>>>()?;
    if let Some(items) = &args.items
        && items.exists()
        && (items.extension() != Some("jsonl".as_ref()) || is_same(items, Path::new(&args.data)))
    {
        return Err(Error::refused("--items", Refusal::Exists(items.clone())));
    }
    args.items.as_deref().map(check_writable).transpose()?;
    let (opened, tokenizer) = args.model.load_with_tokenizer(how)?;
    let (mut value, table) = match of_text {
        true => text(args, &opened, &tokenizer)?,
        false => answers(args, &tasks, &opened, &tokenizer)?,
    };
    value["model"] = args.model.place.path.to_string_lossy().into();
    match args.json {
        true => say(&value.to_string()),
        false => say(&aligned(table.iter())),
    }
}

/// The text in `data`, or what else the model reads, to be evaluated.
pub(super) fn corpus(data: &str, model: &Opened, tokenizer: &Tokenizer) -> Result<Corpus> {
    let content = Reads::content_of(model.checkpoint.folder())?;
    let go_on = &mut |_, _| Ok::<_, Error>(());
    let corpus =
        Corpus::open(data, &content, tokenizer, &[], go_on)?.with_validation_fraction(1.0)?;
    match corpus.tokens() {
        0 | 1 => Err(Error::refused("--data", Refusal::NothingToPredict)),
        _ => Ok(corpus),
    }
}

/// How well the model in `path` predicts a text, each token from all before it in its document; of a model with
/// caches, in windows of what they hold.
pub(super) fn whole(model: &MambaLm, path: &Path, corpus: &Corpus) -> Result<TextTotals> {
    let mut shown = meter(&reach(model), corpus);
    let slices = corpus.slices(Split::Validation, 1, window_of(model))?;
    let whole = evaluate::text(model, slices, &mut |done| shown.at(done))?;
    if !whole.tokens.sum.is_finite() {
        return Err(Error::wrong_model(path, WrongModel::NotFinite));
    }
    match whole.bytes {
        0 => Err(Error::refused("--data", Refusal::NothingToPredict)),
        _ => Ok(whole),
    }
}

/// What each token is predicted from.
fn reach(model: &MambaLm) -> String {
    match model.config().caches() {
        true => format!("windows of {}", grouped(window_of(model))),
        false => "its whole document".to_owned(),
    }
}

/// Tokens that are read at a time.
fn window_of(model: &MambaLm) -> usize {
    model.config().context().unwrap_or(READ_LENGTH)
}

fn meter(name: &str, corpus: &Corpus) -> Meter {
    Meter::new(OutputMode::Terminal, name.to_owned(), corpus.tokens())
}

/// How well a text is predicted, each token from all before it, and from those of its window.
fn text(args: &EvalArgs, opened: &Opened, tokenizer: &Tokenizer) -> Result<Told> {
    let (model, corpus) = (&opened.model, corpus(&args.data, opened, tokenizer)?);
    let whole = whole(model, &opened.path, &corpus)?;
    let mut readings = vec![("whole", reach(model), whole.tokens)];
    if let Some(length) = args.window {
        let name = format!("fixed windows of {}", grouped(length));
        let mut shown = meter(&name, &corpus);
        let windows = corpus.slices(Split::Validation, 1, length)?;
        let read = evaluate::answers(model, windows, READ_LENGTH, &mut |done| shown.at(done))?;
        readings.push(("windows", name, read));
    }
    let mut value = json!({
        "data": args.data,
        "tokens": whole.tokens.count,
        "bytes": whole.bytes,
        "window": args.window,
    });
    const FIGURES: [&str; 3] = ["bits per byte", "bits per token", "perplexity"];
    let header = ["each token from", "tokens"].into_iter().chain(FIGURES);
    let mut table: Vec<Vec<String>> = vec![header.map(str::to_owned).collect()];
    for (key, name, read) in readings {
        let (all, mean) = (read.sum / LN_2, read.mean());
        let figures = [all / whole.bytes as f64, mean / LN_2, mean.exp()];
        for (name, figure) in FIGURES.into_iter().zip(figures) {
            value[key][name.replace(' ', "_")] = figure.into();
        }
        let name = vec![name, grouped(read.count)];
        table.push([name, figures.map(shown).to_vec()].concat());
    }
    Ok((value, table))
}

/// How questions are answered.
fn answers(
    args: &EvalArgs,
    tasks: &[EvalTask],
    opened: &Opened,
    tokenizer: &Tokenizer,
) -> Result<Told> {
    let header = ["task", "questions", "metric", "value", "±"];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    let (mut values, mut lines) = (Vec::new(), String::new());
    for task in tasks {
        let name = &task.name;
        let questions = task.questions(&args.data, args.limit, tokenizer)?;
        let items: Vec<Item> = questions.iter().flat_map(|q| &q.items).cloned().collect();
        let mut meter = Meter::new(OutputMode::Terminal, name.clone(), items.len());
        let watch = &mut |done| drop(meter.at(done));
        let Scores { items, asked, read } = score(&opened.model, None, &items, watch)?;
        drop(meter);
        if items.iter().any(|score| score.log_prob().is_nan()) {
            return Err(Error::wrong_model(&opened.path, WrongModel::NotFinite));
        }
        let scored = by_question(&questions, &items);
        let mut metrics = json!({});
        for metric in &task.metrics {
            let added = scored
                .iter()
                .map(|(question, own)| metric.of(question, own));
            let (figure, stderr) = metric.figure(&added.collect::<Vec<_>>());
            metrics[metric.name()] = json!({ "value": figure, "stderr": stderr });
            let cells = [
                name.clone(),
                grouped(questions.len()),
                metric.name().into(),
                shown(figure),
                stderr.map_or_else(String::new, shown),
            ];
            table.push(cells.to_vec());
        }
        values.push(json!({
            "task": name,
            "questions": questions.len(),
            "metrics": metrics,
            "tokens": { "asked": asked, "read": read },
        }));
        lines.extend(
            scored
                .iter()
                .map(|(question, own)| line(task, question, own)),
        );
        if !args.json && read < asked {
            let (read, asked) = (grouped(read), counted(asked as u64, "token"));
            let saved = "what choices have in common was read once";
            tell(&format!("{name}: read {read} of {asked}, as {saved}"));
        }
    }
    if let Some(path) = &args.items {
        write_bytes(path, lines)?;
    }
    Ok((json!({ "data": args.data, "tasks": values }), table))
}

/// The scores of each question's items.
fn by_question<'a>(
    questions: &'a [Question],
    mut scores: &'a [Score],
) -> Vec<(&'a Question, &'a [Score])> {
    let own = |question: &'a Question| {
        let (own, later) = scores.split_at(question.items.len());
        scores = later;
        (question, own)
    };
    questions.iter().map(own).collect()
}

/// Four decimals, unless the number is large.
fn shown(figure: f64) -> String {
    match figure < 1e3 {
        true => format!("{figure:.4}"),
        false => significant(figure),
    }
}

/// How a question was answered, as a line of JSON.
fn line(task: &EvalTask, question: &Question, scores: &[Score]) -> String {
    let mut line = json!({
        "task": task.name,
        "line": question.line,
        "gold": question.gold,
        "log_probs": scores.iter().map(Score::log_prob).collect::<Vec<_>>(),
        "greedy": scores.iter().map(Score::is_greedy).collect::<Vec<_>>(),
    });
    let metrics = task.metrics.iter();
    for metric in metrics.filter(|&&metric| metric != Metric::Perplexity) {
        line[metric.name()] = metric.of(question, scores).into();
    }
    format!("{line}\n")
}
