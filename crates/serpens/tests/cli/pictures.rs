//! Reports drawn again.

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
    let ran = place.run(&["report", "a", "--width", "0"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("from 1.5 to 20"));
    if !cfg!(feature = "paper") {
        place.train(&["--quiet", "--name", "b"]).succeeds();
        let ran = place.run(&["report", "b", "--format", "pdf"]);
        ran.is_refused(2, &["--format", "--features paper"]);
    }
}
