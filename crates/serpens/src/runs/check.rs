//! Everything that can be refused before a run's folder is made.

use serpens_nn::{MambaLmConfig, Module, Param};
use serpens_train::Compute;

use crate::recipe::Recipe;
use crate::tasks::{Task, TestConfig};
use crate::{Error, Result, size};

/// Bytes of a trained value: itself, its gradient and two moments, in f32.
const TRAINED_BYTES: f64 = 16.0;

/// The recipe's task, opened, where the recipe can be trained.
pub(crate) fn check(recipe: &Recipe, compute: &Compute) -> Result<Box<dyn Task>> {
    recipe.train.check()?;
    check_tests(&recipe.evaluate)?;
    let settings = recipe.task.settings();
    let task = settings.open(recipe.seed, &recipe.evaluate)?;
    let (size, allowed) = (recipe.model.vocab_size, settings.vocabulary());
    if !allowed.contains(&size) {
        let (start, end) = allowed.into_inner();
        let least = if start == end { "" } else { "at least " };
        let reason = format!("it is {size}, the data has {start} tokens; set it to {least}{start}");
        return refuse("model.vocab_size", reason);
    }
    let tokens: f64 = settings.largest_batch().iter().map(|&n| n as f64).product();
    for model in recipe.twin_model().iter().chain([&recipe.model]) {
        check_size(model, tokens, compute)?;
        check_start(model)?;
    }
    Ok(task)
}

fn refuse<T>(setting: &str, reason: impl Into<String>) -> Result<T> {
    Err(Error::Recipe {
        origin: setting.to_owned(),
        reason: reason.into(),
    })
}

fn check_tests(tests: &TestConfig) -> Result<()> {
    let sizes = [
        ("evaluate.samples", tests.samples),
        ("evaluate.rows", tests.rows),
        ("evaluate.chunk", tests.chunk),
    ];
    match sizes.into_iter().find(|(_, size)| *size == 0) {
        Some((setting, _)) => refuse(setting, "it must be at least 1"),
        None => Ok(()),
    }
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
