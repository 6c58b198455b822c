//! Checkpoints of training: a folder each, which appears complete or not at all.
//!
//! `checkpoints/step-0001000/` holds the model (`config.json`, `model.safetensors`), the moments
//! (`optimizer.safetensors`) and `state.json`: the step, the place in the data, the time spent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serpens_core::Device;
use serpens_core::files::sync_folder;
use serpens_formats::safetensors::{read_tensors, write_tensors};
use serpens_formats::{Verify, json};

use crate::objective::Learner;
use crate::state::State;
use crate::{AdamW, Error, Objective, Result, TrainedModel};

/// The folder of a run that holds its checkpoints.
pub const CHECKPOINTS_DIR: &str = "checkpoints";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "state.json";
const PREFIX: &str = "step-";
/// Folders under this name are unfinished.
const UNFINISHED: &str = ".unfinished-";

/// Writes a checkpoint of the run in `run`, and removes all but the last that the settings keep. Until it is complete
/// it has a name under which it is never looked for, so that whatever happens, the earlier ones stay.
pub(crate) fn save<O: Objective>(
    run: &Path,
    learner: &Learner<O>,
    state: &State,
) -> Result<PathBuf> {
    let parent = run.join(CHECKPOINTS_DIR);
    let name = format!("{PREFIX}{:07}", state.step);
    let unfinished = parent.join(format!("{UNFINISHED}{name}"));
    let path = parent.join(name);
    for (_, left) in entries(&parent, UNFINISHED)? {
        remove(&left)?; // of a run that was killed while writing
    }
    let written = write_all(&unfinished, learner, state).and_then(|()| {
        let renamed = fs::rename(&unfinished, &path).and_then(|()| sync_folder(&parent));
        renamed.map_err(|e| Error::io("write", &path, e))
    });
    if let Err(error) = written {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&unfinished);
        return Err(error);
    }
    for (_, old) in complete(&parent)?.iter().rev().skip(state.config.keep) {
        remove(old)?;
    }
    Ok(path)
}

fn write_all<O: Objective>(dir: &Path, learner: &Learner<O>, state: &State) -> Result<()> {
    learner.model.save(dir)?;
    write_tensors(&dir.join(OPTIMIZER_FILE), &learner.optimizer.state())?;
    Ok(json::write(&dir.join(STATE_FILE), state)?)
}

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e))
}

/// What lies in `dir` under names that begin with `prefix`, by the rest of the name; nothing where `dir` is missing.
fn entries(dir: &Path, prefix: &str) -> Result<Vec<(String, PathBuf)>> {
    let listing = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.and_then(|entries| entries.collect::<io::Result<Vec<_>>>()),
    };
    let listing = listing.map_err(|e| Error::io("read", dir, e))?.into_iter();
    let named = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let rest = name.to_str()?.strip_prefix(prefix)?.to_owned();
        Some((rest, entry.path()))
    };
    Ok(listing.filter_map(named).collect())
}

/// Complete checkpoints by step, the newest last.
fn complete(parent: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = entries(parent, PREFIX)?.into_iter();
    let by_step = entries.filter_map(|(step, path)| Some((step.parse().ok()?, path)));
    let mut found: Vec<_> = by_step.collect();
    found.sort();
    Ok(found)
}

/// The newest complete checkpoint of the run in `run`, if there is one: its step and its folder.
pub fn newest(run: &Path) -> Result<Option<(u64, PathBuf)>> {
    Ok(complete(&run.join(CHECKPOINTS_DIR))?.pop())
}

/// Reads the newest checkpoint of the run in `run`, onto the processor.
pub(crate) fn load_newest<O: Objective>(run: &Path, objective: O) -> Result<(Learner<O>, State)> {
    let Some((_, dir)) = newest(run)? else {
        return Err(Error::NoCheckpoint {
            path: run.join(CHECKPOINTS_DIR),
        });
    };
    let state = json::read(&dir.join(STATE_FILE), "state of training");
    let state: State = state.map_err(|error| match error {
        serpens_formats::Error::Json { path, source, .. } => Error::damaged(&path, source),
        other => other.into(),
    })?;
    let model = O::Model::load(&dir, Verify::Digests)?;
    let path = dir.join(OPTIMIZER_FILE);
    let moments = read_tensors(&path, Device::cpu(), Verify::Digests)?;
    let optimizer = AdamW::restore(state.config.optimizer, state.step, moments, &model)
        .map_err(|e| Error::damaged(&path, e))?;
    let learner = Learner {
        objective,
        model,
        optimizer,
    };
    Ok((learner, state))
}
