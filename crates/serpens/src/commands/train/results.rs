//! Tests of trained models.

use serpens_data::{ByteCorpus, InductionHeads, SelectiveCopying, Split};
use serpens_report::{LineChart, Series, Table, grouped};
use serpens_train::evaluate;

use super::job::{PIECE, STREAMS, Trained};
use crate::Result;
use crate::output::{say, tell};
use crate::progress::OutputMode;
use crate::recipe::{Recipe, Task};

/// The end of a run: a table, and a figure where it helps.
pub(super) struct Results {
    pub(super) table: Table,
    pub(super) figure: Option<LineChart>,
    /// The outcome in a sentence.
    pub(super) sentence: String,
}

impl Results {
    /// The table for a terminal.
    pub(super) fn to_text(&self) -> String {
        let columns = self.table.header.len();
        let rows = || std::iter::once(&self.table.header).chain(&self.table.rows);
        let width = |i: usize| {
            let cells = rows().filter_map(|row| row.get(i));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let lines: Vec<String> = rows()
            .map(|row| {
                let cells = row.iter().zip(&widths);
                let cells: Vec<String> = cells.map(|(c, w)| format!("{c:>w$}")).collect();
                cells.join("  ")
            })
            .collect();
        format!("\n{}\n\n{}\n", lines.join("\n"), self.sentence)
    }
}

/// Tests every model; `go_on` is asked before each piece of work.
pub(super) fn test(
    recipe: &Recipe,
    trained: &[Trained],
    corpus: Option<&ByteCorpus>,
    mode: OutputMode,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Results> {
    match (&recipe.task, corpus) {
        (Task::InductionHeads(task), _) => {
            let task = InductionHeads::new(task.clone())?;
            induction(recipe, &task, trained, mode, go_on)
        }
        (Task::SelectiveCopying(task), _) => {
            let task = SelectiveCopying::new(task.clone())?;
            copying(recipe, &task, trained, go_on)
        }
        (Task::Text(_), Some(corpus)) => text(trained, corpus, go_on),
        (Task::Text(_), None) => unreachable!("a text task has opened its corpus"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn induction(
    recipe: &Recipe,
    task: &InductionHeads,
    trained: &[Trained],
    mode: OutputMode,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Results> {
    let Task::InductionHeads(config) = &recipe.task else {
        unreachable!("called for this task");
    };
    let longest = config.lengths.iter().copied().max().unwrap_or(0);
    let chance = 1.0 / (config.vocab - 1) as f64;
    let tests = &recipe.evaluate;
    let mut accuracies: Vec<Vec<f64>> = Vec::new();
    for model in trained {
        let mut row = Vec::new();
        for &length in &recipe.evaluate.lengths {
            go_on()?;
            let accuracy = {
                let batches = (0..tests.samples).step_by(tests.rows).enumerate();
                let batches = batches.map(|(index, drawn)| {
                    let rows = tests.rows.min(tests.samples - drawn);
                    task.evaluation_batch(rows, length, index as u64)
                });
                evaluate::accuracy(&model.model, batches, tests.chunk)?
            };
            announce(model.name, length, accuracy, mode)?;
            row.push(accuracy);
        }
        accuracies.push(row);
    }
    let names = trained.iter().map(|model| model.name.to_owned());
    let rows = recipe.evaluate.lengths.iter().enumerate();
    let table = Table {
        title: "Accuracy against length".into(),
        header: std::iter::once("length".to_owned()).chain(names).collect(),
        rows: rows
            .map(|(i, length)| {
                let cells = accuracies.iter().map(|row| percent(row[i]));
                std::iter::once(grouped(*length)).chain(cells).collect()
            })
            .collect(),
        caption: format!(
            "{} sequences of each length, read in pieces of {} with carried state. Trained at length {longest} or less; \
             answering at random is right in {}.",
            recipe.evaluate.samples,
            recipe.evaluate.chunk,
            percent(chance)
        ),
    };
    Ok(Results {
        sentence: induction_sentence(recipe, trained, &accuracies, longest),
        figure: Some(induction_figure(recipe, trained, &accuracies, chance)),
        table,
    })
}

/// One accuracy, as soon as it is known.
fn announce(model: &str, length: usize, accuracy: f64, mode: OutputMode) -> Result<()> {
    match mode {
        OutputMode::Terminal => {
            let length = grouped(length);
            tell(&format!("{model}: length {length}: {}", percent(accuracy)));
        }
        OutputMode::Json => {
            let event = serde_json::json!({
                "event": "tested", "model": model, "length": length, "accuracy": accuracy,
            });
            say(&event.to_string())?;
        }
        OutputMode::Quiet => {}
    }
    Ok(())
}

fn induction_sentence(
    recipe: &Recipe,
    trained: &[Trained],
    accuracies: &[Vec<f64>],
    longest: usize,
) -> String {
    let beyond: Vec<usize> = (0..recipe.evaluate.lengths.len())
        .filter(|&i| recipe.evaluate.lengths[i] > longest)
        .collect();
    if recipe.evaluate.lengths.is_empty() {
        return format!("Trained at length {longest} or less; evaluate.lengths names no tests.");
    }
    let (tested, place) = match beyond.is_empty() {
        true => ((0..recipe.evaluate.lengths.len()).collect(), "within it"),
        false => (beyond, "beyond it"),
    };
    let parts: Vec<String> = trained
        .iter()
        .zip(accuracies)
        .map(|(model, row)| {
            let far: Vec<f64> = tested.iter().map(|&i| row[i]).collect();
            let mean = far.iter().sum::<f64>() / far.len().max(1) as f64;
            let least = far.iter().copied().fold(1.0, f64::min);
            match least >= 0.99 {
                true => format!("{} answers right at every length tested", model.name),
                false => format!("{} is right in {}", model.name, percent(mean)),
            }
        })
        .collect();
    format!(
        "Trained at length {longest} or less; {place}, {}.",
        parts.join(", ")
    )
}

fn induction_figure(
    recipe: &Recipe,
    trained: &[Trained],
    accuracies: &[Vec<f64>],
    chance: f64,
) -> LineChart {
    let series = trained.iter().zip(accuracies).map(|(model, row)| Series {
        name: model.name.to_owned(),
        points: recipe
            .evaluate
            .lengths
            .iter()
            .zip(row)
            .map(|(length, accuracy)| (*length as f64, *accuracy))
            .collect(),
    });
    LineChart {
        title: "Accuracy against length".into(),
        x_label: "sequence length".into(),
        y_label: "accuracy, %".into(),
        x_log2: true,
        y_range: Some((0.0, 1.0)),
        series: series.collect(),
        reference_lines: vec![("chance".into(), chance)],
        ..LineChart::default()
    }
}

fn copying(
    recipe: &Recipe,
    task: &SelectiveCopying,
    trained: &[Trained],
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Results> {
    let batches = recipe.evaluate.samples as u64;
    let mut rows = Vec::new();
    for model in trained {
        go_on()?;
        let batches = (0..batches).map(|index| Ok(task.evaluation_batch(index)));
        let accuracy = evaluate::accuracy(&model.model, batches, PIECE)?;
        rows.push(vec![model.name.to_owned(), percent(accuracy)]);
    }
    let parts: Vec<String> = rows.iter().map(|r| format!("{} {}", r[0], r[1])).collect();
    Ok(Results {
        sentence: format!("Answers right: {}.", parts.join(", ")),
        figure: None,
        table: Table {
            title: "Accuracy on new sequences".into(),
            header: vec!["model".into(), "accuracy".into()],
            rows,
            caption: "The share of the data tokens that are repeated in their order.".into(),
        },
    })
}

fn text(
    trained: &[Trained],
    corpus: &ByteCorpus,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Results> {
    let mut rows = Vec::new();
    for model in trained {
        go_on()?;
        let bits = evaluate::bits_per_byte(
            &model.model,
            corpus.slices(Split::Validation, STREAMS, PIECE)?,
        )?;
        rows.push(vec![model.name.to_owned(), format!("{bits:.3}")]);
    }
    let parts: Vec<String> = rows.iter().map(|r| format!("{} {}", r[0], r[1])).collect();
    let held_out = grouped(corpus.split_bytes(Split::Validation));
    Ok(Results {
        sentence: format!("Bits per byte on held-out text: {}.", parts.join(", ")),
        figure: None,
        table: Table {
            title: "Held-out text".into(),
            header: vec!["model".into(), "bits per byte".into()],
            rows,
            caption: format!(
                "{held_out} bytes that training never saw, read in order with carried state."
            ),
        },
    })
}
