//! `serpens completions` and `serpens man`: what the system around it learns of the command.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use serpens_core::files::FileError;

use crate::Result;
use crate::cli::Cli;
use crate::output::say;

pub(super) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "serpens", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

pub(super) fn man(dir: &Path) -> Result<()> {
    let made = fs::create_dir_all(dir);
    let written = made.and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    Ok(written.map_err(FileError::of("write", dir))?)
}
