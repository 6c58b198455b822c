use serpens_data::Tokenizer;
use serpens_infer::{Score, TokenScore};

use super::*;

/// The questions of these lines, in a file, in bytes.
fn asked(task: &EvalTask, lines: &str) -> Result<Vec<Question>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines.jsonl");
    std::fs::write(&path, lines).unwrap();
    task.questions(path.to_str().unwrap(), None, &Tokenizer::bytes())
}

/// What is asked of each choice: its context and its target.
fn texts(question: &Question) -> Vec<[String; 2]> {
    let text = |ids: &Vec<u32>| String::from_utf8(Tokenizer::bytes().decode(ids)).unwrap();
    let items = question.items.iter();
    items
        .map(|item| [&item.context, &item.continuation].map(text))
        .collect()
}

/// Why these lines are none of this task, behind the file's name.
fn refused(task: &EvalTask, lines: &str) -> String {
    let told = asked(task, lines).unwrap_err().to_string();
    assert!(!told.contains('\n'), "{told}");
    told.split_once("lines.jsonl").unwrap().1.to_owned()
}

/// Scores of single tokens with these log-probabilities.
fn scores(log_probs: &[f64]) -> Vec<Score> {
    let score = |&log_prob: &f64| Score {
        tokens: vec![TokenScore {
            log_prob,
            greedy: log_prob > -1.0,
        }],
    };
    log_probs.iter().map(score).collect()
}

/// A question of these choices with the first as the right one.
fn question(choices: &[&str]) -> Question {
    Question {
        line: 1,
        choices: choices.iter().map(|choice| (*choice).to_owned()).collect(),
        gold: 0,
        items: Vec::new(),
    }
}

#[test]
fn lines_become_what_the_harness_asks() {
    let of = |name: &str, line: &str| {
        let questions = asked(&EvalTask::named(name).unwrap(), line).unwrap();
        (texts(&questions[0]), questions[0].gold)
    };
    let pair = |context: &str, target: &str| [context.to_owned(), target.to_owned()];
    let line = r#"{"text": "“The sun,” she said,\n  “is a star"}"#;
    let expected = pair("“The sun,” she said,\n  “is a", " star");
    assert_eq!(of("lambada", line), (vec![expected], 0));
    for (name, context) in [
        ("hellaswag", "Why?"),
        ("openbookqa", "Why?"),
        ("arc-easy", "Why?\nAnswer:"),
        ("arc-challenge", "Why?\nAnswer:"),
    ] {
        let line = r#"{"query": "Why?", "choices": ["so", " {{ x }}"], "gold": 1}"#;
        let expected = vec![pair(context, " so"), pair(context, "  {{ x }}")];
        assert_eq!(of(name, line), (expected, 1), "{name}");
    }
    let line = r#"{"context_options": ["He saw Ann so Ann", "He saw Ann so he"], "continuation": "ran.", "gold": "1"}"#;
    let expected = ["He saw Ann so Ann", "He saw Ann so he"].map(|context| pair(context, " ran."));
    assert_eq!(of("winogrande", line), (expected.to_vec(), 1));
}

#[test]
fn labels_stand_in_a_file_of_their_own_or_are_letters() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("valid.jsonl");
    let lines = "{\"goal\": \"g\", \"sol1\": \"a\", \"sol2\": \"b\"}\n".repeat(3);
    std::fs::write(&path, lines).unwrap();
    std::fs::write(dir.path().join("valid-labels.lst"), "1\n0\n").unwrap();
    let piqa = EvalTask::named("piqa").unwrap();
    let of_piqa = |limit| piqa.questions(path.to_str().unwrap(), Some(limit), &Tokenizer::bytes());
    let questions = of_piqa(2).unwrap();
    assert_eq!((questions[0].gold, questions[1].gold), (1, 0));
    assert_eq!(texts(&questions[0])[1], ["Question: g\nAnswer:", " b"]);
    let told = of_piqa(3).unwrap_err();
    assert!(
        told.to_string()
            .contains("line 3: it has no field \"label\", but goal"),
        "{told}"
    );

    let own = "target = ' {{ choice }}'\nchoices = '[a, b]'\ngold = 'key'";
    let own = EvalTask::read("own", own).unwrap();
    let questions = asked(&own, r#"{"a": "x", "b": "y", "key": "B"}"#).unwrap();
    assert_eq!(questions[0].gold, 1);
}

#[test]
fn metrics_are_those_worked_by_hand() {
    // −4 of 2 characters in 4 bytes, −6.5 of 6: the first wins as it is and by bytes, the second by characters.
    let questions = [
        (question(&["éé", "abcdef"]), scores(&[-4.0, -6.5])),
        (question(&["ab", "cd"]), scores(&[-3.0, -3.0])),
        (question(&["ab", "cd", "e"]), scores(&[-2.0, -1.0, -8.0])),
    ];
    let values = |metric: Metric| {
        questions
            .each_ref()
            .map(|(question, scores)| metric.of(question, scores))
    };
    assert_eq!(values(Metric::Acc), [1.0, 1.0, 0.0]);
    assert_eq!(values(Metric::AccNorm), [0.0, 1.0, 0.0]);
    assert_eq!(values(Metric::AccBytes), [1.0, 1.0, 0.0]);
    assert_eq!(values(Metric::Perplexity), [-4.0, -3.0, -2.0]);
    let (share, stderr) = Metric::AccNorm.figure(&values(Metric::AccNorm));
    assert!((share - 1.0 / 3.0).abs() < 1e-15);
    // √(p(1 − p)/(n − 1))
    assert!((stderr.unwrap() - (1.0_f64 / 3.0 * 2.0 / 3.0 / 2.0).sqrt()).abs() < 1e-15);
    // The deviation of −4, −3 and −2 is 1.
    let (perplexity, stderr) = Metric::Perplexity.figure(&values(Metric::Perplexity));
    assert_eq!(perplexity, 3.0_f64.exp());
    assert!((stderr.unwrap() - 3.0_f64.exp() / 3.0_f64.sqrt()).abs() < 1e-12);
    assert_eq!(Metric::Acc.figure(&[1.0]), (1.0, None));
}

#[test]
fn a_single_target_is_right_where_all_its_tokens_are_greedy() {
    let alone = question(&[""]);
    let mut scores = scores(&[-0.5]);
    assert_eq!(Metric::Acc.of(&alone, &scores), 1.0);
    scores[0].tokens.push(TokenScore {
        log_prob: -0.75,
        greedy: false,
    });
    assert_eq!(Metric::Acc.of(&alone, &scores), 0.0);
    assert_eq!(Metric::Perplexity.of(&alone, &scores), -1.25);
}

#[test]
fn lines_that_ask_nothing_are_refused_by_their_number() {
    let hellaswag = EvalTask::named("hellaswag").unwrap();
    for (choices, gold, words) in [
        ("[]", "0", "choices"),
        ("\"ab\"", "0", "choices"),
        ("[\"a\", 1]", "0", "choices"),
        ("null", "0", "choices"),
        ("[\"a\", \"b\"]", "2", "\"2\" is none of its 2 choices"),
        ("[\"a\", \"b\"]", "-1", "\"-1\" is none"),
        ("[\"a\", \"b\"]", "\"C\"", "\"C\" is none"),
        ("[\"a\", \"b\"]", "0.5", "\"0.5\" is none"),
        ("[\"a\", \"b\"]", "null", "is none"),
    ] {
        let wrong = format!(r#"{{"query": "q", "choices": {choices}, "gold": {gold}}}"#);
        let right = r#"{"query": "q", "choices": ["a", "b"], "gold": 0}"#;
        let told = refused(&hellaswag, &format!("{right}\n\n{wrong}\n"));
        assert!(
            told.starts_with(", line 3: ") && told.contains(words),
            "{told}"
        );
    }
    let told = refused(&hellaswag, r#"{"text": "of another task", "more": 1}"#);
    assert!(
        told.contains("no field \"choices\", but more, text;"),
        "{told}"
    );
    assert!(refused(&hellaswag, "[1]").contains("line 1: it is no JSON object"));
    assert!(refused(&hellaswag, "{\"query\": ").contains("no JSON object"));
    assert!(refused(&hellaswag, " \n\n").contains(": it has no line"));
    let told = refused(
        &EvalTask::named("lambada").unwrap(),
        r#"{"text": ["a", "b"]}"#,
    );
    assert!(told.starts_with(", line 1: "), "{told}");
}

#[test]
fn tasks_that_cannot_be_are_refused() {
    for (text, words) in [
        (
            "metrics = ['accuracy']",
            "own, line 1: unknown value \"accuracy\"; known are acc,",
        ),
        (
            "\ntargets = 'a'",
            "own, line 2: unknown key \"targets\"; did you mean \"target\"?",
        ),
        ("target = 1", "own, line 1: "),
    ] {
        let told = EvalTask::read("own", text).unwrap_err().to_string();
        assert!(told.contains(words), "{text}: {told}");
    }
    for text in [
        "target = '{{ a'",
        "target = '{{ a | no }}'",
        "choices = '[a'",
    ] {
        let own = EvalTask::read("own", text).unwrap();
        let told = asked(&own, "{\"a\": 1}").unwrap_err().to_string();
        assert!(
            told.contains("serpens eval --help") && !told.contains('\n'),
            "{told}"
        );
    }
    let told = EvalTask::named("lambda").unwrap_err().to_string();
    assert!(told.contains("known are lambada, hellaswag"), "{told}");
}

#[test]
fn every_built_in_task_reads() {
    for (name, text) in BUILT_IN {
        let task = EvalTask::named(name).unwrap();
        assert!(text.starts_with("# ") && !task.data.as_os_str().is_empty());
        assert!(task.metrics.contains(&Metric::Acc) && names().contains(name));
    }
}

#[test]
fn what_has_no_tokens_is_refused_by_its_line() {
    let own = EvalTask::read("own", "context = '{{ a }}'\ntarget = '{{ b }}'").unwrap();
    let line = |a: &str, b: &str| format!("{{\"a\": \"{a}\", \"b\": \"{b}\"}}");
    let of = |a: &str, b: &str| texts(&asked(&own, &line(a, b)).unwrap()[0]).remove(0);
    assert_eq!(of("x\\n ", "y"), ["x", "\n y"]);
    // Of bytes nothing begins a text: the first is what the others go on from.
    assert_eq!(of("", "yz"), ["y", "z"]);
    for (a, b) in [("x", ""), ("", "y")] {
        let told = refused(&own, &line(a, b));
        assert!(told.starts_with(", line 1: its target is empty"), "{told}");
    }
}
