//! Everything that can be refused before a run's folder is made.

use serpens_nn::{MambaLmConfig, Module};
use serpens_train::Compute;

use crate::recipe::Recipe;
use crate::refusal::WrongSetting;
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
    let (found, allowed) = (recipe.model.vocab_size, settings.vocabulary());
    if !allowed.contains(&found) {
        let wrong = WrongSetting::Vocabulary { found, allowed };
        return Err(Error::setting("model.vocab_size", wrong));
    }
    let tokens: f64 = settings.largest_batch().iter().map(|&n| n as f64).product();
    for model in recipe.twin_model().iter().chain([&recipe.model]) {
        check_size(model, tokens, compute)?;
        check_start(model)?;
    }
    Ok(task)
}

fn check_tests(tests: &TestConfig) -> Result<()> {
    let sizes = [
        ("evaluate.samples", tests.samples),
        ("evaluate.rows", tests.rows),
        ("evaluate.chunk", tests.chunk),
    ];
    match sizes.into_iter().find(|(_, size)| *size == 0) {
        Some((setting, _)) => Err(Error::setting(setting, WrongSetting::Zero)),
        None => Ok(()),
    }
}

/// Refuses models and batches that cannot be held in memory.
fn check_size(model: &MambaLmConfig, tokens: f64, compute: &Compute) -> Result<()> {
    let (device, memory) = (compute.device, size::owner(compute.device));
    let plan = model.plan()?;
    let trained = TRAINED_BYTES * plan.count(|param| param.trained)? as f64;
    if !size::fits(trained, device) {
        return Err(Error::setting("model", WrongSetting::Model { memory }));
    }
    let kept = tokens * plan.kept_per_token(compute.recompute);
    match size::fits(kept * compute.precision.activations().size() as f64, device) {
        true => Ok(()),
        false => Err(Error::setting("task.batch", WrongSetting::Batch { memory })),
    }
}

/// Refuses models that would not begin with numbers.
fn check_start(model: &MambaLmConfig) -> Result<()> {
    if !(model.norm_eps.is_finite() && model.norm_eps >= 0.0) {
        return Err(Error::setting("model.norm_eps", WrongSetting::Negative));
    }
    let mut damaged = None;
    model.plan()?.visit("", &mut |name, param| {
        if !param.start.is_finite() {
            damaged.get_or_insert_with(|| name.to_owned());
        }
        Ok(())
    })?;
    match damaged {
        None => Ok(()),
        Some(parameter) => Err(Error::setting(
            "model.block",
            WrongSetting::Start { parameter },
        )),
    }
}
