//! Checkpoints of training: a folder each, which appears complete or not at all.
//!
//! `checkpoints/step-0001000/` holds the model (`config.json`, `model.safetensors`), the moments
//! (`optimizer.safetensors`) and `state.json`: the step, the place in the data, the time spent, the settings, and
//! digests of it all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serpens_core::files::{FileError, make_folders, rename};
use serpens_formats::{Fault, Verify, json};

use crate::objective::Learner;
use crate::state::State;
use crate::{Damage, Error, Objective, Optimizer, Result, TrainedModel, seal};

/// The folder of a run that holds its checkpoints.
pub const CHECKPOINTS_DIR: &str = "checkpoints";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
pub(crate) const STATE_FILE: &str = "state.json";
const PREFIX: &str = "step-";
/// Folders under this name are unfinished, or are being removed.
const UNFINISHED: &str = ".unfinished-";

/// Writes a checkpoint of the run in `run` in place of another of this step, and removes all but the last that the
/// settings keep. Until it is complete it has a name under which it is never looked for, so that whatever happens, the
/// earlier ones stay.
///
/// Gives its folder, and why old ones could not be removed.
pub(crate) fn save<O: Objective>(
    run: &Path,
    learner: &Learner<O>,
    state: &State,
) -> Result<(PathBuf, Vec<Error>)> {
    let parent = run.join(CHECKPOINTS_DIR);
    make_folders(&parent)?;
    let path = folder(run, state.step);
    let unfinished = hidden(&path, "");
    let mut left = Vec::new();
    let written = write_all(&unfinished, learner, state).and_then(|()| {
        if path.exists() {
            left.extend(remove(&path).err());
        }
        let renamed = rename(&unfinished, &path);
        Ok(renamed.map_err(FileError::of("write", &path))?)
    });
    if let Err(error) = written {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&unfinished);
        return Err(error);
    }
    let best = state.best.map(|best| best.step);
    let old = complete(run)?.into_iter().rev().skip(state.config.keep);
    let old = old.filter(|(step, _)| Some(*step) != best);
    left.extend(old.filter_map(|(_, old)| remove(&old).err()));
    Ok((path, left))
}

fn write_all<O: Objective>(dir: &Path, learner: &Learner<O>, state: &State) -> Result<()> {
    learner.model.save(dir)?;
    learner.optimizer.save(&dir.join(OPTIMIZER_FILE))?;
    write_state(dir, state)
}

/// Writes the state of a checkpoint anew, whose tensors stay.
pub(crate) fn write_state(dir: &Path, state: &State) -> Result<()> {
    let state = seal::seal(dir, state)?;
    Ok(json::write(&dir.join(STATE_FILE), &state)?)
}

/// The folder of a run's checkpoint of this step.
pub(crate) fn folder(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS_DIR).join(format!("{PREFIX}{step:07}"))
}

fn hidden(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{UNFINISHED}{what}{name}"))
}

/// Keeps a checkpoint that was passed over under a name that is not looked for: what is wrong with it may be mended.
pub(crate) fn set_aside(passed: &mut Error) -> Result<()> {
    let Error::PassedOver { path, .. } = passed else {
        return Ok(());
    };
    let mut names = (1_u64..).map(|n| path.with_extension(format!("damaged-{n}")));
    let aside = names.find(|name| !name.exists());
    let aside = aside.expect("there are fewer folders than numbers");
    rename(path, &aside).map_err(FileError::of("rename", path))?;
    *path = aside;
    Ok(())
}

/// Removes a checkpoint, which nobody takes for one once that has begun.
fn remove(path: &Path) -> Result<()> {
    let hidden = hidden(path, "removed-");
    let removed = rename(path, &hidden).and_then(|()| remove_any(&hidden));
    Ok(removed.map_err(FileError::of("remove", path))?)
}

fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// Removes what a run left unfinished that was killed, and gives why that failed where it did.
pub(crate) fn sweep(run: &Path) -> Result<Vec<Error>> {
    let left = entries(&run.join(CHECKPOINTS_DIR), UNFINISHED)?.into_iter();
    let removed = left.map(|(_, path)| remove_any(&path).map_err(FileError::of("remove", &path)));
    Ok(removed.filter_map(Result::err).map(Error::from).collect())
}

/// What lies in `dir` under names that begin with `prefix`, by the rest of the name; nothing where `dir` is missing.
fn entries(dir: &Path, prefix: &str) -> Result<Vec<(String, PathBuf)>> {
    let listing = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.and_then(|entries| entries.collect::<io::Result<Vec<_>>>()),
    };
    let listing = listing.map_err(FileError::of("read", dir))?.into_iter();
    let named = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let rest = name.to_str()?.strip_prefix(prefix)?.to_owned();
        Some((rest, entry.path()))
    };
    Ok(listing.filter_map(named).collect())
}

/// Complete checkpoints of the run in `run` by step, the newest last.
pub(crate) fn complete(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = entries(&run.join(CHECKPOINTS_DIR), PREFIX)?.into_iter();
    let by_step = entries.filter_map(|(step, path)| {
        let step = step.parse().ok()?;
        match fs::metadata(&path) {
            Ok(there) => there.is_dir().then_some(Ok((step, path))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => Some(Err(FileError::of("read", &path)(e).into())),
        }
    });
    let mut found = by_step.collect::<Result<Vec<_>>>()?;
    found.sort();
    Ok(found)
}

/// The newest complete checkpoint of the run in `run`, if there is one: its step and its folder.
pub fn newest(run: &Path) -> Result<Option<(u64, PathBuf)>> {
    Ok(complete(run)?.pop())
}

/// Reads the newest checkpoint of the run in `run` that is whole, onto the processor, and gives why newer ones were
/// passed over: for what is in them alone. Where the system does not let one be read, nothing is known of it.
pub(crate) fn load_newest<O: Objective>(
    run: &Path,
    objective: O,
    verify: Verify,
) -> Result<(Learner<O>, State, Vec<Error>)> {
    let mut passed = Vec::new();
    for (step, path) in complete(run)?.into_iter().rev() {
        match load(step, &path, &objective, verify) {
            Ok((model, optimizer, state)) => {
                let learner = Learner {
                    objective,
                    model,
                    optimizer,
                };
                return Ok((learner, state, passed));
            }
            Err(error) if !error.is_damage() => return Err(error),
            Err(error) => passed.push(Error::PassedOver {
                path,
                source: Box::new(error),
            }),
        }
    }
    Err(match passed.into_iter().next() {
        Some(Error::PassedOver { source, .. }) => *source,
        _ => Error::NoCheckpoint(run.join(CHECKPOINTS_DIR)),
    })
}

pub(crate) fn load<O: Objective>(
    step: u64,
    dir: &Path,
    objective: &O,
    verify: Verify,
) -> Result<(O::Model, Optimizer, State)> {
    let state = read_state(step, dir, verify)?;
    let mut model = O::Model::load(dir, verify)?;
    state.config.freeze(&mut model)?;
    let settings = state.config.optimizer;
    let optimizer = Optimizer::of(objective.rule(&settings), settings);
    let optimizer = optimizer.load(step, &dir.join(OPTIMIZER_FILE), &model, verify)?;
    Ok((model, optimizer, state))
}

/// The state in the checkpoint of this step.
pub(crate) fn read_state(step: u64, dir: &Path, verify: Verify) -> Result<State> {
    let path = dir.join(STATE_FILE);
    let saved: Value = json::read(&path, "state of training").map_err(|error| match error {
        serpens_formats::Error::File {
            path,
            source: Fault::Json(_, source),
        } => Error::damaged(&path, source),
        other => other.into(),
    })?;
    seal::check(dir, saved.clone(), verify)?;
    let state = State::deserialize(saved).map_err(|e| Error::damaged(&path, e))?;
    let found = (state.step, state.position.batches);
    let expected = (step, step.wrapping_mul(state.config.accumulation));
    if found != expected {
        return Err(Error::damaged(&path, Damage::Position { found, expected }));
    }
    Ok(state)
}
