//! Everything that can be refused before a run's folder is made.

use serpens_data::{ByteCorpus, InductionHeads, InductionHeadsConfig, Split};
use serpens_nn::{MambaLmConfig, Module, Param};
use serpens_train::Compute;

use super::job::{self, PIECE, STREAMS};
use crate::recipe::{Recipe, Task};
use crate::{Error, Result, size};

/// Bytes of a trained value: itself, its gradient and two moments, in f32.
const TRAINED_BYTES: f64 = 16.0;

pub(super) fn check(recipe: &Recipe, compute: &Compute) -> Result<()> {
    recipe.train.check()?;
    let corpus = job::corpus(&recipe.task)?;
    let source = job::source(recipe, corpus.as_ref())?;
    check_task(recipe, corpus.as_ref())?;
    check_vocabulary(recipe, source.bounds().inputs)?;
    for model in recipe.twin_model().iter().chain([&recipe.model]) {
        check_size(model, tokens(&recipe.task), compute)?;
        check_start(model)?;
    }
    Ok(())
}

fn refuse<T>(setting: &str, reason: impl Into<String>) -> Result<T> {
    Err(Error::Recipe {
        origin: setting.to_owned(),
        reason: reason.into(),
    })
}

/// Settings that matter at the end of a run only.
fn check_task(recipe: &Recipe, corpus: Option<&ByteCorpus>) -> Result<()> {
    let tests = &recipe.evaluate;
    let sizes = [
        ("evaluate.samples", tests.samples),
        ("evaluate.rows", tests.rows),
        ("evaluate.chunk", tests.chunk),
    ];
    if let Some((setting, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
        return refuse(setting, "it must be at least 1");
    }
    match (&recipe.task, corpus) {
        (Task::InductionHeads(task), _) if !tests.lengths.is_empty() => {
            let tested = InductionHeads::new(InductionHeadsConfig {
                batch: tests.rows.min(tests.samples),
                lengths: tests.lengths.clone(),
                ..task.clone()
            });
            tested
                .map(drop)
                .or_else(|e| refuse("evaluate.lengths", e.to_string()))
        }
        (Task::Text(text), _) if text.prompt.is_empty() => {
            refuse("task.prompt", "it is empty; give at least one character")
        }
        (Task::Text(_), Some(corpus)) => {
            Ok(corpus.slices(Split::Validation, STREAMS, PIECE).map(drop)?)
        }
        _ => Ok(()),
    }
}

fn check_vocabulary(recipe: &Recipe, tokens: usize) -> Result<()> {
    let size = recipe.model.vocab_size;
    let is_text = matches!(recipe.task, Task::Text(_));
    if size < tokens || is_text && size != tokens {
        let least = if is_text { "" } else { "at least " };
        let reason =
            format!("it is {size}, the data has {tokens} tokens; set it to {least}{tokens}");
        return refuse("model.vocab_size", reason);
    }
    Ok(())
}

/// Tokens of the largest batch.
fn tokens(task: &Task) -> f64 {
    let (batch, length) = match task {
        Task::InductionHeads(task) => (
            task.batch,
            task.lengths.iter().copied().max().unwrap_or_default(),
        ),
        Task::SelectiveCopying(task) => (task.batch, task.length.saturating_add(task.data_tokens)),
        Task::Text(task) => (task.batch, task.length),
    };
    batch as f64 * length as f64
}

/// Refuses models and batches that cannot be held in memory.
fn check_size(model: &MambaLmConfig, tokens: f64, compute: &Compute) -> Result<()> {
    let (device, memory) = (compute.device, size::owner(compute.device));
    let plan = model.plan()?;
    if !size::fits(
        TRAINED_BYTES * plan.count(Param::is_trained)? as f64,
        device,
    ) {
        return refuse(
            "model",
            format!(
                "weights, gradients and moments alone exceed {memory}; lower d_model, n_layer or vocab_size"
            ),
        );
    }
    let kept = tokens * plan.kept_per_token(compute.recompute);
    if !size::fits(kept * compute.precision.activations().size() as f64, device) {
        return refuse(
            "task.batch",
            format!("a batch of this size exceeds {memory}; lower the batch or the length"),
        );
    }
    Ok(())
}

/// Refuses models that would not begin with numbers.
fn check_start(model: &MambaLmConfig) -> Result<()> {
    if !(model.norm_eps.is_finite() && model.norm_eps >= 0.0) {
        return refuse("model.norm_eps", "it must be 0 or above");
    }
    let mut damaged = None;
    model.plan()?.visit("", &mut |name, param| {
        if !param.start().is_finite() {
            damaged.get_or_insert_with(|| name.to_owned());
        }
        Ok(())
    })?;
    match damaged {
        None => Ok(()),
        Some(name) => refuse(
            "model.block",
            format!(
                "{name} would not begin with numbers; check the step sizes: 0 < dt.min <= dt.max"
            ),
        ),
    }
}
