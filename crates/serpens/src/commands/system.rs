//! `serpens completions` and `serpens man`: what the system around it learns of the command.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
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
    let written = clap_mangen::generate_to(Cli::command(), dir);
    written.map_err(FileError::of("write", dir))?;
    say(&one_line(&dir.display().to_string()))
}
