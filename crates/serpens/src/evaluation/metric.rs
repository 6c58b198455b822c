//! How good answers are, by the formulas of lm-evaluation-harness.

use serde::Deserialize;
use serpens_infer::Score;

use super::Question;

/// What is told of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// The share of questions whose right choice has the largest log-probability; of single targets, of those all of
    /// whose tokens are the most probable ones.
    Acc,
    /// The same of log-probabilities divided by how many characters the choices have.
    AccNorm,
    /// The same by bytes.
    AccBytes,
    /// exp(−mean log-probability of the right target).
    Perplexity,
}

impl Metric {
    /// Its name in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Metric::Acc => "acc",
            Metric::AccNorm => "acc_norm",
            Metric::AccBytes => "acc_bytes",
            Metric::Perplexity => "perplexity",
        }
    }

    /// What a question adds to the mean.
    pub(crate) fn of(self, question: &Question, scores: &[Score]) -> f64 {
        let length: fn(&str) -> usize = match (self, scores) {
            (Metric::Perplexity, _) => return scores[question.gold].log_prob(),
            (_, [only]) => return only.is_greedy().into(),
            (Metric::Acc, _) => |_| 1,
            (Metric::AccNorm, _) => |choice| choice.chars().count(),
            (Metric::AccBytes, _) => str::len,
        };
        let each = scores.iter().zip(&question.choices);
        let each = each.map(|(score, choice)| score.log_prob() / length(choice) as f64);
        // Of equal ones the first.
        let best = each
            .enumerate()
            .rev()
            .max_by(|(_, a), (_, b)| a.total_cmp(b));
        best.is_some_and(|(i, _)| i == question.gold).into()
    }

    /// Its value over all questions, and its standard error where there are several: of a mean s/√n with
    /// s² = Σ(x − x̄)²/(n − 1), for a share √(p(1 − p)/(n − 1)); of a perplexity that of its logarithm times itself.
    pub(crate) fn figure(self, values: &[f64]) -> (f64, Option<f64>) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let stderr = (n > 1.0).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt());
        match self {
            Metric::Perplexity => ((-mean).exp(), stderr.map(|stderr| stderr * (-mean).exp())),
            _ => (mean, stderr),
        }
    }
}
