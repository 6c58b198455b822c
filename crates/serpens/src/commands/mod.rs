//! The commands.

pub mod bench;
mod doctor;
mod generate;
mod inspect;
mod recipes;
mod train;

use crate::cli::{Cli, Command};
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
    let refuse = |reason: String| Error::Usage {
        option: "--threads",
        reason,
    };
    if threads == 0 {
        return Err(refuse("0 threads cannot work, give at least 1".into()));
    }
    if threads > MOST_THREADS {
        return Err(refuse(format!(
            "{threads} are more than any machine has cores, give at most {MOST_THREADS}"
        )));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|e| refuse(e.to_string()))
}
