//! Requests that are refused before anything has begun.

use std::fs;

use crate::support::{Ran, TestFolder, with_settings};

#[test]
fn data_that_cannot_be_read_is_refused_in_one_line() {
    let place = TestFolder::new();
    place.write("empty.txt", "");
    place.write("short.txt", "0123456789");
    fs::create_dir(place.path("nothing")).unwrap();
    let cases = [
        ("missing.txt", "does not exist"),
        ("empty.txt", "holds no text"),
        ("nothing", "holds no text"),
        ("none/*.txt", "holds no text"),
        ("/dev/null", "neither a file nor a folder"),
        ("/proc/self/mem", "/proc/self/mem"),
        ("short.txt", "the training part has 9 tokens"),
    ];
    for (data, words) in cases {
        let ran = place.run(&["train", "text", "--data", data]);
        ran.is_refused(2, &["--data", words]);
    }
    place.run(&["train", "text"]).is_refused(2, &["--data"]);
    place
        .run(&["train", "text", "--data", "["])
        .is_refused(2, &["malformed"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn the_best_of_what_nothing_evaluates_and_rates_that_are_no_number_are_refused() {
    let place = TestFolder::new();
    let best = ["train", "--set", "train.best.patience=3"];
    place
        .run(&best)
        .is_refused(2, &["train.best", "nothing evaluates"]);
    for rate in ["inf", "1e39", "nan"] {
        place
            .run(&["train", "--lr", rate])
            .is_refused(2, &["train.optimizer.lr", "finite, above 0"]);
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn data_for_a_task_without_text_is_refused() {
    let place = TestFolder::new();
    place.text();
    let ran = place.run(&["train", "--data", "text.txt"]);
    ran.is_refused(2, &["--data", "induction-heads", "no use for it"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn a_misspelt_key_is_answered_with_the_nearest() {
    let place = TestFolder::new();
    let ran = place.run(&["train", "--set", "train.setps=5"]);
    ran.is_refused(2, &["--set train.setps=5", "\"setps\"", "\"steps\""]);
    let ran = place.run(&["train", "--set", "model.block.kind=mambo"]);
    ran.is_refused(2, &["unknown value \"mambo\"", "known are mamba, h3"]);
    // A key of another table is answered with its whole path.
    let ran = place.run(&["train", "--set", "train.lr=1e-3"]);
    ran.is_refused(2, &["unknown key \"lr\"", "\"train.optimizer.lr\""]);
    let ran = place.run(&["train", "--set", "model.d_state=8"]);
    ran.is_refused(2, &["\"d_state\"", "\"model.block.inner.d_state\""]);
    let recipe = place.run(&["recipes", "show", "text"]).succeeds().stdout;
    let line = recipe
        .lines()
        .position(|line| line.starts_with("d_model"))
        .unwrap()
        + 1;
    place.write("mine.toml", recipe.replace("d_model", "d_modle"));
    let ran = place.run(&["train", "--recipe", "mine.toml"]);
    ran.is_refused(
        2,
        &[
            &format!("mine.toml, line {line}"),
            "\"d_modle\"",
            "\"d_model\"",
        ],
    );
    place.run(&["train", "txet"]).is_refused(
        2,
        &["\"txet\"", "known are induction-heads", "train text --data"],
    );
    let ran = place.run(&["recipes", "show", "txet"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("'txet'"));
    assert!(ran.stderr.contains("induction-heads") && !ran.stderr.contains("--data"));
    assert!(!place.path("runs").exists());
}

#[test]
fn a_recipe_that_cannot_be_read_is_refused() {
    let place = TestFolder::new();
    place.write("broken.toml", "seed = 0\n[task\n");
    place.write("binary.toml", [0xff, 0xfe, 0x00]);
    place.write("empty.toml", "");
    place
        .run(&["train", "--recipe", "missing.toml"])
        .is_refused(2, &["missing.toml", "induction-heads"]);
    place
        .run(&["train", "--recipe", "binary.toml"])
        .is_refused(1, &["binary.toml"]);
    place
        .run(&["train", "--recipe", "."])
        .is_refused(1, &["cannot read ."]);
    place
        .run(&["train", "--recipe", "broken.toml"])
        .is_refused(2, &["broken.toml, line 2"]);
    place
        .run(&["train", "--recipe", "empty.toml"])
        .is_refused(2, &["empty.toml", "task"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn impossible_settings_are_refused_and_leave_no_folder() {
    let place = TestFolder::new();
    let cases = [
        ("model.d_model=0", "d_model"),
        ("model.d_model=-8", "-8"),
        ("model.d_model=8.5", "8.5"),
        ("model.d_model=10000000", "memory"),
        ("model.d_model=9223372036854775807", "memory"),
        ("model.d_model=99999999999999999999999", "d_model"),
        ("model.n_layer=9223372036854775807", "16384"),
        ("model.n_layer=0", "model.n_layer = 0"),
        ("model.vocab_size=0", "vocab_size"),
        ("model.vocab_size=8", "vocab_size"),
        ("model.norm_eps=nan", "model.norm_eps = NaN"),
        ("model.norm_eps=1e300", "from 0 to 1"),
        ("model.embedding_std=-1", "model.embedding_std = -1"),
        ("model.embedding_std=1e12", "from 0 to 1000"),
        ("model.embedding_std=nan", "model.embedding_std = NaN"),
        (
            "model.block.inner.dt.min=-1",
            "model.block.inner.dt.min = -1",
        ),
        ("model.block.inner.dt.min=0", "model.block.inner.dt.min = 0"),
        (
            "model.block.inner.dt.max=nan",
            "model.block.inner.dt.max = NaN",
        ),
        ("model.block.inner.dt.max=1e-5", "from 0.001 to 1000"),
        (
            "model.block.inner.dt.floor=1",
            "model.block.inner.dt.floor = 1",
        ),
        ("twin.dt={min=-1, max=0.1, floor=1e-4}", "twin.dt.min = -1"),
        ("twin.max_lr=nan", "twin.max_lr = NaN"),
        ("model.block.inner.d_state=0", "model.block.inner.d_state"),
        ("model.block.inner.d_state=1000", "d_state"),
        ("model.block.inner.dt_rank=1000000000000", "memory"),
        ("model.block.expand=0", "expand"),
        ("model.block.expand=1000000000", "memory"),
        ("model.block.d_conv=0", "d_conv"),
        ("model.block.d_conv=1000000000000", "memory"),
        ("twin.d_state=0", "d_state"),
        ("task.batch=0", "task.batch"),
        ("task.batch=9223372036854775807", "batch"),
        ("task.batch=5000000", "memory"),
        ("task.vocab=2", "vocab"),
        ("task.lengths=[]", "lengths"),
        ("task.lengths=[2]", "task.lengths"),
        ("task.lengths=16", "16"),
        ("train.steps=-1", "-1"),
        ("train.accumulation=0", "accumulation"),
        ("train.log_every=0", "log_every"),
        ("train.keep=0", "keep"),
        ("train.min_lr=nan", "min_lr"),
        ("train.min_lr=-1", "min_lr"),
        ("train.optimizer.lr=0", "lr"),
        ("train.optimizer.lr=nan", "lr"),
        ("train.optimizer.lr=-0.1", "lr"),
        ("train.optimizer.beta1=1", "beta1"),
        ("train.optimizer.eps=-1", "eps"),
        ("train.optimizer.clip=-1", "clip"),
        (
            "train.optimizer={ kind = \"sgd\", momentum = 1 }",
            "train.optimizer.momentum",
        ),
        (
            "train.optimizer={ kind = \"lion\", eps = 1e-8 }",
            "known are kind, lr, beta1, beta2",
        ),
        ("train.freeze=[\"backbone.embedding\"]", "train.freeze"),
        (
            "train.freeze=[\"backbone.layers.*.mixer.in_proj\", \"\"]",
            "train.freeze",
        ),
        ("evaluate.lengths=[2]", "length"),
        ("evaluate.lengths=[9223372036854775807]", "evaluate.lengths"),
        ("evaluate.samples=0", "evaluate.samples"),
        ("evaluate.samples=1000000000000", "evaluate.samples"),
        ("evaluate.tokens=0", "evaluate.tokens"),
        ("evaluate.rows=0", "rows"),
        ("evaluate.chunk=0", "chunk"),
        ("seed=-1", "-1"),
        ("seed", "KEY=VALUE"),
        ("=1", "KEY=VALUE"),
        ("train.steps.more=1", "table"),
    ];
    for (setting, word) in cases {
        // What is not refused must at least end soon.
        let short = ["train", "--steps", "1", "--set", "evaluate.lengths=[16]"];
        let ran = place.run(&[&short[..], &["--set", setting]].concat());
        ran.is_refused(2, &[word]);
    }
    place
        .run(&["train", "--set", "train.steps=0"])
        .is_refused(2, &["train.steps", "give 1 or more"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn tests_that_no_memory_holds_are_refused() {
    let place = TestFolder::new();
    let large = [
        "evaluate.lengths=[8192]",
        "evaluate.samples=65536",
        "evaluate.rows=65536",
        "evaluate.chunk=8192",
    ];
    let ran = place.run(&with_settings(&["train"], &large, &[]));
    ran.is_refused(
        2,
        &["evaluate.rows × chunk: 536,870,912 tokens", "give at most"],
    );
    assert!(!place.path("runs").exists());
}

/// A limit of the process, which is less than any machine's memory that this is tested on.
#[cfg(target_os = "linux")]
#[test]
fn no_more_memory_is_planned_with_than_the_process_may_have() {
    let place = TestFolder::new();
    let limited = |args: &[&str]| {
        let output = place.command_after("ulimit -v 1000000", args).output();
        Ran::new(args, output.expect("there is a shell"))
    };
    let machine = limited(&["doctor", "--json", "--threads", "1"]).succeeds();
    assert_eq!(machine.json_lines()[0]["memory_bytes"], 1_024_000_000);
    let large = ["train", "--threads", "1", "--set", "model.d_model=8192"];
    limited(&large).is_refused(2, &["memory", "1.0 GB"]);
}

#[test]
fn impossible_settings_of_a_text_task_are_refused() {
    let place = TestFolder::new();
    place.text();
    let cases = [
        ("task.batch=0", "batch"),
        ("task.length=0", "task.length"),
        ("task.validation=2", "task.validation"),
        ("task.validation=-0.5", "validation"),
        ("task.validation=nan", "validation"),
        ("task.prompt=''", "prompt"),
        ("model.vocab_size=100", "vocab_size"),
        ("model.vocab_size=300", "vocab_size"),
    ];
    for (setting, word) in cases {
        let ran = place.run(&["train", "text", "--data", "text.txt", "--set", setting]);
        ran.is_refused(2, &[word]);
    }
    let whole = ["train", "text", "--data", "text.txt"];
    let ran = place.run(&[&whole[..], &["--set", "task.validation=1"]].concat());
    ran.is_refused(2, &["--data", "part has 0 tokens"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn threads_and_names_that_cannot_be_are_refused() {
    let place = TestFolder::new();
    for (threads, words) in [
        ("0", "give a whole number, 1 to 1024"),
        ("abc", "give a whole number, 1 to 1024"),
        ("100000", "give a whole number, 1 to 1024"),
    ] {
        for command in ["train", "doctor"] {
            let ran = place.run(&[command, "--threads", threads]);
            assert_eq!(ran.code, Some(2));
            assert!(ran.stderr.contains(words), "{}", ran.stderr);
        }
    }
    for variable in ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"] {
        let mut many = place.command(&["doctor"]);
        let ran = many.env(variable, "100000").output();
        let ran = Ran::new(&["doctor"], ran.expect("the command starts"));
        ran.is_refused(2, &[variable, "1024"]);
        let mut none = place.command(&["recipes"]);
        for wrong in ["abc", "-1"] {
            let ran = none.env(variable, wrong).output();
            let ran = Ran::new(&["recipes"], ran.expect("the command starts"));
            ran.is_refused(2, &[variable, wrong, "give a whole number, 0 to 1024"]);
        }
        let ran = none.env(variable, "").output();
        Ran::new(&["recipes"], ran.expect("the command starts")).succeeds();
    }
    for name in ["", ".", "..", "a/b", "/abs"] {
        place
            .run(&["train", "--name", name])
            .is_refused(2, &["--name"]);
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn options_that_contradict_or_cannot_be_are_refused() {
    let place = TestFolder::new();
    // The parser's own refusals also say how the command is used, below their first line.
    let cases: [&[&str]; 12] = [
        &["train", "--steps", "0"],
        &["generate", "--model", "x", "--samples", "0"],
        &[
            "generate",
            "--model",
            "x",
            "--prompt",
            "a",
            "--prompt-file",
            "b",
        ],
        &["train", "--seed", "18446744073709551615"],
        &["train", "--stesp", "5"],
        &["train", "--steps", "-1"],
        &["train", "--steps", "many"],
        &["train", "--json", "--quiet"],
        &["train", "text", "--resume", "x"],
        &["train", "text", "--recipe", "x.toml"],
        &["generate"],
        &["tarin"],
    ];
    for args in cases {
        let ran = place.run(args);
        assert_eq!(ran.code, Some(2), "{args:?}\n{}", ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
    for (args, words) in [
        (
            &["train", "--batch=8"][..],
            "a field of the recipe by --set",
        ),
        (
            &["--threads", "2", "train", "--batch=8"],
            "a field of the recipe by --set",
        ),
        (&["train", "--lr=fast"], "give a number"),
        (&["train", "--no-verify"], "--resume"),
    ] {
        let ran = place.run(args);
        assert!(
            ran.code == Some(2) && ran.stderr.contains(words),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("as a value"), "{}", ran.stderr);
    }
    assert!(!place.path("runs").exists());
}

/// A name that would clear the screen and forge an error of its own, and its words the other way round.
const FORGED: &str = "x\u{1b}[2J\r\nerror: all is lost\u{202e}";

#[test]
fn what_a_terminal_would_obey_is_shown_in_errors() {
    let place = TestFolder::new();
    place.text();
    let shown = "x\\u001b[2J\\u000d\\nerror: all is lost\\u202e";
    let setting = format!("train.{FORGED}=1");
    for (code, args) in [
        (1, ["generate", "--model", FORGED]),
        (1, ["inspect", "--model", FORGED]),
        (2, ["train", "--set", &setting]),
        (2, ["train", "--resume", FORGED]),
    ] {
        place.run(&args).is_refused(code, &[shown]);
    }
    // The parser's own.
    for args in [
        ["train", "--steps", FORGED],
        ["train", "--device", FORGED],
        ["train", "text", FORGED],
        ["train", "text", &format!("--{FORGED}")],
        ["recipes", FORGED, "x"],
    ] {
        let ran = place.run(&args);
        assert!(ran.stderr.contains(shown), "{args:?}\n{}", ran.stderr);
        assert_eq!(ran.stderr.matches("\nerror: ").count(), 0, "{}", ran.stderr);
    }
    // On standard output: tables keep their lines, JSON what it says.
    place.train(&["--quiet", "--name", "a"]).succeeds();
    fs::rename(place.path("runs/a"), place.path(FORGED)).unwrap();
    let text = place.run(&["inspect", "--model", FORGED]).succeeds().stdout;
    assert!(text.contains("x\\u001b[2J") && !text.contains(['\u{1b}', '\u{202e}']));
    let json = place.run(&["inspect", "--model", FORGED, "--json"]);
    let json = json.succeeds();
    assert!(!json.stdout.contains(['\u{1b}', '\u{202e}']));
    json.json_lines();
}

#[test]
fn a_folder_that_cannot_be_made_is_refused() {
    let place = TestFolder::new();
    place.write("file", "kept");
    place
        .train(&["--out", "file/x"])
        .is_refused(1, &["cannot write file/x"]);
    place
        .train(&["--out", "file"])
        .is_refused(1, &["cannot write file"]);
    assert_eq!(fs::read_to_string(place.path("file")).unwrap(), "kept");
    if cfg!(target_os = "linux") {
        place
            .train(&["--out", "/proc/x"])
            .is_refused(1, &["cannot write /proc/x"]);
    } else {
        println!("skipped: /proc, where nobody can make a folder, is Linux's");
    }
}
