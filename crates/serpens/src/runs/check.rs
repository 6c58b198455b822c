//! Everything that can be refused before a run's folder is made.

use serpens_core::Device;
use serpens_data::Error as DataError;
use serpens_nn::mixers::MixerSettings;
use serpens_nn::ssm::SsmSettings;
use serpens_nn::{MambaLmConfig, Module, Recompute};
use serpens_train::{Compute, Error as TrainError};
use toml::Table;

use crate::output::OutputMode;
use crate::recipe::{Recipe, no_model};
use crate::refusal::Refusal;
use crate::tasks::kind::Kind;
use crate::tasks::{OpenTask, Task, TaskConfig};
use crate::{Error, Result, machine};

/// Bytes of a trained value: itself, its gradient and two moments, in f32.
const TRAINED_BYTES: u64 = 16;

/// The recipe's task, opened, where the recipe can be trained.
pub(crate) fn check(recipe: &Recipe, compute: &Compute) -> Result<OpenTask> {
    recipe.train.check()?;
    let (settings, tests) = (recipe.task.settings(), &recipe.evaluate);
    check_ranges(recipe)?;
    check_origin(recipe)?;
    let task = settings.open(recipe.seed, tests);
    let task = task.map_err(|error| named(&recipe.task, error))?;
    match &task {
        OpenTask::Writes(task) => check_task(&**task, recipe, compute)?,
        OpenTask::Answers(task) => check_task(&**task, recipe, compute)?,
    }
    Ok(task)
}

/// Refuses models that the task or the machine has no place for.
fn check_task<O: Kind>(task: &dyn Task<O>, recipe: &Recipe, compute: &Compute) -> Result<()> {
    if recipe.train.best.is_some() && task.validation("", OutputMode::Quiet).is_none() {
        return Err(TrainError::NoEvaluation.into());
    }
    if recipe.init.is_some() && O::reads_values(&task.head()) {
        return Err(Error::refused("--init", Refusal::InitOfTokens));
    }
    let (found, allowed) = (recipe.model.vocab_size, task.vocabulary());
    if !allowed.contains(&found) {
        let wrong = Refusal::Vocabulary { found, allowed };
        return Err(Error::refused("model.vocab_size", wrong));
    }
    let settings = recipe.task.settings();
    let tokens: f64 = settings.largest_batch().iter().map(|&n| n as f64).product();
    if let Some(twin) = &recipe.twin {
        twin.plan(1, 1).map_err(|error| error.within("twin"))?;
    }
    let lora = recipe.lora.clone();
    let trained = MambaLmConfig {
        lora,
        ..recipe.model.clone()
    };
    for model in recipe.twin_model().iter().chain([&trained]) {
        check_model::<O>(model, task.head(), tokens, recipe, compute)?;
    }
    Ok(())
}

/// Refuses what cannot be where a model is gone on from, or is not.
fn check_origin(recipe: &Recipe) -> Result<()> {
    let goes_on = recipe.init.is_some();
    let wrong = match recipe {
        _ if !goes_on && recipe.model == no_model() => ("model", Refusal::NoModel),
        _ if goes_on && recipe.twin.is_some() => ("twin", Refusal::TwinOfInit),
        _ if recipe.twin.is_some() && !recipe.model.has_ssm() => ("twin", Refusal::NothingToTwin),
        _ if recipe.model.lora.is_some() => ("model.lora", Refusal::NothingToAdapt),
        _ if !goes_on && recipe.lora.is_some() => ("lora", Refusal::NothingToAdapt),
        _ => return Ok(()),
    };
    Err(Error::refused(wrong.0, wrong.1))
}

/// Refuses counts that make no sense, or of which a run would not see the end.
fn check_ranges(recipe: &Recipe) -> Result<()> {
    let tests = &recipe.evaluate;
    let counts = [
        ("train.steps", recipe.train.steps, i64::MAX as u64),
        ("evaluate.samples", tests.samples as u64, 1_000_000),
        ("evaluate.rows", tests.rows as u64, 65_536),
        ("evaluate.chunk", tests.chunk as u64, 1_000_000),
        ("evaluate.tokens", tests.tokens as u64, i64::MAX as u64),
    ];
    let mut counts = counts.into_iter();
    counts.try_for_each(|(setting, found, most)| match 1..=most {
        allowed if allowed.contains(&found) => Ok(()),
        allowed => Err(Error::refused(setting, Refusal::Range { found, allowed })),
    })
}

/// The error with the key of the task's settings that it is about, or the option.
fn named(task: &TaskConfig, error: Error) -> Error {
    let Error::Data(error) = error else {
        return error;
    };
    let about = match &error {
        DataError::Size { name, .. } => *name,
        DataError::InvalidFraction { .. } => "validation",
        DataError::Labels(_) | DataError::Classes(..) => return Error::refused("--labels", error),
        DataError::NoGroup(..) | DataError::NothingToLearn(_) => "hold_out",
        _ => return Error::refused("--data", error),
    };
    let settings = Table::try_from(task).unwrap_or_default();
    let mut keys = settings.keys();
    match keys.find(|key| about.contains(*key) || key.starts_with(about)) {
        Some(key) => Error::refused(format!("task.{key}"), error),
        None => error.into(),
    }
}

/// Refuses models and batches that cannot be held in memory, and what would be frozen of a model but is not in it.
fn check_model<O: Kind>(
    model: &MambaLmConfig,
    head: O::Head,
    tokens: f64,
    recipe: &Recipe,
    compute: &Compute,
) -> Result<()> {
    let (device, mut plan) = (compute.device, O::plan(model, head)?);
    let [_, length] = recipe.task.settings().largest_batch();
    let tests = &recipe.evaluate;
    let longest = tests.lengths.iter().max().copied().unwrap_or_default();
    if model.positions > 0 && length.max(longest) > model.positions {
        let length = length.max(longest);
        let (found, allowed) = (model.positions as u64, length as u64..=u64::from(u32::MAX));
        return Err(Error::refused(
            "model.positions",
            Refusal::Range { found, allowed },
        ));
    }
    let multiple = model.multiple();
    if !length.is_multiple_of(multiple) {
        let wrong = Refusal::Uneven { length, multiple };
        return Err(Error::refused("task.length", wrong));
    }
    if device != Device::Cpu && !model.layer_mixers()?.iter().all(MixerSettings::on_gpu) {
        return Err(Error::refused("--device", Refusal::ProcessorAlone));
    }
    recipe.train.freeze(&mut plan)?;
    plan.check_memory(TRAINED_BYTES, device)?;
    // What is written at the end is read from a state, whose caches are there at once.
    let held = model.context().unwrap_or(1) as f64;
    let each = O::backbone(&plan).state_bytes()? / held;
    machine::check_fits("model.block (context)", held, each, device)?;
    let size = compute.precision.activations().size() as f64;
    let outputs = O::outputs(&plan) as f64;
    let kept = |recompute| size * (outputs + O::backbone(&plan).kept_per_token(recompute));
    machine::check_fits("task.batch", tokens, kept(compute.recompute), device)?;
    let read = tests.rows.min(tests.samples) as f64 * tests.chunk.min(longest) as f64;
    // Of what is read only, there are a layer's values at once.
    let each = kept(Recompute::None) / model.n_layer as f64;
    machine::check_fits("evaluate.rows × chunk", read, each, device)
}
