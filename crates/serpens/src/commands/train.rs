//! `serpens train`: from its arguments to a run.

use serpens_core::files::Accept;
use serpens_train::{Changes, Compute};

use crate::Result;
use crate::cli::TrainArgs;
use crate::output::OutputMode;
use crate::recipe::{Recipe, built_in};
use crate::runs::{Run, RunFolder, check};

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
    let changes = changes(args);
    let mut recipe = match (&resumed, &args.recipe) {
        (Some(folder), _) => Recipe::open(&folder.settings(), Accept::Files, &changes)?,
        (None, Some(file)) => Recipe::open(file, Accept::Streams, &changes)?,
        (None, None) => {
            let name = &args.recipe_name;
            Recipe::read(&format!("recipe {name}"), built_in(name)?, &changes)?
        }
    };
    if let Some(data) = &args.data {
        recipe.learn_from(data)?;
    }
    recipe.locate_text();
    let task = check(&recipe, &compute)?;
    let folder = match resumed {
        Some(folder) => folder,
        None => RunFolder::create(&args.out, args.name.as_deref(), recipe.task.name())?,
    };
    let changes = Changes {
        steps: Some(recipe.train.steps),
        lr: args.lr,
        verify: args.verify,
    };
    Run {
        recipe,
        task,
        folder,
        compute,
        mode,
        changes,
    }
    .go()
}

/// All changes of the recipe's fields, those with options of their own last.
fn changes(args: &TrainArgs) -> Vec<String> {
    let mut changes = args.set.clone();
    changes.extend(args.seed.map(|seed| format!("seed={seed}")));
    changes.extend(args.steps.map(|steps| format!("train.steps={steps}")));
    let lr = |lr| format!("train.optimizer.lr={lr:?}").to_lowercase(); // NaN is nan in TOML
    changes.extend(args.lr.map(lr));
    changes
}
