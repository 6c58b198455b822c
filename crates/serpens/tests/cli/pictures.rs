//! Reports drawn again, and what shells and manuals learn of the command.

use std::fs;

use crate::support::TestFolder;

#[test]
fn a_reports_figures_are_drawn_for_a_paper() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let ran = place.run(&["report", "a"]).succeeds();
    let drawn: Vec<&str> = ran.stdout.lines().collect();
    for name in [
        "accuracy-against-length",
        "gradient-norm",
        "learning-rate",
        "what-s6-selects",
    ] {
        let path = format!("runs/a/paper/{name}.svg");
        assert!(drawn.contains(&path.as_str()), "{path} is not in {drawn:?}");
        let svg = fs::read_to_string(place.path(&path)).unwrap();
        assert!(svg.contains(r#" width="3.3in" "#), "{svg}");
        assert!(!svg.contains("font-weight=\"600\">What S6"), "no title");
    }
    let wide = ["report", "runs/a", "--out", "wide", "--width", "6.9"];
    place.run(&wide).succeeds();
    let svg = fs::read_to_string(place.path("wide/loss-in-training.svg")).unwrap();
    assert!(svg.contains(r#" width="6.9in" "#), "{svg}");
}

#[test]
fn a_report_that_is_not_there_or_broken_is_told() {
    let place = TestFolder::new();
    place.train(&["--quiet", "--name", "a"]).succeeds();
    let report = place.path("runs/a/report.json");
    fs::write(&report, "{\"title\": ").unwrap();
    let ran = place.run(&["report", "a"]);
    ran.is_refused(2, &["runs/a", "report.json is broken", "EOF"]);
    fs::remove_file(&report).unwrap();
    let ran = place.run(&["report", "a"]);
    ran.is_refused(2, &["runs/a/report.json is not there", "--resume"]);
    let ran = place.run(&["report", "b"]);
    ran.is_refused(2, &["error: RUN: neither b nor runs/b is a run"]);
    let ran = place.run(&["report", "a", "--width", "0"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("from 1.5 to 20"));
    if !cfg!(feature = "paper") {
        place.train(&["--quiet", "--name", "b"]).succeeds();
        let ran = place.run(&["report", "b", "--format", "pdf"]);
        ran.is_refused(2, &["--format", "--features paper"]);
    }
}

#[test]
fn shells_and_manuals_learn_every_command() {
    let place = TestFolder::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&["completions", shell]).succeeds().stdout;
        for word in ["generate", "inspect", "resume"] {
            assert!(script.contains(word), "{shell} does not learn {word}");
        }
    }
    place.run(&["man", "pages/man1"]).succeeds();
    for (page, word) in [
        ("serpens.1", "Selective state space models"),
        ("serpens-train.1", "optimiser"),
        ("serpens-recipes-show.1", "Print a recipe"),
    ] {
        let text = fs::read_to_string(place.path(&format!("pages/man1/{page}"))).unwrap();
        assert!(text.contains(word), "{page} lacks {word:?}");
    }
    place.write("file", "");
    let ran = place.run(&["man", "file"]);
    ran.is_refused(1, &["cannot write file"]);
}

#[test]
fn the_version_is_the_packages() {
    let version = TestFolder::new().run(&["--version"]).succeeds().stdout;
    assert!(version.starts_with(concat!("serpens ", env!("CARGO_PKG_VERSION"))));
}
