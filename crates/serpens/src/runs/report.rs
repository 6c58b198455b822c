//! The report of a run.

use serpens_core::cuda;
use serpens_data::Error as DataError;
use serpens_report::{Figure, LineChart, Report, Scale};

use super::Run;
use crate::Result;
use crate::machine;
use crate::output::{duration, shell_word};
use crate::tasks::Results;
use crate::tasks::kind::Kind;
use crate::tasks::selection::{Sample, token_map};
use crate::tasks::trained::{Trained, chart, series};

/// Bytes of a text whose selection is shown: no more than fit the page, and can be read where it is printed.
const SHOWN: usize = 64;

impl<O: Kind> Run<O> {
    pub(super) fn report(
        &self,
        trained: &[Trained<O::Model>],
        results: &Results,
    ) -> Result<Report> {
        let mut figures = results.figures.clone();
        figures.extend(self.task.curves(trained).into_iter().map(Figure::from));
        let norm = series(trained, |line| line.grad_norm);
        figures.push(
            LineChart {
                y_scale: Scale::Log10,
                ..chart("Gradient norm", "norm before clipping", norm)
            }
            .into(),
        );
        // All models of a run have the same.
        let rate = series(&trained[..1], |line| line.lr.into());
        figures.push(chart("Learning rate", "learning rate", rate).into());
        let speed = series(trained, |line| line.tokens_per_second);
        figures.push(chart("Speed", "tokens per second", speed).into());
        let texts = self.task.texts(trained)?;
        let beginning = || {
            let (tokenizer, (_, text)) = self.task.tokenizer().zip(texts.first())?;
            let text = &text[..SHOWN.min(text.len())];
            let ids = tokenizer.encode(text); // where it reads bytes that are no text
            let ids = ids.or_else(|_| tokenizer.encode(String::from_utf8_lossy(text).as_bytes()));
            Some(ids.map(|ids| Sample::text(tokenizer, ids)))
        };
        let sample = match self.recipe.task.settings().sample()? {
            Some(sample) => Some(sample),
            None => match self.task.sample()? {
                Some(sample) => Some(sample),
                None => beginning().transpose().map_err(DataError::from)?,
            },
        };
        let mut maps = Vec::new();
        if let Some(sample) = sample {
            let fits = |one: &&Trained<O::Model>| {
                let context = O::config(&one.model).context();
                context.is_none_or(|most| sample.names.len() <= most)
            };
            for Trained { name, model, .. } in trained.iter().filter(fits) {
                let does = if O::config(model).has_ssm() {
                    "selects"
                } else {
                    "attends to"
                };
                let title = format!("What {name} {does}");
                maps.extend(
                    token_map::<O>(model, &sample, title, self.mode)?.map(|map| map.figure()),
                );
            }
        }
        let shown = texts.into_iter();
        let shown = shown.map(|(name, text)| (name, String::from_utf8_lossy(&text).into_owned()));
        let path = self.folder.path.display();
        Ok(Report {
            title: format!("{}: {path}", self.recipe.task.name()),
            summary: results.sentence.clone(),
            date: machine::now(),
            figures,
            tables: vec![results.table.clone()],
            maps,
            texts: shown.collect(),
            command: self.command(),
            machine: self.facts(trained),
            config_toml: self.recipe.to_toml(),
        })
    }

    /// What trains the same again, also where this run was gone on with.
    fn command(&self) -> String {
        let recipe = self.folder.settings();
        let (device, precision) = (self.compute.device, self.compute.precision);
        format!(
            "serpens train --recipe {} --device {device} --precision {precision}",
            shell_word(&recipe.to_string_lossy())
        )
    }

    /// Where it was computed, and how long that took.
    fn facts(&self, trained: &[Trained<O::Model>]) -> Vec<(String, String)> {
        let mut facts = machine::facts();
        let (device, precision) = (self.compute.device, self.compute.precision);
        facts.push(("computed".into(), format!("on {device} in {precision}")));
        let card = cuda::properties(device).ok();
        facts.extend(card.map(|card| ("GPU".into(), card.name.clone())));
        facts.extend(trained.iter().map(|model| {
            let seconds = model.steps.last().map_or(0.0, |line| line.seconds);
            (format!("training {}", model.name), duration(seconds))
        }));
        facts
    }
}
