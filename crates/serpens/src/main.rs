//! The command `serpens`: trains, runs and looks into selective state space models.

use std::process::ExitCode;

use serpens::cli::Cli;

fn main() -> ExitCode {
    match serpens::run(Cli::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            serpens::tell(&format!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
