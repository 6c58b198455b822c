//! The report of a run.

use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serpens_data::{InductionHeads, SelectiveCopying};
use serpens_ops::sample::{SampleOptions, Sampler};
use serpens_report::{LineChart, Report, SelectionMap, Series};
use serpens_train::Compute;

use super::job::Trained;
use super::results::Results;
use crate::commands::generate::continue_text;
use crate::output::command_line;
use crate::recipe::{Recipe, Task};
use crate::selection::{Sample, selection_map};
use crate::{Result, machine};

/// Bytes of a sample of text.
const SAMPLE_BYTES: usize = 600;
/// Tokens of a selection map.
const MAP_LENGTH: usize = 64;

pub(super) fn report(
    recipe: &Recipe,
    dir: &Path,
    trained: &[Trained],
    results: &Results,
    compute: &Compute,
) -> Result<Report> {
    let mut figures: Vec<LineChart> = results.figure.clone().into_iter().collect();
    figures.extend(curves(recipe, trained));
    let (maps, texts) = match &recipe.task {
        Task::Text(text) => {
            let sample = sample_of_text(trained, &text.prompt)?;
            let shown: String = sample.chars().take(MAP_LENGTH + 32).collect();
            let maps = maps(trained, &Sample::text(&shown))?;
            (maps, vec![("A sample".to_owned(), sample)])
        }
        Task::InductionHeads(task) => {
            let task = InductionHeads::new(task.clone())?;
            (
                maps(trained, &Sample::induction(&task, MAP_LENGTH)?)?,
                vec![],
            )
        }
        Task::SelectiveCopying(task) => {
            let task = SelectiveCopying::new(task.clone())?;
            (maps(trained, &Sample::copying(&task))?, vec![])
        }
    };
    Ok(Report {
        title: format!("{}: {}", recipe.task_name(), dir.display()),
        summary: results.sentence.clone(),
        date: machine::now(),
        figures,
        tables: vec![results.table.clone()],
        maps,
        texts,
        command: command_line(),
        machine: super::machine_facts(trained, compute),
        config_toml: recipe.to_toml(),
    })
}

/// Training curves: bits per byte for texts, accuracy and loss for tasks.
fn curves(recipe: &Recipe, trained: &[Trained]) -> Vec<LineChart> {
    let series = |value: fn(&super::job::StepLine) -> f64| -> Vec<Series> {
        let of = |model: &Trained| Series {
            name: model.name.to_owned(),
            points: model
                .steps
                .iter()
                .map(|l| (l.step as f64, value(l)))
                .collect(),
        };
        trained.iter().map(of).collect()
    };
    let chart = |title: &str, y_label: &str, series: Vec<Series>| LineChart {
        title: title.into(),
        x_label: "step".into(),
        y_label: y_label.into(),
        series,
        ..LineChart::default()
    };
    let speed = chart(
        "Speed",
        "tokens per second",
        series(|line| line.tokens_per_second),
    );
    if let Task::Text(_) = recipe.task {
        let mut all = series(|line| line.loss / std::f64::consts::LN_2);
        all.iter_mut()
            .for_each(|s| s.name = format!("{} training", s.name));
        for model in trained {
            let points = model.evaluations.iter().filter_map(|line| {
                let bits = line.evaluation.get("bits_per_byte")?;
                Some((line.step as f64, *bits))
            });
            all.push(Series {
                name: format!("{} held out", model.name),
                points: points.collect(),
            });
        }
        return vec![chart("Bits per byte", "bits per byte", all), speed];
    }
    let accuracy = LineChart {
        y_range: Some((0.0, 1.0)),
        ..chart(
            "Accuracy in training",
            "accuracy, %",
            series(|line| line.accuracy),
        )
    };
    let loss = LineChart {
        y_log: true,
        ..chart("Loss in training", "loss, nats", series(|line| line.loss))
    };
    vec![accuracy, loss, speed]
}

/// The selection map of each selective model.
fn maps(trained: &[Trained], sample: &Sample) -> Result<Vec<SelectionMap>> {
    let mut maps = Vec::new();
    for model in trained {
        if let Some(mut map) = selection_map(&model.model, sample)? {
            map.title = format!("What {} selects", model.name);
            maps.push(map);
        }
    }
    Ok(maps)
}

/// Text that the trained model writes.
fn sample_of_text(trained: &[Trained], prompt: &str) -> Result<String> {
    let Some(model) = trained.first() else {
        return Ok(String::new());
    };
    let mut sampler = Sampler::new(SampleOptions {
        temperature: 0.8,
        top_p: 0.95,
        ..SampleOptions::default()
    })?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut bytes = Vec::new();
    continue_text(&model.model, prompt.as_bytes(), SAMPLE_BYTES, |logits| {
        let byte = sampler.sample(logits, &[], &mut rng)? as u8;
        bytes.push(byte);
        Ok(Some(byte))
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
