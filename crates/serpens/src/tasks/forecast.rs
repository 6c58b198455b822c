//! Forecasts: tell the next rows of a series.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serpens_data::baseline::season;
use serpens_data::{
    Content, Numbers, Series, Source, Split, TableConfig, Tokenizer, columns, scaled,
};
use serpens_nn::{Answer, HeadConfig, Predictor};
use serpens_report::{Figure, LineChart, Series as Line, Table};
use serpens_train::{Deviation, Evaluation, Predict, Result as TrainResult, StepMetrics, evaluate};
use smart_default::SmartDefault;

use super::classify::read;
use super::kind::Answers;
use super::reads::{Named, Reads};
use super::selection::Sample;
use super::trained::{Trained, chart, series};
use super::{OpenTask, Results, Task, TaskSettings, TestConfig, Validation};
use crate::output::{OutputMode, counted, figure};
use crate::progress::Meter;
use crate::refusal::Refusal;
use crate::{Error, Result};

/// Rows of a series that its season is sought in.
const SEASON_ROWS: usize = 20_000;

/// Rows whose selection is shown.
const SHOWN: usize = 160;

/// Settings of the forecast task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct ForecastConfig {
    /// A CSV file, a folder of such or a glob: each is a series.
    pub data: Option<String>,
    /// How the tables are read.
    pub table: TableConfig,
    /// Rows that are told.
    #[default = 24]
    pub horizon: usize,
    /// Rows of a batch: windows.
    #[default = 16]
    pub batch: usize,
    /// Rows of a window.
    #[default = 192]
    pub length: usize,
    /// The share at the end of each series that is held out.
    #[default = 0.2]
    pub validation: f64,
    /// Rows after which a series repeats itself, for the baseline; sought in the data where this is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub season: Option<usize>,
}

impl TaskSettings for ForecastConfig {
    fn data(&mut self) -> Option<&mut Option<String>> {
        Some(&mut self.data)
    }

    fn largest_batch(&self) -> [usize; 2] {
        [self.batch, self.length]
    }

    fn open(&self, seed: u64, tests: &TestConfig) -> Result<OpenTask> {
        let Some(data) = &self.data else {
            return Err(Error::refused("--data", Refusal::NoData("forecast")));
        };
        let table = match Content::recognised(data)? {
            Content::Table(found) if self.table == TableConfig::default() => found,
            _ => self.table.clone(),
        };
        let files = Content::Table(table.clone()).files(data)?;
        let names = columns(&files[0], &table)?;
        // Of all files the same, in this order.
        let content = Content::Table(TableConfig {
            columns: names.clone(),
            ..table
        });
        let records = read(data, &content, &Tokenizer::bytes())?;
        let series = Series::new(records, self.length, self.horizon, self.validation)?;
        let most = (tests.tokens / self.length).max(1);
        let held_out = series.held_out(most);
        if held_out.is_empty() {
            return Err(Error::refused("task.validation", Refusal::NothingHeldOut));
        }
        let season = match self.season {
            Some(season) if !(2..=self.length).contains(&season) => {
                let (found, allowed) = (season as u64, 2..=self.length as u64);
                let wrong = Refusal::Range { found, allowed };
                return Err(Error::refused("task.season", wrong));
            }
            Some(season) => Some(season),
            None => found_season(&series, self.length)?,
        };
        Ok(OpenTask::Answers(Box::new(Forecast {
            source: Arc::new(series.source(self.batch, seed)?),
            reads: Reads {
                content,
                length: self.length,
                answers: Named::Columns {
                    names,
                    scale: series.scale().to_vec(),
                    horizon: self.horizon,
                },
            },
            settings: self.clone(),
            held_out,
            season,
            series,
        })))
    }
}

/// The season of the first series that has one, in what is learnt from.
fn found_season(series: &Series, most: usize) -> Result<Option<usize>> {
    for rows in series.learnt() {
        let rows = rows.start..rows.end.min(rows.start + SEASON_ROWS);
        let found = season(&series.values(rows)?, series.scale().len(), most);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

struct Forecast {
    settings: ForecastConfig,
    series: Series,
    /// Windows that models are tested on, with what comes after them.
    held_out: Vec<Range<usize>>,
    source: Arc<dyn Source>,
    season: Option<usize>,
    reads: Reads,
}

/// Errors of forecasts so many rows ahead, in standard deviations: of each, Σ |error| and Σ error².
struct Errors {
    name: String,
    sums: Vec<[f64; 2]>,
    count: f64,
}

impl Errors {
    fn new(name: impl Into<String>, horizon: usize) -> Self {
        Self {
            name: name.into(),
            sums: vec![[0.0; 2]; horizon],
            count: 0.0,
        }
    }

    /// Adds a forecast and what came. // (horizon, channels)
    fn add(&mut self, told: &[f32], came: &[f32], channels: usize) {
        let rows = told.chunks(channels).zip(came.chunks(channels));
        for ((told, came), [off, squared]) in rows.zip(&mut self.sums) {
            for (told, came) in told.iter().zip(came) {
                let error = f64::from(*told) - f64::from(*came);
                *off += error.abs();
                *squared += error * error;
            }
        }
        self.count += channels as f64;
    }

    /// The mean absolute error of each row ahead.
    fn each(&self) -> impl Iterator<Item = f64> + '_ {
        self.sums.iter().map(|[off, _]| off / self.count)
    }

    /// The mean absolute error, and the root of the mean squared one, over all of them.
    fn over_all(&self) -> [f64; 2] {
        let count = self.count * self.sums.len() as f64;
        let sum = |which: usize| self.sums.iter().map(|sums| sums[which]).sum::<f64>() / count;
        [sum(0), sum(1).sqrt()]
    }
}

impl Forecast {
    fn channels(&self) -> usize {
        self.series.scale().len()
    }

    /// A window in standard deviations, and what came behind it.
    fn scaled(&self, window: &Range<usize>) -> TrainResult<(Vec<f32>, Vec<f32>)> {
        let mut rows = self.series.values(window.clone())?;
        scaled(&mut rows, self.series.scale());
        let came = rows.split_off(self.settings.length * self.channels());
        Ok((rows, came))
    }

    /// The errors of a model, and its forecast behind the last window.
    fn tested(
        &self,
        name: &str,
        model: &Predictor,
        mode: OutputMode,
    ) -> TrainResult<(Errors, Vec<f32>)> {
        let (channels, length, horizon) =
            (self.channels(), self.settings.length, self.settings.horizon);
        let mut errors = Errors::new(name, horizon);
        let mut meter = Meter::new(mode, format!("{name}, held-out rows"), self.held_out.len());
        let mut last = Vec::new();
        for (number, windows) in self.held_out.chunks(self.settings.batch).enumerate() {
            meter.at(number * self.settings.batch)?;
            let (mut inputs, mut came) = (Vec::new(), Vec::new());
            for window in windows {
                let (rows, next) = self.scaled(window)?;
                inputs.extend(rows);
                came.push(next);
            }
            let all = evaluate::forecast(model, &inputs, [windows.len(), length, channels])?;
            for (told, came) in all.chunks(horizon * channels).zip(&came) {
                errors.add(told, came, channels);
                last = told.to_vec();
            }
        }
        Ok((errors, last))
    }

    /// The errors of what needs no model: the last row again, and the rows a season before.
    fn baselines(&self) -> Result<Vec<Errors>> {
        let (channels, length, horizon) =
            (self.channels(), self.settings.length, self.settings.horizon);
        let periods = [Some(("persistence".to_owned(), 1))];
        let seasonal = self.season.filter(|&season| season > 1 && season <= length);
        let seasonal = seasonal.map(|season| (format!("seasonal-naive, {season} rows"), season));
        let mut all = Vec::new();
        for (name, period) in periods.into_iter().chain([seasonal]).flatten() {
            let mut errors = Errors::new(name, horizon);
            for window in &self.held_out {
                let (rows, came) = self.scaled(window)?;
                let season = &rows[(length - period) * channels..];
                let told: Vec<f32> = season.iter().copied().cycle().take(came.len()).collect();
                errors.add(&told, &came, channels);
            }
            all.push(errors);
        }
        Ok(all)
    }

    /// The last window, what came, and what models told, of the first column as it is in the file.
    fn example(&self, told: &[(&str, Vec<f32>)]) -> Result<Option<LineChart>> {
        let (channels, length) = (self.channels(), self.settings.length);
        let Some(window) = self.held_out.last() else {
            return Ok(None);
        };
        let values = self.series.values(window.clone())?;
        let [mean, deviation] = self.series.scale()[0];
        let place = |row: usize| row as f64 - length as f64 + 1.0;
        let came = values.iter().step_by(channels).enumerate();
        let mut lines = vec![Line {
            name: "what came".into(),
            points: came
                .map(|(row, value)| (place(row), f64::from(*value)))
                .collect(),
            ..Line::default()
        }];
        lines.extend(told.iter().map(|(name, told)| {
            Line {
                name: (*name).to_owned(),
                points: told
                    .iter()
                    .step_by(channels)
                    .enumerate()
                    .map(|(ahead, value)| {
                        (place(length + ahead), f64::from(value * deviation + mean))
                    })
                    .collect(),
                ..Line::default()
            }
        }));
        let Named::Columns { names, .. } = &self.reads.answers else {
            return Ok(None);
        };
        Ok(Some(LineChart {
            marks: vec![("now".into(), 0.0)],
            x_label: "rows from the last one read".into(),
            caption: "The end of the held-out rows.".into(),
            ..chart(&format!("A forecast of {}", names[0]), &names[0], lines)
        }))
    }
}

impl Task<Predict> for Forecast {
    fn head(&self) -> Answers {
        Answers {
            channels: self.channels(),
            head: HeadConfig {
                answer: Answer::Values,
                outputs: self.settings.horizon * self.channels(),
                pooling: None,
                complement: Vec::new(),
            },
        }
    }

    fn objective(&self) -> Predict {
        Predict::default().by(Deviation::Absolute)
    }

    fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }

    fn about(&self) -> Option<String> {
        let data = self.settings.data.as_deref().unwrap_or_default();
        let rows = |split| self.series.rows(split) as u64;
        Some(format!(
            "{data}: {} of {} to learn from, {} held out",
            counted(rows(Split::Train), "row"),
            counted(self.channels() as u64, "column"),
            rows(Split::Validation),
        ))
    }

    fn save_beside(&self, dir: &Path) -> Result<()> {
        self.reads.save(dir)
    }

    fn sample(&self) -> Result<Option<Sample>> {
        let Some(window) = self.held_out.first() else {
            return Ok(None);
        };
        let (mut rows, _) = self.scaled(window)?;
        rows.truncate(SHOWN * self.channels());
        let about = "the first held-out rows".to_owned();
        let (read, bytes) = (Numbers::Values(rows), Tokenizer::bytes());
        Ok(Some(Sample::of(read, &bytes, self.channels(), about)))
    }

    fn validation(&self, name: &'static str, mode: OutputMode) -> Option<Validation<'_, Predict>> {
        (!self.held_out.is_empty()).then(|| -> Validation<'_, Predict> {
            Box::new(move |model| {
                let (errors, _) = self.tested(name, model, mode)?;
                let [mae, rmse] = errors.over_all();
                Ok(Evaluation {
                    values: vec![("mae".into(), mae), ("rmse".into(), rmse)],
                })
            })
        })
    }

    fn quality(&self, metrics: &StepMetrics) -> String {
        figure("mae", metrics.loss)
    }

    fn curves(&self, trained: &[Trained<Predictor>]) -> Vec<LineChart> {
        let loss = series(trained, |line| line.loss);
        vec![chart(
            "Error in training",
            "mean absolute error, standard deviations",
            loss,
        )]
    }

    fn test(&self, trained: &[Trained<Predictor>], mode: OutputMode) -> Result<Results> {
        let (mut all, mut examples) = (Vec::new(), Vec::new());
        for Trained { name, model, .. } in trained {
            let (errors, last) = self.tested(name, model, mode)?;
            all.push(errors);
            examples.push((*name, last));
        }
        all.extend(self.baselines()?);
        let lines = all.iter().map(|errors| Line {
            name: errors.name.clone(),
            points: errors
                .each()
                .enumerate()
                .map(|(i, error)| (i as f64 + 1.0, error))
                .collect(),
            ..Line::default()
        });
        let by_horizon = LineChart {
            x_label: "rows ahead".into(),
            ..chart(
                "Error against how far ahead",
                "mean absolute error, standard deviations",
                lines.collect(),
            )
        };
        let rows = all.iter().map(|errors| {
            let [mae, rmse] = errors.over_all();
            let each: Vec<f64> = errors.each().collect();
            let cells = [
                mae,
                rmse,
                each[0],
                each[each.len() / 2],
                each[each.len() - 1],
            ];
            let cells = cells.map(|value| format!("{value:.4}"));
            std::iter::once(errors.name.clone()).chain(cells).collect()
        });
        let horizon = self.settings.horizon;
        let ahead = |rows: usize| format!("MAE, {rows} ahead");
        let table = Table {
            title: "Held-out rows".into(),
            header: vec![
                "model".into(),
                "MAE".into(),
                "RMSE".into(),
                ahead(1),
                ahead(horizon / 2 + 1),
                ahead(horizon),
            ],
            rows: rows.collect(),
            caption: format!(
                "{} held out, {horizon} rows told behind each; errors in standard deviations of what was learnt from, averaged over the columns.",
                counted(self.held_out.len() as u64, "window"),
            ),
        };
        let outcomes: Vec<String> = table.rows.iter().map(|row| row[..2].join(" ")).collect();
        let charts = self.example(&examples)?.into_iter().chain([by_horizon]);
        Ok(Results {
            sentence: format!(
                "Mean absolute error on held-out rows, in standard deviations: {}.",
                outcomes.join(", ")
            ),
            figures: charts.map(Figure::from).collect(),
            table,
        })
    }
}
