//! What is drawn does not depend on what is drawn beside it.

use serpens_nn::Precision;
use serpens_nn::mixers::{AttentionConfig, H3Config, MambaConfig, PlainConfig};
use serpens_nn::ssm::S4dConfig;

use super::*;
use crate::{Broken, SampleOptions};

/// Prompts of few and of many rows, options of all kinds.
fn requests() -> Vec<Request> {
    let lengths = [1, 40, 128, 3, 129, 7, 300, 90, 64, 1000, 2];
    let request = |(i, length): (usize, usize)| Request {
        prompt: ids(i, length),
        sampling: SampleOptions {
            temperature: [1.0, 0.0, 0.7][i % 3],
            top_k: [0, 5][i % 2],
            repetition_penalty: [1.0, 1.3][i % 2],
            frequency_penalty: [0.0, 0.4, -0.2][i % 3],
            ..SampleOptions::default()
        },
        seed: i as u64 / 2,
        tokens: 4 + 5 * i % 13,
        ends: if i == 5 { (0..25).collect() } else { vec![] },
        log_probs: Some(i % 3),
        ..Request::default()
    };
    lengths.into_iter().enumerate().map(request).collect()
}

#[test]
fn a_request_draws_the_same_bits_whatever_the_batch_around_it_on_every_device() {
    let mixed = MambaLmConfig::new(24, 3, TOKENS).with_mixers([
        MambaConfig::default().into(),
        H3Config {
            ssm: S4dConfig {
                d_state: 4,
                ..S4dConfig::default()
            }
            .into(),
            ..H3Config::default()
        }
        .into(),
        PlainConfig::default().into(),
    ]);
    let models = [model(1), mixed.init(Device::cpu(), 1).unwrap()];
    let devices = [Ok(Device::Cpu), Device::cuda(0)];
    let cases = models
        .iter()
        .flat_map(|model| devices.iter().flatten().map(move |d| (model, *d)));
    for (model, device) in cases {
        let mut model = model.clone();
        model.to(device, Precision::F32).unwrap();
        let alone: Vec<Sample> = requests().into_iter().map(|r| run_one(&model, r)).collect();
        // A GPU always steps as many slots as there are.
        let slots: &[usize] = if device == Device::Cpu {
            &[1, 3, 32]
        } else {
            &[32]
        };
        for &slots in slots {
            let batching = Batching {
                slots,
                ..Batching::default()
            };
            let together = run(&model, requests(), batching, usize::MAX).unwrap();
            for (i, (together, alone)) in together.iter().zip(&alone).enumerate() {
                assert_eq!(together[0].drawn, alone.drawn, "request {i}, {slots} slots");
                let [(a, one), (b, other)] =
                    [&together[0], alone].map(|sample| sample.end.as_ref().unwrap());
                assert_eq!((a, one.position()), (b, other.position()));
            }
        }
        assert!(
            alone[5].drawn.len() < requests()[5].tokens,
            "an end was drawn"
        );
    }
}

#[test]
fn what_is_drawn_are_the_tokens_of_the_whole_sequence_read_at_once() {
    let model = model(2);
    for (prompt, tokens) in [(ids(1, 5), 30), (ids(2, 200), 10)] {
        let request = Request {
            prompt: prompt.clone(),
            tokens,
            log_probs: Some(3),
            seed: 9,
            ..Request::default()
        };
        let sample = run_one(&model, request);
        let whole = [&prompt[..], &sample.tokens()].concat();
        let logits = forward(&model, &whole);
        for (i, drawn) in sample.drawn.iter().enumerate() {
            let expected = log_softmax(&logits[prompt.len() + i - 1]);
            let told = drawn.log_probs.as_ref().unwrap();
            assert!((told.drawn - expected[drawn.token as usize]).abs() < 1e-5);
            let mut sorted = expected.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for ((token, told), expected_of_rank) in told.top.iter().zip(&sorted) {
                assert!((told - expected[*token as usize]).abs() < 1e-5);
                assert!((told - expected_of_rank).abs() < 1e-5);
            }
            assert_eq!(told.top.len(), 3);
        }
    }
}

#[test]
fn samples_are_read_once_and_drawn_as_requests_of_the_next_seeds() {
    let model = model(3);
    let request = |samples, seed| Request {
        prompt: ids(4, 20),
        samples,
        seed,
        tokens: 12,
        ..Request::default()
    };
    let batching = Batching {
        slots: 2,
        ..Batching::default()
    };
    let forked = run(
        &model,
        vec![request(0, 1), request(4, 5), request(1, 5)],
        batching,
        99,
    )
    .unwrap();
    assert_eq!(forked[1].len(), 4);
    let texts: Vec<Vec<u32>> = forked[1].iter().map(Sample::tokens).collect();
    for (i, text) in texts.iter().enumerate() {
        assert_eq!(*text, run_one(&model, request(1, 5 + i as u64)).tokens());
        assert!(!texts[..i].contains(text), "another seed, another text");
    }
    assert_eq!(forked[2][0].tokens(), texts[0]);
}

#[test]
fn a_sample_ends_by_its_tokens_its_length_or_its_listener() {
    let model = model(4);
    let request = |tokens, ends: Vec<u32>| Request {
        prompt: ids(1, 3),
        tokens,
        ends,
        ..Request::default()
    };
    let whole = run_one(&model, request(20, vec![]));
    let ended = |sample: &Sample| sample.end.as_ref().unwrap().0;
    assert_eq!((ended(&whole), whole.drawn.len()), (End::Length, 20));
    let end = whole.tokens()[6];
    let first = whole
        .tokens()
        .iter()
        .position(|token| *token == end)
        .unwrap();
    let by_token = run_one(&model, request(20, vec![99, end]));
    assert_eq!(ended(&by_token), End::Token);
    assert_eq!(by_token.tokens(), whole.tokens()[..=first]);
    let broken = run(&model, vec![request(20, vec![])], Batching::default(), 4).unwrap();
    assert_eq!(
        (ended(&broken[0][0]), broken[0][0].drawn.len()),
        (End::Broken, 4)
    );
    let bounded = MambaLmConfig::new(24, 1, TOKENS).with_mixer(AttentionConfig {
        context: 10,
        ..AttentionConfig::default()
    });
    let bounded = bounded.init(Device::cpu(), 1).unwrap();
    let longer = Request {
        prompt: ids(2, 7),
        ..request(5, vec![])
    };
    let both = vec![longer.clone(), request(5, vec![])];
    let both = run(&bounded, both, Batching::default(), usize::MAX).unwrap();
    // The last that is drawn is not read.
    let full = &both[0][0];
    assert_eq!((ended(full), full.drawn.len()), (End::Full, 4));
    assert_eq!(
        (ended(&both[1][0]), both[1][0].drawn.len()),
        (End::Length, 5)
    );
    assert_eq!(full.drawn[..], run_one(&bounded, longer).drawn[..]);
    let none = run_one(&model, request(0, vec![]));
    assert_eq!((ended(&none), none.drawn.len()), (End::Length, 0));
    assert_eq!(none.end.unwrap().1.position(), 3);
}

#[test]
fn tokens_behind_the_vocabulary_are_not_drawn_and_count_in_probabilities() {
    let model = model(6);
    let request = || Request {
        prompt: ids(1, 3),
        tokens: 200,
        sampling: SampleOptions {
            temperature: 1e30, // all tokens alike
            ..SampleOptions::default()
        },
        log_probs: Some(TOKENS),
        ..Request::default()
    };
    let drawn = |vocabulary| {
        let batching = Batching {
            vocabulary,
            ..Batching::default()
        };
        run(&model, vec![request()], batching, 999)
            .unwrap()
            .remove(0)
            .remove(0)
            .drawn
    };
    let largest = |drawn: &[Drawn]| drawn.iter().map(|drawn| drawn.token).max().unwrap();
    assert!(largest(&drawn(usize::MAX)) > 40);
    let drawn = drawn(41);
    assert!(largest(&drawn) <= 40);
    for drawn in drawn {
        let told = drawn.log_probs.unwrap();
        let all: f64 = told.top.iter().map(|(_, log_prob)| log_prob.exp()).sum();
        assert!((all - 1.0).abs() < 1e-6 && told.top.contains(&(drawn.token, told.drawn)));
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let model = model(5);
    let refused = |request| run(&model, vec![request], Batching::default(), 9).unwrap_err();
    assert!(matches!(refused(Request::default()), Error::EmptyPrompt));
    let prompt = vec![1, TOKENS as u32];
    let unknown = refused(Request {
        prompt,
        ..Request::default()
    });
    assert!(matches!(unknown, Error::Core(_)), "{unknown}");
    let with = |sampling| Request {
        prompt: vec![1],
        sampling,
        ..Request::default()
    };
    let logit_bias = vec![(TOKENS as u32, 1.0)];
    let unknown = refused(with(SampleOptions {
        logit_bias,
        ..SampleOptions::default()
    }));
    assert!(
        matches!(unknown, Error::Bias { token, vocabulary: TOKENS } if token as usize == TOKENS),
        "{unknown}"
    );
    let none: Vec<(u32, f32)> = (0..TOKENS as u32)
        .map(|token| (token, f32::NEG_INFINITY))
        .collect();
    for options in [
        SampleOptions {
            logit_bias: none,
            ..SampleOptions::default()
        },
        SampleOptions {
            repetition_penalty: 1e-40,
            ..SampleOptions::default()
        },
    ] {
        let refused = refused(with(options));
        assert!(
            matches!(refused, Error::Logits(Broken::Adjusted)),
            "{refused}"
        );
    }
    let cold = refused(with(SampleOptions {
        temperature: -1.0,
        ..SampleOptions::default()
    }));
    assert!(matches!(cold, Error::SampleOption(_)), "{cold}");
}

#[test]
fn a_bias_is_for_what_can_be_drawn_which_is_something() {
    let model = model(5);
    let refused = |vocabulary, token| {
        let sampling = SampleOptions {
            logit_bias: vec![(token, 1.0)],
            ..SampleOptions::default()
        };
        let request = Request {
            prompt: vec![1],
            sampling,
            ..Request::default()
        };
        let batching = Batching {
            vocabulary,
            ..Batching::default()
        };
        run(&model, vec![request], batching, 1).unwrap_err()
    };
    let padding = refused(41, 41);
    let told = matches!(padding, Error::Bias { token, vocabulary: 41 } if token == 41);
    assert!(told, "{padding}");
    let nothing = refused(0, 0).to_string();
    assert!(nothing.contains("the vocabulary"), "{nothing}");
}

/// Whoever asks for log-probabilities holds a GPU back, so that no step is begun before its tokens are known.
#[test]
fn a_gpu_that_is_ahead_draws_the_same_tokens_and_leaves_states_that_go_on_alike() {
    let Ok(device) = Device::cuda(0) else {
        return println!("skipped: there is no GPU");
    };
    let mut model = model(3);
    model.to(device, Precision::F32).unwrap();
    let requests = |log_probs, from: Option<&[Vec<Sample>]>| {
        let request = |i: usize| {
            let state = from.map(|from| from[i][0].end.as_ref().unwrap().1.clone());
            Request {
                prompt: if state.is_some() { vec![] } else { ids(i, 3) },
                state,
                samples: 1,
                sampling: SampleOptions {
                    temperature: [1.0, 0.0][i % 2],
                    top_p: [1.0, 0.9][i / 2 % 2],
                    ..SampleOptions::default()
                },
                seed: i as u64,
                tokens: [40, 7, 21, 1, 2][i % 5],
                ends: if i.is_multiple_of(3) {
                    (0..3).collect()
                } else {
                    vec![]
                },
                log_probs,
            }
        };
        (0..12).map(request).collect::<Vec<_>>()
    };
    let tokens = |samples: &[Vec<Sample>]| -> Vec<Vec<u32>> {
        samples.iter().map(|request| request[0].tokens()).collect()
    };
    let batching = Batching {
        slots: 5,
        ..Batching::default()
    };
    let mut surprised = false;
    for most in [usize::MAX, 11] {
        let run = |requests| run(&model, requests, batching, most).unwrap();
        let [ahead, held] = [None, Some(0)].map(|asks| run(requests(asks, None)));
        assert_eq!(tokens(&ahead), tokens(&held));
        for (ahead, held) in ahead.iter().zip(&held) {
            let [(end, state), (expected, other)] =
                [ahead, held].map(|request| request[0].end.as_ref().unwrap());
            assert_eq!((end, state.position()), (expected, other.position()));
            surprised |= state.logits().is_some();
        }
        let rest = [&ahead, &held].map(|from| tokens(&run(requests(None, Some(from)))));
        assert_eq!(rest[0], rest[1]);
    }
    assert!(surprised, "no end came while a step was under way");
}
