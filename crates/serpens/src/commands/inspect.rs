//! `serpens inspect`.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use serpens_core::files::{Accept, FileError};
use serpens_nn::MambaLm;
use serpens_report::{Form, Report, SelectionMap};

use crate::cli::InspectArgs;
use crate::machine;
use crate::output::{command_line, harmless, print_drawn, save, say};
use crate::recipe::Recipe;
use crate::refusal::{Refusal, WrongModel};
use crate::runs::RunFolder;
use crate::tasks::TaskConfig;
use crate::tasks::selection::{Sample, selection_map};
use crate::{Error, Result};

/// Columns of the figure in letters.
const TEXT_WIDTH: usize = 96;

/// What the figure in letters shows, and what it leaves out.
const LEGEND: &str = "The bars are step sizes Δ, averaged over channels: a large one takes the token in, a small one passes it by.\n\
                      --out FILE.svg or FILE.html draws every channel, and how much of each token is still kept at the end.";

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let draw = args.out.as_deref().map(drawing).transpose()?;
    let (dir, model) = args.model.load()?;
    let sample = match args.prompt.read()? {
        Some(prompt) => sample_of_prompt(&model, &prompt)?,
        None => sample_of_task(&model, &dir)?,
    };
    let title = format!("Selection map of {}", args.model.path.display());
    let title = harmless(&title).into_owned();
    let Some(map) = selection_map(&model, &sample, title)? else {
        return Err(Error::wrong_model(dir, WrongModel::NotSelective));
    };
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    let mut layers = map.layers.iter();
    if !layers.all(|layer| finite(&layer.delta) && finite(&layer.retention)) {
        return Err(Error::wrong_model(dir, WrongModel::NotFinite));
    }
    match args.out.as_deref().zip(draw) {
        // Where the path is a link or a device, what it stands for is written.
        Some((path, draw)) => match path.symlink_metadata() {
            Ok(there) if !there.is_file() => {
                fs::write(path, draw(&map)).map_err(FileError::of("write", path))?;
            }
            _ => save(path, draw(&map))?,
        },
        None if args.json => {}
        None => print_drawn(&format!("{}\n{LEGEND}", map.to_text(TEXT_WIDTH, colour())))?,
    }
    if args.json {
        say(&serde_json::json!(map).to_string())?;
    }
    Ok(())
}

fn colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !refused
}

fn sample_of_prompt(model: &MambaLm, prompt: &[u8]) -> Result<Sample> {
    let vocabulary = model.config().vocab_size;
    let token = |word: &str| match word.parse::<u32>() {
        Ok(id) if (id as usize) < vocabulary => Ok(id),
        _ => Err(Refusal::NoToken {
            word: word.to_owned(),
            vocabulary,
        }),
    };
    if vocabulary == 256 {
        return Ok(Sample::text(prompt));
    }
    let prompt = String::from_utf8_lossy(prompt);
    let ids: Result<Vec<u32>, _> = prompt.split_whitespace().map(token).collect();
    let wrong = match ids {
        Ok(ids) if !ids.is_empty() => return Ok(Sample::ids(ids)),
        Ok(_) => Refusal::Empty,
        Err(wrong) => wrong,
    };
    Err(Error::refused("--prompt", wrong))
}

/// A sequence of the task that the model learnt, as its run's recipe says; of induction heads for another model of that
/// size.
fn sample_of_task(model: &MambaLm, path: &Path) -> Result<Sample> {
    let vocabulary = model.config().vocab_size;
    let task = match RunFolder::around(path) {
        Some(run) => Some(Recipe::open(&run.settings(), Accept::Files, &[])?.task),
        None => Some(TaskConfig::InductionHeads(Default::default()))
            .filter(|task| *task.settings().vocabulary().start() == vocabulary),
    };
    let sample = task.map(|task| task.settings().sample()).transpose()?;
    let Some(sample) = sample.flatten() else {
        return Err(Error::refused("--prompt", Refusal::NoSample));
    };
    match sample.ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(&token) => Err(Error::wrong_model(
            path,
            WrongModel::OtherTask { token, vocabulary },
        )),
        None => Ok(sample),
    }
}

/// How a file is drawn, by the ending of its name.
fn drawing(path: &Path) -> Result<fn(&SelectionMap) -> String> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("svg") => Ok(|map| map.figure().to_svg(Form::Page)),
        Some("html") => Ok(page),
        _ => Err(Error::refused("--out", Refusal::FileEnding(path.into()))),
    }
}

fn page(map: &SelectionMap) -> String {
    Report {
        title: map.title.clone(),
        date: machine::now(),
        command: command_line(),
        machine: machine::facts(),
        maps: vec![map.figure()],
        ..Report::default()
    }
    .to_html()
}
