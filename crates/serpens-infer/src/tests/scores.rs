//! Scores against the definition, f64 log-softmax of a whole forward pass.

use super::*;
use serpens_data::Tokenizer;

use crate::{Item, Score, argmax, encode_pair, score};

fn expected(model: &MambaLm, before: &[u32], item: &Item) -> Score {
    let context = [before, &item.context].concat();
    let whole = [&context[..], &item.continuation].concat();
    let logits = forward(model, &whole);
    let tokens = item.continuation.iter().enumerate().map(|(i, &token)| {
        let logits = &logits[context.len() + i - 1];
        crate::TokenScore {
            log_prob: log_softmax(logits)[token as usize],
            greedy: argmax(logits) == Some(token as usize),
        }
    });
    Score {
        tokens: tokens.collect(),
    }
}

fn assert_close(got: &[Score], expected: &[Score]) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.tokens.len(), expected.tokens.len(), "item {i}");
        for (got, expected) in got.tokens.iter().zip(&expected.tokens) {
            assert!(
                (got.log_prob - expected.log_prob).abs() < 1e-5,
                "item {i}: {got:?}"
            );
            assert_eq!(got.greedy, expected.greedy, "item {i}");
        }
        assert!((got.log_prob() - expected.log_prob()).abs() < 1e-4);
    }
}

/// Four choices each, of contexts that begin alike in part, one of them longer than a few rows.
fn items(model: &MambaLm) -> Vec<Item> {
    let greedy = run_one(
        model,
        Request {
            prompt: ids(3, 40),
            tokens: 4,
            sampling: crate::SampleOptions {
                temperature: 0.0,
                ..Default::default()
            },
            ..Request::default()
        },
    );
    let contexts = [
        ids(3, 40),
        [ids(3, 30), ids(9, 10)].concat(),
        ids(5, 1),
        [ids(3, 40), ids(8, 200)].concat(),
        [ids(3, 40), ids(8, 200)].concat()[..220].to_vec(),
        ids(3, 40),
    ];
    let choices = |(i, context): (usize, Vec<u32>)| {
        let choices = [
            ids(i, 1),
            ids(i + 1, 5),
            greedy.tokens(),
            [ids(i + 1, 5), ids(2, 20)].concat(),
        ];
        choices.map(|continuation| Item {
            context: context.clone(),
            continuation,
        })
    };
    contexts.into_iter().enumerate().flat_map(choices).collect()
}

#[test]
fn items_are_scored_as_by_a_forward_pass_each_and_shared_beginnings_are_read_once() {
    let model = model(1);
    let items = items(&model);
    let mut heard = Vec::new();
    let scores = score(&model, None, &items, &mut |done| heard.push(done)).unwrap();
    let expected: Vec<Score> = items
        .iter()
        .map(|item| expected(&model, &[], item))
        .collect();
    assert_close(&scores.items, &expected);
    assert!(scores.items[2].is_greedy() && !scores.items[6].is_greedy());
    assert_eq!(heard, [24]);
    let asked: usize = items
        .iter()
        .map(|i| i.context.len() + i.continuation.len() - 1)
        .sum();
    assert_eq!(scores.asked, asked);
    assert!(scores.read < asked / 2, "{} of {asked}", scores.read);
}

#[test]
fn two_choices_that_differ_in_one_token_are_scored_by_hand() {
    let model = model(2);
    let context = ids(1, 30);
    let items = [7, 8].map(|token| Item {
        context: context.clone(),
        continuation: vec![token],
    });
    let scores = score(&model, None, &items, &mut |_| ()).unwrap();
    let row = log_softmax(&forward(&model, &context)[29]);
    for (score, token) in scores.items.iter().zip([7, 8]) {
        assert!((score.log_prob() - row[token]).abs() < 1e-5);
    }
    // Their last tokens are not read, so that both read the same.
    assert_eq!((scores.asked, scores.read), (60, 30));
}

#[test]
fn items_go_on_from_a_state_and_need_no_context_then() {
    let model = model(3);
    let before = ids(6, 25);
    let state = SequenceState::new(&model)
        .unwrap()
        .read(&model, &before)
        .unwrap();
    let item = |context: usize, continuation: usize| Item {
        context: ids(1, context),
        continuation: ids(2, continuation),
    };
    let items = vec![item(0, 3), item(4, 2), item(0, 1), item(2, 0)];
    let scores = score(&model, Some(&state), &items, &mut |_| ()).unwrap();
    let expected: Vec<Score> = items
        .iter()
        .map(|item| expected(&model, &before, item))
        .collect();
    assert_close(&scores.items, &expected);
    assert_eq!(scores.items[3].log_prob(), 0.0);
    // A state whose last token is drawn, but not read.
    let sample = run_one(
        &model,
        Request {
            prompt: before.clone(),
            tokens: 2,
            ..Request::default()
        },
    );
    let before = [&before[..], &sample.tokens()].concat();
    let (_, state) = sample.end.unwrap();
    let scores = score(&model, Some(&state), &items[..2], &mut |_| ()).unwrap();
    let expected: Vec<Score> = items[..2]
        .iter()
        .map(|item| self::expected(&model, &before, item))
        .collect();
    assert_close(&scores.items, &expected);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let model = model(4);
    let refused = |context: &[u32], continuation: &[u32]| {
        let item = Item {
            context: context.to_vec(),
            continuation: continuation.to_vec(),
        };
        score(&model, None, &[item], &mut |_| ()).unwrap_err()
    };
    assert!(matches!(refused(&[], &[1]), Error::EmptyPrompt));
    assert!(matches!(refused(&[1, 99], &[1]), Error::Core(_)));
    assert!(matches!(refused(&[1], &[99]), Error::Core(_)));
    let nothing = score(&model, None, &[], &mut |_| ()).unwrap();
    assert_eq!(nothing, Default::default());
}

#[test]
fn white_space_between_context_and_continuation_is_the_continuations() {
    let bytes = Tokenizer::bytes();
    let pair = |context: &str, continuation: &str| {
        let item = encode_pair(&bytes, context, continuation).unwrap();
        let text = |ids: &[u32]| String::from_utf8(bytes.decode(ids)).unwrap();
        [text(&item.context), text(&item.continuation)]
    };
    assert_eq!(pair("a b", " c"), ["a b", " c"]);
    assert_eq!(pair("a b\n ", "c"), ["a b", "\n c"]);
    // Nothing begins a text of bytes: its first token is what the others go on from.
    assert_eq!(pair("", "cd"), ["c", "d"]);
    assert_eq!(pair(" ", "d"), [" ", "d"]);
    assert_eq!(pair("", "c"), ["c", ""]);
    assert_eq!(pair("", ""), ["", ""]);
}
