//! `serpens inspect`.

use std::fs;
use std::io::IsTerminal;
use std::path::Path;

use serpens_nn::MambaLm;
use serpens_report::{Report, SelectionMap};

use crate::cli::InspectArgs;
use crate::machine;
use crate::models::{load, model_dir};
use crate::output::{command_line, say};
use crate::recipe::Recipe;
use crate::refusal::{WrongModel, WrongOption};
use crate::runs::RunFolder;
use crate::selection::{Sample, selection_map};
use crate::tasks::TaskConfig;
use crate::{Error, Result};

/// Columns of the figure in letters.
const TEXT_WIDTH: usize = 96;

/// What the figure in letters shows, and what it leaves out.
const LEGEND: &str = "The bars are step sizes Δ, averaged over channels: a large one takes the token in, a small one passes it by.\n\
                      --out FILE.svg or FILE.html draws every channel, and how much of each token is still kept at the end.";

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let form = args.out.as_deref().map(form_of).transpose()?;
    let dir = model_dir(&args.model)?;
    let model = load(&dir)?;
    let sample = match &args.prompt {
        Some(prompt) => sample_of_prompt(&model, prompt)?,
        None => sample_of_task(&model, &args.model)?,
    };
    let Some(mut map) = selection_map(&model, &sample)? else {
        return Err(Error::wrong_model(dir, WrongModel::NotSelective));
    };
    map.title = format!("Selection map of {}", args.model.display());
    match args.out.as_deref().zip(form) {
        Some((path, form)) => write(&map, path, form)?,
        None if args.json => {}
        None => say(&format!("{}\n{LEGEND}", map.to_text(TEXT_WIDTH, colour())))?,
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

fn sample_of_prompt(model: &MambaLm, prompt: &str) -> Result<Sample> {
    let vocabulary = model.config().vocab_size;
    let token = |word: &str| {
        let token = word
            .parse()
            .ok()
            .filter(|&id: &u32| (id as usize) < vocabulary);
        let word = word.to_owned();
        token.ok_or_else(|| Error::usage("--prompt", WrongOption::NoToken { word, vocabulary }))
    };
    let sample = match vocabulary {
        256 => Sample::text(prompt),
        _ => Sample::ids(
            prompt
                .split_whitespace()
                .map(token)
                .collect::<Result<_>>()?,
        ),
    };
    match sample.ids.is_empty() {
        true => Err(Error::usage("--prompt", WrongOption::Empty)),
        false => Ok(sample),
    }
}

/// A sequence of the task that the model learnt, as its run's recipe says; of the default one for another model of that size.
fn sample_of_task(model: &MambaLm, path: &Path) -> Result<Sample> {
    let vocabulary = model.config().vocab_size;
    let task = match RunFolder::around(path) {
        Some(run) => Some(Recipe::open(&run.settings(), &[])?.task),
        None => Some(TaskConfig::default())
            .filter(|task| *task.settings().vocabulary().start() == vocabulary),
    };
    let sample = task.map(|task| task.settings().sample()).transpose()?;
    let Some(sample) = sample.flatten() else {
        return Err(Error::usage("--prompt", WrongOption::NoSample));
    };
    match sample.ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(&token) => Err(Error::wrong_model(
            path,
            WrongModel::OtherTask { token, vocabulary },
        )),
        None => Ok(sample),
    }
}

/// What an output file is to be.
#[derive(Clone, Copy)]
enum FileForm {
    Svg,
    Html,
}

/// By the ending of its name.
fn form_of(path: &Path) -> Result<FileForm> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("svg") => Ok(FileForm::Svg),
        Some("html") => Ok(FileForm::Html),
        _ => {
            let path = path.to_owned();
            Err(Error::usage("--out", WrongOption::FileEnding { path }))
        }
    }
}

fn write(map: &SelectionMap, path: &Path, form: FileForm) -> Result<()> {
    let text = match form {
        FileForm::Svg => map.to_svg(),
        FileForm::Html => Report {
            title: map.title.clone(),
            date: machine::now(),
            command: command_line(),
            machine: machine::facts(),
            maps: vec![map.clone()],
            ..Report::default()
        }
        .to_html(),
    };
    // Where the path is a link or a device, what it stands for is written.
    fs::write(path, text).map_err(|e| Error::io("write", path, e))
}
