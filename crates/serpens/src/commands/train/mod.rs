//! `serpens train`: one model, or a model and its twin, then tests and a report.

mod check;
mod folder;
mod job;
mod results;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serpens_nn::MambaLmConfig;
use serpens_report::Report;
use serpens_train::Compute;

use crate::cli::TrainArgs;
use crate::output::{save, say, tell};
use crate::progress::OutputMode;
use crate::recipe::{Origin, Recipe, Task};
use crate::{Error, Result, compute, machine};
use check::check;
use folder::RunFolder;
use job::{Job, Trained};

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

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
    let (recipe, folder, resuming) = prepare(args, &compute)?;
    stop_on_ctrl_c();
    announce(&folder.path, &compute, mode)?;
    let corpus = job::corpus(&recipe.task)?;
    let mut trained = Vec::new();
    for job in jobs(&recipe, &folder.path, compute) {
        trained.push(job.run(&recipe, corpus.as_ref(), mode, resuming, &STOP)?);
    }
    let go_on = || match STOP.load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(Error::Interrupted {
            step: recipe.train.steps,
            dir: folder.path.clone(),
        }),
    };
    let results = results::test(&recipe, &trained, corpus.as_ref(), mode, &go_on)?;
    let report = summary::report(&recipe, &folder.path, &trained, &results, &compute)?;
    save(&folder.path.join("report.html"), &report.to_html())?;
    write_figures(&report, &folder.path.join("figures"))?;
    finish(&folder.path, &results, mode)
}

/// Says which run begins, or goes on, and where it computes.
fn announce(dir: &Path, compute: &Compute, mode: OutputMode) -> Result<()> {
    let Compute {
        device,
        precision,
        recompute,
    } = compute;
    match mode {
        OutputMode::Terminal => tell(&format!(
            "run {}, on {device} in {precision}",
            dir.display()
        )),
        OutputMode::Json => say(&serde_json::json!({
            "event": "run",
            "run": text_of(dir),
            "device": device.to_string(),
            "precision": precision,
            "recompute": recompute,
        })
        .to_string())?,
        OutputMode::Quiet => {}
    }
    Ok(())
}

/// The report's figures as files of their own, for papers and pages.
fn write_figures(report: &Report, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io("write", dir, e))?;
    let charts = report.figures.iter();
    let charts = charts.map(|chart| (&chart.title, chart.to_svg()));
    let maps = report.maps.iter().map(|map| (&map.title, map.to_svg()));
    for (title, svg) in charts.chain(maps) {
        let name: String = title
            .chars()
            .map(|c| {
                if c.is_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .collect();
        save(&dir.join(format!("{name}.svg")), &svg)?;
    }
    Ok(())
}

/// The recipe and the folder: new ones, or those of the run to go on with.
fn prepare(args: &TrainArgs, compute: &Compute) -> Result<(Recipe, RunFolder, bool)> {
    if let Some(run) = &args.resume {
        let path = find_run(run, &args.out)?;
        let file = path.join("config.toml");
        let text = fs::read_to_string(&file).map_err(|e| Error::io("read", &file, e))?;
        let mut recipe = Recipe::read(&Origin::File(&file, &text), &[])?;
        override_fields(&mut recipe, args)?;
        check(&recipe, compute)?;
        return Ok((recipe, RunFolder { path }, true));
    }
    let mut recipe = match &args.recipe {
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|e| Error::io("read", file, e))?;
            Recipe::read(&Origin::File(file, &text), &args.set)?
        }
        None => Recipe::read(&Origin::BuiltIn(&args.recipe_name), &args.set)?,
    };
    override_fields(&mut recipe, args)?;
    check(&recipe, compute)?;
    let folder = RunFolder::create(&args.out, args.name.as_deref(), &recipe)?;
    Ok((recipe, folder, false))
}

/// The options that have names of their own.
fn override_fields(recipe: &mut Recipe, args: &TrainArgs) -> Result<()> {
    if let Some(seed) = args.seed {
        recipe.seed = seed;
        recipe.spread_seed();
    }
    if let Some(steps) = args.steps {
        recipe.train.steps = steps;
    }
    match (&mut recipe.task, &args.data) {
        (Task::Text(text), Some(data)) => text.data = Some(data.clone()),
        (_, Some(_)) => {
            let task = recipe.task_name();
            return Err(Error::Usage {
                option: "--data",
                reason: format!(
                    "the {task} task reads no text; serpens train text --data PATH learns one"
                ),
            });
        }
        (_, None) => {}
    }
    Ok(())
}

fn find_run(run: &Path, out: &Path) -> Result<PathBuf> {
    [run.to_owned(), out.join(run)]
        .into_iter()
        .find(|path| path.join("config.toml").exists())
        .ok_or_else(|| Error::Usage {
            option: "--resume",
            reason: format!(
                "neither {} nor {} is a run (a folder with config.toml)",
                run.display(),
                out.join(run).display()
            ),
        })
}

/// The model by itself, or beside its twin.
fn jobs(recipe: &Recipe, dir: &Path, compute: Compute) -> Vec<Job> {
    let job = |(model, own): (MambaLmConfig, PathBuf)| Job {
        name: model.ssm_name(),
        model,
        dir: own,
        run: dir.to_owned(),
        compute,
    };
    let twin = recipe.twin_model().map(|model| (model, dir.join("twin")));
    let models = [(recipe.model.clone(), dir.to_owned())];
    models.into_iter().chain(twin).map(job).collect()
}

fn stop_on_ctrl_c() {
    let handler = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        tell("\nstopping, with everything saved; press Ctrl-C again to leave at once");
    });
    if handler.is_err() {
        tell("warning: Ctrl-C cannot be caught here; checkpoints are written as the recipe says");
    }
}

/// A path in JSON, which holds no names that are not UTF-8.
fn text_of(path: &Path) -> String {
    path.display().to_string()
}

fn finish(dir: &Path, results: &results::Results, mode: OutputMode) -> Result<()> {
    match mode {
        OutputMode::Json => say(&serde_json::json!({
            "event": "finished",
            "run": text_of(dir),
            "model": text_of(&dir.join("model")),
            "report": text_of(&dir.join("report.html")),
            "table": { "header": results.table.header, "rows": results.table.rows },
        })
        .to_string()),
        OutputMode::Terminal | OutputMode::Quiet => {
            say(&results.to_text())?;
            say(&format!("model   {}", dir.join("model").display()))?;
            say(&format!("report  {}", dir.join("report.html").display()))
        }
    }
}

/// Facts for the report.
fn machine_facts(trained: &[Trained], compute: &Compute) -> Vec<(String, String)> {
    let mut facts = machine::facts();
    facts.extend(compute::facts(compute));
    for model in trained {
        facts.push((
            format!("training {}", model.name),
            crate::progress::duration(model.seconds()),
        ));
    }
    facts
}
