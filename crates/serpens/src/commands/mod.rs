//! The commands.

pub mod bench;
mod convert;
mod doctor;
mod eval;
mod generate;
mod inspect;
mod quantize;
mod recipes;
mod report;
mod system;
mod tokenize;
mod train;

use crate::cli::{Cli, Command};
use crate::{Error, Result};

/// More threads than this would only exhaust the system.
const MOST_THREADS: u64 = 1024;

/// Where Rayon finds the number of threads, the older name last; 0 means one for each core.
const THREADS: [&str; 2] = ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"];

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<()> {
    let option = cli.threads.map(|threads| ("--threads", threads));
    let set = |name| Some((name, environment(name).filter(|&threads| threads > 0)?));
    if let Some((name, threads)) = option.or_else(|| THREADS.into_iter().find_map(set)) {
        set_threads(name, threads)?;
    }
    match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
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

/// A number that a variable of the environment holds.
fn environment(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

fn set_threads(option: &str, threads: usize) -> Result<()> {
    Error::check_count(option, threads as u64, MOST_THREADS)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global()
        .map_err(|wrong| Error::refused(option, wrong))
}
