//! The commands.

pub mod bench;
mod convert;
mod doctor;
mod eval;
mod generate;
mod inspect;
mod look;
mod predict;
mod quantize;
mod recipes;
mod report;
mod sound;
mod system;
mod tokenize;
mod train;

use crate::cli::{Cli, Command, DataAction, MOST_THREADS, whole};
use crate::refusal::Refusal;
use crate::{Error, Result};

/// Where Rayon finds the number of threads, the older name last; 0, or nothing, means one for each core.
const THREADS: [&str; 2] = ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"];

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<()> {
    let option = cli.threads.map(|threads| Ok(("--threads", threads)));
    if let Some(set) = option.or_else(|| THREADS.into_iter().find_map(environment)) {
        let (name, threads) = set?;
        set_threads(name, threads)?;
    }
    match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Data {
            action: DataAction::Look(args),
        } => look::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor { json } => doctor::run(json),
        Command::Recipes { action } => recipes::run(action),
        Command::Report(args) => report::run(&args),
        Command::Completions { shell } => system::completions(shell),
        Command::Man { dir } => system::man(&dir),
    }
}

/// A number of threads that a variable of the environment sets.
fn environment(name: &'static str) -> Option<Result<(&'static str, usize)>> {
    let text = std::env::var(name).ok();
    let text = text.filter(|text| !["", "0"].contains(&&**text))?;
    let wrong = |advice| Error::refused(name, Refusal::NoNumber(text.clone(), advice));
    let threads = whole(0..=MOST_THREADS)(&text).map_err(wrong);
    Some(threads.map(|threads| (name, threads)))
}

fn set_threads(option: &str, threads: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global()
        .map_err(|wrong| Error::refused(option, wrong))
}
