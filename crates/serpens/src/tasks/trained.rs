//! Trained models and the story of their training.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serpens_core::files::{Accept, read_bytes};
use serpens_nn::MambaLm;
use serpens_report::{LineChart, Series};
use serpens_train::{Evaluation, StepMetrics};

use crate::Result;

/// A trained model and the story of its training.
pub(crate) struct Trained<M = MambaLm> {
    pub(crate) name: &'static str,
    pub(crate) model: M,
    /// Of the model as it is, where its training ended now.
    pub(crate) evaluation: Option<Evaluation>,
    pub(crate) steps: Vec<StepMetrics>,
    pub(crate) evaluations: Vec<EvaluationLine>,
}

/// An evaluation among the lines of metrics.
#[derive(Debug, Deserialize)]
pub(crate) struct EvaluationLine {
    pub(crate) step: u64,
    pub(crate) evaluation: BTreeMap<String, f64>,
}

impl<M> Trained<M> {
    /// The model with what its file of metrics tells.
    pub(crate) fn new(
        name: &'static str,
        model: M,
        evaluation: Option<Evaluation>,
        metrics: &Path,
    ) -> Result<Self> {
        let text = read_bytes(metrics, Accept::Files, u64::MAX)?;
        Ok(Self {
            name,
            model,
            evaluation,
            steps: lines(&text),
            evaluations: lines(&text),
        })
    }

    /// A figure of the model's evaluation, where it has one.
    pub(super) fn evaluated(&self, name: &str) -> Option<f64> {
        let figures = &self.evaluation.as_ref()?.values;
        let figure = figures.iter().find(|(known, _)| known == name);
        figure.map(|(_, value)| *value)
    }
}

/// The lines of this kind.
fn lines<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Vec<T> {
    let lines = text.split(|&byte| byte == b'\n');
    let lines = lines.filter_map(|line| serde_json::from_slice(line).ok());
    lines.collect()
}

/// A value of every step, for each model.
pub(crate) fn series<M>(
    trained: &[Trained<M>],
    value: impl Fn(&StepMetrics) -> f64,
) -> Vec<Series> {
    let of = |model: &Trained<M>| Series {
        name: model.name.to_owned(),
        points: (model.steps.iter())
            .map(|line| (line.step as f64, value(line)))
            .collect(),
        ..Series::default()
    };
    trained.iter().map(of).collect()
}

/// A chart of models, over steps unless it says otherwise.
pub(crate) fn chart(title: &str, y_label: &str, series: Vec<Series>) -> LineChart {
    LineChart {
        title: title.into(),
        x_label: "step".into(),
        y_label: y_label.into(),
        series,
        ..LineChart::default()
    }
}
