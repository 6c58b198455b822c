//! `serpens train`: from its arguments to a run.

use std::io::ErrorKind;

use serpens_core::files::Accept;
use serpens_nn::MambaLm;
use serpens_train::{Changes, Compute, newest_checkpoint};
use toml::Value;

use crate::cli::TrainArgs;
use crate::output::OutputMode;
use crate::recipe::{Recipe, built_in, located};
use crate::refusal::Refusal;
use crate::runs::models::{ModelPlace, Opened};
use crate::runs::{Run, RunFolder, Setup, check};
use crate::tasks::OpenTask;
use crate::{Error, Result};

pub(super) fn run(args: &TrainArgs) -> Result<()> {
    let mode = match (args.json, args.quiet) {
        (true, _) => OutputMode::Json,
        (_, true) => OutputMode::Quiet,
        _ => OutputMode::Terminal,
    };
    let compute = Compute {
        recompute: args.recompute,
        ..args.compute.resolve()?
    };
    let take = |run| RunFolder::find("--resume", run, &args.out)?.hold();
    let resumed = args.resume.as_deref().map(take).transpose()?;
    let (mut recipe, init) = begin(args, resumed.as_ref())?;
    let task = check(&recipe, &compute)?;
    let folder = match resumed {
        Some(folder) => folder,
        None => {
            let name = args.name.as_deref();
            let folder = RunFolder::create(&args.out, name, recipe.task.name())?;
            folder.keep_tokenizer(task.tokenizer(), &mut recipe)?;
            folder
        }
    };
    let setup = Setup {
        changes: Changes {
            steps: Some(recipe.train.steps),
            lr: args.lr,
            verify: args.verify,
        },
        recipe,
        folder,
        compute,
        mode,
    };
    match task {
        OpenTask::Writes(task) => Run { task, setup }.go(init),
        OpenTask::Answers(task) => Run { task, setup }.go(init),
    }
}

/// The recipe, and the model that is gone on from, unless a checkpoint is.
fn begin(args: &TrainArgs, resumed: Option<&RunFolder>) -> Result<(Recipe, Option<MambaLm>)> {
    let load = |place: &ModelPlace| {
        let mut opened = place.load(args.verify)?;
        opened.model.merge()?;
        Ok::<_, Error>(opened)
    };
    let mut init = args.init.as_ref().map(load).transpose()?;
    let mut recipe = read(args, resumed, init.as_ref())?;
    if let Some(data) = &args.data {
        *recipe.asked("--data", |task| task.data())? = Some(data.clone());
    }
    if let Some(tokenizer) = &args.tokenizer {
        recipe.asked("--tokenizer", |task| task.tokenizer())?.path = Some(tokenizer.clone());
    }
    if let Some(order) = args.baseline {
        *recipe.asked("--baseline", |task| task.baseline())? = order;
    }
    if let Some(labels) = &args.labels {
        *recipe.asked("--labels", |task| task.labels())? = labels.clone();
    }
    recipe.locate_text();
    let kept = resumed.and_then(RunFolder::tokenizer);
    if let (Some(kept), Some(setting)) = (kept, recipe.task.settings_mut().tokenizer()) {
        setting.path = setting.path.take().map(|_| located(&kept));
    }
    recipe.init = args.init.clone().or(recipe.init);
    let begun = match resumed {
        Some(folder) => newest_checkpoint(&folder.path)?.is_some(),
        None => init.is_some(),
    };
    if !begun {
        init = recipe.init.as_ref().map(load).transpose()?;
    }
    if let Some(init) = &init {
        init.begin(&mut recipe)?;
    }
    Ok((recipe, init.map(|init| init.model)))
}

fn read(args: &TrainArgs, resumed: Option<&RunFolder>, init: Option<&Opened>) -> Result<Recipe> {
    let changes = changes(args, init);
    if let Some(folder) = resumed {
        return Recipe::open(&folder.settings(), Accept::Files, &changes);
    }
    if let Some(file) = &args.recipe {
        return Recipe::open(file, Accept::Streams, &changes).map_err(|error| match error {
            Error::Io(error) if error.source.kind() == ErrorKind::NotFound => {
                Error::refused(format!("--recipe {}", file.display()), Refusal::NoRecipe)
            }
            other => other,
        });
    }
    let name = match (&*args.recipe_name, init) {
        ("text", Some(_)) => "text-finetune",
        (name, _) => name,
    };
    Recipe::read(&format!("recipe {name}"), built_in(name)?, &changes)
}

/// All changes of the recipe's fields: the settings of a model that is gone on from first, those with options of their
/// own last.
fn changes(args: &TrainArgs, init: Option<&Opened>) -> Vec<String> {
    let model = init.map(|init| Value::try_from(init.model.config()));
    let model = model.map(|model| format!("model={}", model.expect("TOML has words for models")));
    let mut changes: Vec<String> = model.into_iter().chain(args.set.clone()).collect();
    changes.extend(args.seed.map(|seed| format!("seed={seed}")));
    changes.extend(args.steps.map(|steps| format!("train.steps={steps}")));
    let lr = |lr| format!("train.optimizer.lr={lr:?}").to_lowercase(); // NaN is nan in TOML
    changes.extend(args.lr.map(lr));
    changes
}
