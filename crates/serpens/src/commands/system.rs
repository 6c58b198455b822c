//! `serpens completions` and `serpens man`: what the system around it learns of the command.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use serpens_core::files::{FileError, make_folders};

use crate::Result;
use crate::cli::Cli;
use crate::output::{one_line, say};

pub(super) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "serpens", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

pub(super) fn man(dir: &Path) -> Result<()> {
    make_folders(dir)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    page(&command, dir)
}

/// Writes the page of a command and of those below it.
fn page(command: &Command, dir: &Path) -> Result<()> {
    let written = Man::new(command.clone()).generate_to(dir);
    let path = written.map_err(FileError::of("write", dir))?;
    say(&one_line(&path.display().to_string()))?;
    let mut below = command.get_subcommands();
    below.try_for_each(|command| page(command, dir))
}
