//! `serpens inspect`.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use serpens_data::{InductionHeads, InductionHeadsConfig};
use serpens_nn::MambaLm;

use super::{load, model_dir};
use crate::cli::InspectArgs;
use crate::machine;
use crate::output::say;
use crate::recipe::{Origin, Recipe, Task};
use crate::report::{Report, SelectionMap, SvgOptions};
use crate::selection::{Sample, selection_map};
use crate::{Error, Result};

/// Tokens of the sample where no prompt is given.
const SAMPLE_LENGTH: usize = 64;
/// Columns of the figure in letters.
const TEXT_WIDTH: usize = 96;

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let dir = model_dir(&args.model)?;
    let model = load(&dir)?;
    let sample = match &args.prompt {
        Some(prompt) => sample_of_prompt(&model, prompt)?,
        None => sample_of_task(&model, &args.model)?,
    };
    let Some(mut map) = selection_map(&model, &sample)? else {
        return Err(Error::WrongModel {
            path: dir,
            reason: "it has no selective layers: a time-invariant model treats every token alike"
                .into(),
        });
    };
    map.title = format!("Selection map of {}", args.model.display());
    match &args.out {
        Some(path) => write(&map, path)?,
        None if args.json => {}
        None => say(map.to_text(TEXT_WIDTH, colour()).trim_end_matches('\n'))?,
    }
    if args.json {
        say(&serde_json::to_string(&map).unwrap_or_default())?;
    }
    Ok(())
}

fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn sample_of_prompt(model: &MambaLm, prompt: &str) -> Result<Sample> {
    let refuse = |reason: String| Error::Usage {
        option: "--prompt",
        reason,
    };
    let vocabulary = model.config().vocab_size;
    let sample = if vocabulary == 256 {
        Sample::text(prompt)
    } else {
        let ids: Result<Vec<u32>> = prompt
            .split_whitespace()
            .map(|word| match word.parse::<u32>() {
                Ok(id) if (id as usize) < vocabulary => Ok(id),
                _ => Err(refuse(format!(
                    "{word:?} is no token of this model; give numbers below {vocabulary}, apart by spaces"
                ))),
            })
            .collect();
        Sample::ids(ids?)
    };
    match sample.ids.is_empty() {
        true => Err(refuse("it is empty".into())),
        false => Ok(sample),
    }
}

/// A sequence of the task that the run in `path` learnt, or of the induction heads.
fn sample_of_task(model: &MambaLm, path: &Path) -> Result<Sample> {
    let file = path.join("config.toml");
    let recipe = fs::read_to_string(&file)
        .ok()
        .map(|text| Recipe::read(&Origin::File(&file, &text), &[]))
        .transpose()?;
    match recipe.map(|recipe| recipe.task) {
        Some(Task::InductionHeads(task)) => {
            Sample::induction(&InductionHeads::new(task)?, SAMPLE_LENGTH)
        }
        _ if model.config().vocab_size == 16 => {
            let task = InductionHeads::new(InductionHeadsConfig::default())?;
            Sample::induction(&task, SAMPLE_LENGTH)
        }
        _ => Err(Error::Usage {
            option: "--prompt",
            reason: "this model has no task to take a sample from; give a prompt".into(),
        }),
    }
}

fn write(map: &SelectionMap, path: &Path) -> Result<()> {
    let extension = path.extension().and_then(|e| e.to_str());
    let text = match extension {
        Some("svg") => map.to_svg(&SvgOptions::default()),
        Some("html") => Report {
            title: map.title.clone(),
            date: machine::now(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            machine: machine::facts(),
            maps: vec![map.clone()],
            ..Report::default()
        }
        .to_html(),
        _ => {
            return Err(Error::Usage {
                option: "--out",
                reason: format!("{} must end in .svg or .html", path.display()),
            });
        }
    };
    fs::write(path, text).map_err(|e| Error::io("write", path, e))
}
