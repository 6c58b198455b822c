//! `serpens inspect`.

use std::fs;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use console::Term;
use serpens_core::files::{Accept, FileError, write_bytes};
use serpens_data::{InductionHeadsConfig, Tokenizer};
use serpens_infer::encode_prompt;
use serpens_nn::MambaLm;
use serpens_report::{Form, LayerMap, Report, TokenMap, wrap};
use serpens_train::NextToken;

use crate::cli::InspectArgs;
use crate::machine;
use crate::output::{
    OutputMode, command_line, counted, harmless, one_line, print_drawn, say, unless_gone,
};
use crate::recipe::Recipe;
use crate::refusal::{Refusal, WrongModel};
use crate::runs::RunFolder;
use crate::tasks::TaskConfig;
use crate::tasks::selection::{Sample, check_length, token_map};
use crate::{Error, Result};

/// Columns of the figure in letters at most.
const MOST_COLUMNS: usize = 96;

/// Tokens of a prompt in letters at most.
const MOST_IN_LETTERS: usize = 1024;

/// What the figure in letters shows of layers that select, and what it leaves out; and of those that attend.
const LEGENDS: [[&str; 2]; 2] = [
    [
        "The bars are step sizes Δ, averaged over channels: a large one takes the token in, a small one passes it by.",
        "--out FILE.svg or FILE.html draws every channel, and how much of each token is still kept at the end.",
    ],
    [
        "The bars of attention are the weight that a token gets in all from itself and later ones, 1 on average over the tokens.",
        "--out FILE.svg or FILE.html draws what each token gives to each before it.",
    ],
];

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let draw = args.out.as_deref().map(drawing).transpose()?;
    let opened = args.model.load()?;
    let (dir, model) = (&opened.path, &opened.model);
    let in_letters = draw.is_none() && !args.json;
    let most = if in_letters {
        MOST_IN_LETTERS
    } else {
        usize::MAX
    };
    let (sample, left_out) = match args.prompt.read()? {
        Some(prompt) => {
            let tokenizer = args.model.tokenizer(&opened)?;
            sample_of_prompt(model, tokenizer.as_ref(), &prompt, most)?
        }
        None => (sample_of_task(model, dir)?, 0),
    };
    let title = format!("Token map of {}", args.model.place.path.display());
    let title = harmless(&title).into_owned();
    let Some(map) = token_map::<NextToken>(model, &sample, title, OutputMode::Terminal)? else {
        return Err(Error::wrong_model(dir, WrongModel::NoMap));
    };
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    let known = |layer: &LayerMap| match layer {
        LayerMap::Selection(layer) => finite(&layer.delta) && finite(&layer.retention),
        LayerMap::Attention(layer) => finite(&layer.received),
    };
    if !map.layers.iter().all(known) {
        return Err(Error::wrong_model(dir, WrongModel::NotFinite));
    }
    match args.out.as_deref().zip(draw) {
        // Where the path is a link or a device, what it stands for is written.
        Some((path, draw)) => {
            match path.symlink_metadata() {
                Ok(there) if !there.is_file() => {
                    fs::write(path, draw(&map)).map_err(FileError::of("write", path))?;
                }
                _ => write_bytes(path, draw(&map))?,
            }
            if !args.json {
                say(&one_line(&path.display().to_string()))?;
            }
        }
        None if args.json => {}
        None => print_drawn(&in_letters_of(&map, left_out, columns()))?,
    }
    if args.json {
        // Its names are harmless, and as a text it would be far larger than the map.
        let mut out = BufWriter::new(io::stdout().lock());
        let written = serde_json::to_writer(&mut out, &map).map_err(io::Error::from);
        unless_gone(
            written
                .and_then(|()| writeln!(out))
                .and_then(|()| out.flush()),
        )?;
    }
    Ok(())
}

/// The figure in letters, and how many tokens it leaves out.
fn in_letters_of(map: &TokenMap, left_out: usize, columns: usize) -> String {
    let more = counted(left_out as u64, "token");
    let more = format!("… {more} more: --out FILE draws all");
    let more = (left_out > 0).then_some(&more[..]);
    let attends = |layer: &LayerMap| matches!(layer, LayerMap::Attention(_));
    let there = [false, true].map(|one| map.layers.iter().any(|layer| attends(layer) == one));
    let legends = LEGENDS.iter().zip(there).filter(|(_, there)| *there);
    let below = more
        .into_iter()
        .chain(legends.flat_map(|(legend, _)| *legend));
    let below: Vec<String> = below.flat_map(|text| wrap(text, columns)).collect();
    format!("{}\n{}", map.to_text(columns, colour()), below.join("\n"))
}

/// The width of the terminal, or what COLUMNS says where standard output is none; no more than can be read at a glance.
fn columns() -> usize {
    let terminal = Term::stdout()
        .size_checked()
        .map(|(_, columns)| columns.into());
    let set = || std::env::var("COLUMNS").ok()?.parse().ok();
    let columns = terminal.or_else(set);
    columns.unwrap_or(MOST_COLUMNS).min(MOST_COLUMNS)
}

fn colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !refused
}

/// The first tokens of a prompt, and how many there are beyond `most`: of text for a tokenizer, of numbers without one.
fn sample_of_prompt(
    model: &MambaLm,
    tokenizer: Option<&Tokenizer>,
    prompt: &[u8],
    most: usize,
) -> Result<(Sample, usize)> {
    let vocabulary = model.config().vocab_size;
    let token = |word: &str| match word.parse::<u32>() {
        Ok(id) if (id as usize) < vocabulary => Ok(id),
        _ => Err(Refusal::NoToken {
            word: word.to_owned(),
            vocabulary,
        }),
    };
    let mut ids: Vec<u32> = match tokenizer {
        Some(tokenizer) => encode_prompt(tokenizer, prompt, false)?,
        None => {
            let text = String::from_utf8_lossy(prompt);
            let ids: Result<_, _> = text.split_whitespace().map(token).collect();
            ids.map_err(|wrong| Error::refused("--prompt", wrong))?
        }
    };
    if ids.is_empty() {
        return Err(Error::refused("--prompt", Refusal::Empty));
    }
    let left_out = ids.len().saturating_sub(most);
    ids.truncate(most);
    check_length::<NextToken>(model, ids.len())?;
    let sample = match tokenizer {
        Some(tokenizer) => Sample::text(tokenizer, ids),
        None => Sample::ids(ids),
    };
    Ok((sample, left_out))
}

/// A sequence of the task that the model learnt, as its run's recipe says; of induction heads for another model of that
/// size.
fn sample_of_task(model: &MambaLm, path: &Path) -> Result<Sample> {
    let vocabulary = model.config().vocab_size;
    let task = match RunFolder::around(path) {
        Some(run) => Some(Recipe::open(&run.settings(), Accept::Files, &[])?.task),
        None => Some(InductionHeadsConfig::default())
            .filter(|task| task.vocab == vocabulary)
            .map(TaskConfig::InductionHeads),
    };
    let sample = task.map(|task| task.settings().sample()).transpose()?;
    let Some(sample) = sample.flatten() else {
        return Err(Error::refused("--prompt", Refusal::NoSample));
    };
    match sample
        .inputs
        .ids()
        .iter()
        .find(|&&id| id as usize >= vocabulary)
    {
        Some(&token) => Err(Error::wrong_model(
            path,
            WrongModel::OtherTask { token, vocabulary },
        )),
        None => Ok(sample),
    }
}

/// How a file is drawn, by the ending of its name.
fn drawing(path: &Path) -> Result<fn(&TokenMap) -> String> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("svg") => Ok(|map| map.figure().to_svg(Form::Page)),
        Some("html") => Ok(page),
        _ => Err(Error::refused("--out", Refusal::FileEnding(path.into()))),
    }
}

fn page(map: &TokenMap) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serpens_report::LayerSelection;

    #[test]
    fn the_figure_in_letters_is_as_wide_as_the_terminal_and_says_what_it_leaves_out() {
        let tokens = vec!["a".to_owned(); 300];
        let layer = LayerMap::Selection(LayerSelection {
            name: "layer 1".into(),
            delta: vec![0.5; 300],
            channels: 1,
            ..LayerSelection::default()
        });
        let map = TokenMap {
            tokens,
            layers: vec![layer],
            ..TokenMap::default()
        };
        for columns in [40, 80, 96] {
            let text = in_letters_of(&map, 1_999_700, columns);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest <= columns && widest > columns - 12));
            assert!(text.contains("… 1,999,700 tokens more: --out"));
        }
        assert!(!in_letters_of(&map, 0, 80).contains("more:"));
    }
}
