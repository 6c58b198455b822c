//! The commands.

pub mod bench;
mod doctor;
mod generate;
mod inspect;
mod recipes;
mod report;
mod system;
mod train;

use crate::cli::{Cli, Command};
use crate::refusal::Refusal;
use crate::{Error, Result};

/// More threads than this would only exhaust the system.
const MOST_THREADS: usize = 1024;

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<()> {
    if let Some(threads) = cli.threads {
        set_threads(threads)?;
    }
    match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor { json } => doctor::run(json),
        Command::Recipes { action } => recipes::run(action),
        Command::Report(args) => report::run(&args),
        Command::Completions { shell } => system::completions(shell),
        Command::Man { dir } => system::man(&dir),
    }
}

fn set_threads(threads: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let set = match threads {
        0 => Err(Refusal::NoThreads),
        1..=MOST_THREADS => pool.build_global().map_err(Refusal::Threads),
        _ => Err(Refusal::TooManyThreads {
            threads,
            most: MOST_THREADS,
        }),
    };
    set.map_err(|wrong| Error::refused("--threads", wrong))
}
