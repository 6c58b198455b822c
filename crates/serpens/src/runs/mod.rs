//! Runs: a model, or a model and its twin, trained, tested and reported.

mod check;
mod folder;
mod job;
pub(crate) mod models;
mod report;

use std::ops::Deref;

use serde_json::Value;
use serpens_core::files::write_bytes;
use serpens_nn::MambaLm;
use serpens_train::{Changes, Compute, Error as TrainError};

use crate::output::{OutputMode, one_line, say, tell};
use crate::recipe::Recipe;
use crate::stop;
use crate::tasks::kind::Kind;
use crate::tasks::trained::Trained;
use crate::tasks::{Results, Task};
use crate::{Error, Result};
use job::Job;
use models::ModelPlace;

pub(crate) use check::check;
pub(crate) use folder::RunFolder;

/// The folder that runs go into where none is named.
pub(crate) const RUNS: &str = "runs";

/// A run that has been checked and has its folder.
pub(crate) struct Run<O: Kind> {
    /// The recipe's task.
    pub(crate) task: Box<dyn Task<O>>,
    pub(crate) setup: Setup,
}

/// What there is of a run beside its task.
pub(crate) struct Setup {
    pub(crate) recipe: Recipe,
    pub(crate) folder: RunFolder,
    /// Where and how.
    pub(crate) compute: Compute,
    pub(crate) mode: OutputMode,
    /// What is changed of a run that goes on, and what is verified.
    pub(crate) changes: Changes,
}

impl<O: Kind> Deref for Run<O> {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        &self.setup
    }
}

impl<O: Kind> Run<O> {
    /// Trains what is not trained yet, `init` where it is a model to go on from, tests it, and writes the report.
    pub(crate) fn go(&self, init: Option<MambaLm>) -> Result<()> {
        stop::listen();
        let mut jobs = Job::all(self, init)?;
        self.folder.lock().check()?;
        jobs.iter_mut().try_for_each(Job::keep_changes)?;
        write_bytes(&self.folder.settings(), self.recipe.to_toml())?;
        self.announce();
        let trained = jobs.into_iter().map(Job::train);
        let trained = trained.collect::<Result<Vec<_>>>()?;
        match self.conclude(&trained) {
            Err(Error::Train(TrainError::Stopped)) => {
                Err(self.interrupted(self.recipe.train.steps))
            }
            concluded => concluded,
        }
    }

    /// Tests what was trained, and writes the report.
    fn conclude(&self, trained: &[Trained<O::Model>]) -> Result<()> {
        let results = self.task.test(trained, self.mode)?;
        self.folder.lock().check()?;
        // One that was made when its lines of metrics were still there says more.
        let told = trained.iter().all(|model| !model.steps.is_empty());
        match told || self.folder.report().is_err() {
            true => self.folder.save_report(&self.report(trained, &results)?)?,
            false => tell(&format!(
                "warning: the report of {} stays as it was: there are no steps to draw",
                self.folder.path.display()
            )),
        }
        self.finish(&results)
    }

    /// What makes the run this one, beside how it is trained; how it is tested, and where its text, its tokenizer
    /// and what it began with lie, may change.
    fn identity(&self) -> Value {
        let text = serde_json::to_string(&self.recipe).expect("a recipe has string keys");
        let mut identity: Value = serde_json::from_str(&text).expect("it was just written");
        let mut leave_out = |table: &str, key: &str| {
            let table = identity.pointer_mut(table).and_then(Value::as_object_mut);
            table.and_then(|table| table.remove(key));
        };
        leave_out("", "init");
        leave_out("", "train");
        leave_out("", "evaluate");
        leave_out("/task", "data");
        leave_out("/task", "tokenizer");
        leave_out("/task", "prompt");
        identity
    }

    /// Ended by Ctrl-C after this step.
    fn interrupted(&self, step: u64) -> Error {
        Error::Interrupted {
            step,
            dir: self.folder.path.clone(),
        }
    }

    /// Says which run begins, or goes on, and where it computes.
    fn announce(&self) {
        let (device, precision) = (self.compute.device, self.compute.precision);
        let event = serde_json::json!({
            "event": "run",
            "run": self.folder.path.to_string_lossy(),
            "device": device.to_string(),
            "precision": precision,
            "recompute": self.compute.recompute,
        });
        let run = self.folder.path.display();
        let from = |init: &ModelPlace| format!(", from {}", init.path.display());
        let from = self.recipe.init.as_ref().map_or_else(String::new, from);
        let line = format!("run {run}{from}, on {device} in {precision}");
        self.mode.event(&event);
        if self.mode == OutputMode::Terminal {
            tell(&line);
            self.task.about().iter().for_each(|about| tell(about));
        }
    }

    /// Says what came of it.
    fn finish(&self, results: &Results) -> Result<()> {
        let path = |name| self.folder.path.join(name);
        let [model, report] = ["model", "report.html"].map(path);
        match self.mode {
            OutputMode::Json => say(&serde_json::json!({
                "event": "finished",
                "run": self.folder.path.to_string_lossy(),
                "model": model.to_string_lossy(),
                "report": report.to_string_lossy(),
                "table": { "header": results.table.header, "rows": results.table.rows },
            })
            .to_string()),
            OutputMode::Terminal | OutputMode::Quiet => {
                if self.mode == OutputMode::Terminal {
                    tell("");
                }
                say(&results.to_text())?;
                say(&one_line(&format!("model   {}", model.display())))?;
                let adapter = path(job::ADAPTER);
                if adapter.exists() {
                    say(&one_line(&format!("adapter {}", adapter.display())))?;
                }
                say(&one_line(&format!("report  {}", report.display())))
            }
        }
    }
}
