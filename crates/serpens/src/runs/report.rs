//! The report of a run.

use serpens_report::{LineChart, Report, SelectionMap};

use super::Run;
use crate::Result;
use crate::compute;
use crate::machine;
use crate::output::{command_line, duration};
use crate::selection::{Sample, selection_map};
use crate::tasks::{Results, Showcase};
use crate::trained::{Trained, chart, series};

impl Run {
    pub(super) fn report(&self, trained: &[Trained], results: &Results) -> Result<Report> {
        let mut figures: Vec<LineChart> = results.figure.clone().into_iter().collect();
        figures.extend(self.task.curves(trained));
        let speed = series(trained, |line| line.tokens_per_second);
        figures.push(chart("Speed", "tokens per second", speed));
        let Showcase { sample, texts } = self.task.showcase(trained)?;
        let path = self.folder.path.display();
        Ok(Report {
            title: format!("{}: {path}", self.recipe.task.name()),
            summary: results.sentence.clone(),
            date: machine::now(),
            figures,
            tables: vec![results.table.clone()],
            maps: maps(trained, &sample)?,
            texts,
            command: command_line(),
            machine: self.facts(trained),
            config_toml: self.recipe.to_toml(),
        })
    }

    /// Where it was computed, and how long that took.
    fn facts(&self, trained: &[Trained]) -> Vec<(String, String)> {
        let mut facts = machine::facts();
        facts.extend(compute::facts(&self.compute));
        facts.extend(trained.iter().map(|model| {
            let time = duration(model.seconds());
            (format!("training {}", model.name), time)
        }));
        facts
    }
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
