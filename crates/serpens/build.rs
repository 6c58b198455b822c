//! Tells the command its version, with the commit that a released binary was built from where that is known.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version = env!("CARGO_PKG_VERSION");
    // A build for development would be made again after each commit, or name an old one.
    let released = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = released.then(|| packaged().or_else(checked_out)).flatten();
    let commit = commit.map_or_else(String::new, |commit| format!(" ({commit:.10})"));
    println!("cargo:rustc-env=SERPENS_VERSION={version}{commit}");
}

/// The commit that a package was made from: the repository around it, if any, is another one.
fn packaged() -> Option<String> {
    let facts = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, commit) = facts.split_once("\"sha1\": \"")?;
    Some(commit.split('"').next()?.to_owned())
}

fn checked_out() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    // To watch a file that is not there would build anew each time.
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "HEAD"])
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
