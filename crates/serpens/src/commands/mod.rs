//! The commands.

pub mod bench;
mod doctor;
mod generate;
mod inspect;
mod recipes;
mod train;

use crate::cli::{Cli, Command};
use crate::refusal::WrongOption;
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
        Command::Doctor(args) => doctor::run(&args),
        Command::Recipes(args) => recipes::run(&args),
    }
}

fn set_threads(threads: usize) -> Result<()> {
    let wrong = match threads {
        0 => WrongOption::NoThreads,
        1..=MOST_THREADS => {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            return pool
                .build_global()
                .map_err(|e| Error::usage("--threads", e));
        }
        _ => WrongOption::TooManyThreads {
            threads,
            most: MOST_THREADS,
        },
    };
    Err(Error::usage("--threads", wrong))
}
