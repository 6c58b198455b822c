//! States go on as if nothing had been between.

use std::fs;

use serpens_core::{DType, bf16};
use serpens_data::Tokenizer;
use serpens_formats::Verify;
use serpens_formats::safetensors::{read_tensors, write_tensors};
use tempfile::TempDir;

use super::*;
use crate::{SampleOptions, fingerprint};

fn assert_close(a: &[f32], b: &[f32]) {
    let scale = a.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 1e-5 * scale, "{a} and {b}");
    }
}

#[test]
fn a_prompt_in_chunks_is_the_whole_prompt() {
    let model = model(1);
    let ids = ids(3, 5000); // more than a pass
    let whole = SequenceState::new(&model)
        .unwrap()
        .read(&model, &ids)
        .unwrap();
    assert_close(
        whole.logits().unwrap(),
        &forward(&model, &ids)[ids.len() - 1],
    );
    for cuts in [vec![1], vec![128, 129, 1000], vec![4999]] {
        let mut state = SequenceState::new(&model).unwrap();
        let mut from = 0;
        for cut in cuts.into_iter().chain([ids.len()]) {
            state = state.read(&model, &ids[from..cut]).unwrap();
            from = cut;
        }
        assert_eq!(state.position(), 5000);
        assert_close(state.logits().unwrap(), whole.logits().unwrap());
    }
    assert!(matches!(whole.read(&model, &[]), Err(Error::EmptyPrompt)));
}

/// To the bit, also of the random numbers.
#[test]
fn a_saved_state_goes_on_as_the_run_that_left_it() {
    let (model, dir) = (model(2), TempDir::new().unwrap());
    let path = dir.path().join("state.safetensors");
    let tokenizer = Tokenizer::bytes();
    let request = |prompt: &[u32], tokens, state| Request {
        prompt: prompt.to_vec(),
        tokens,
        state,
        seed: 7,
        sampling: SampleOptions {
            repetition_penalty: 1.2,
            ..SampleOptions::default()
        },
        log_probs: Some(2),
        ..Request::default()
    };
    let [of_f32, of_bf16] = [DType::F32, DType::BF16].map(|states| {
        let run_one = |request| run_one_in(&model, request, states);
        let whole = run_one(request(&ids(1, 30), 20, None));
        for cut in [0, 1, 8, 19] {
            let first = run_one(request(&ids(1, 30), cut, None));
            let (_, state) = first.end.unwrap();
            state.save(&path, &model, Some(&tokenizer)).unwrap();
            let loaded = SequenceState::load(&path, &model, Some(&tokenizer)).unwrap();
            assert_eq!(loaded.position(), 30 + cut as u64);
            for state in [state, loaded] {
                let rest = run_one(request(&[], 20 - cut, Some(state)));
                assert_eq!(rest.drawn, whole.drawn[cut..], "from {cut} on in {states}");
            }
        }
        whole.drawn
    });
    assert_ne!(of_f32, of_bf16);
    // A second prompt behind the first and what was drawn.
    let first = run_one(&model, request(&ids(1, 30), 5, None));
    let drawn = first.tokens();
    let (_, state) = first.end.unwrap();
    let state = state.read(&model, &[1, 2, 3]).unwrap();
    let all = [&ids(1, 30)[..], &drawn, &[1, 2, 3]].concat();
    assert_close(state.logits().unwrap(), &forward(&model, &all)[37]);
}

#[test]
fn a_state_goes_to_other_threads_and_its_clones_go_on_apart() {
    let model = model(3);
    let read = SequenceState::new(&model)
        .unwrap()
        .read(&model, &ids(1, 9))
        .unwrap();
    let forks = std::thread::scope(|scope| {
        let threads = [4_u32, 5].map(|token| {
            let (fork, model) = (read.clone(), &model);
            scope.spawn(move || fork.read(model, &[token]).unwrap())
        });
        threads.map(|thread| thread.join().unwrap())
    });
    for (fork, token) in forks.iter().zip([4, 5]) {
        let whole = [&ids(1, 9)[..], &[token]].concat();
        assert_close(fork.logits().unwrap(), &forward(&model, &whole)[9]);
    }
}

#[test]
fn foreign_and_damaged_states_are_refused() {
    let (model_a, dir) = (model(4), TempDir::new().unwrap());
    let path = dir.path().join("state.safetensors");
    let tokenizer = Tokenizer::bytes();
    let state = SequenceState::new(&model_a)
        .unwrap()
        .read(&model_a, &[1, 2])
        .unwrap();
    let load = |model: &MambaLm, tokenizer: Option<&Tokenizer>| {
        let error = SequenceState::load(&path, model, tokenizer).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("state.safetensors") && text.lines().count() == 1,
            "{text}"
        );
        error
    };
    state.save(&path, &model_a, Some(&tokenizer)).unwrap();
    // Of the same sizes, but for one value of a matrix; and of other sizes.
    let mut model_b = model_a.clone();
    let changed = model_b.visit_mut("", &mut |name, param| {
        if name.ends_with("1.mixer.in_proj.weight") {
            let mut value = param.value()?.clone();
            value.make_mut::<f32>()?[3] += 1e-3;
            param.set(value)?;
        }
        Ok(())
    });
    changed.unwrap();
    assert_ne!(
        fingerprint(&model_a).unwrap(),
        fingerprint(&model_b).unwrap()
    );
    let other = MambaLmConfig::new(16, 2, TOKENS)
        .init(Device::cpu(), 4)
        .unwrap();
    for model in [&model_b, &other] {
        let error = load(model, Some(&tokenizer));
        assert!(
            matches!(error, Error::ForeignState { what: "model", .. }),
            "{error}"
        );
    }
    let error = load(&model_a, None);
    assert!(
        matches!(
            error,
            Error::ForeignState {
                what: "tokenizer",
                ..
            }
        ),
        "{error}"
    );

    let whole = fs::read(&path).unwrap();
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(
            matches!(load(&model_a, Some(&tokenizer)), Error::Format(_)),
            "{length}"
        );
    }
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&path, damaged).unwrap();
    assert!(matches!(load(&model_a, Some(&tokenizer)), Error::Format(_)));
    fs::remove_file(&path).unwrap();
    assert!(matches!(load(&model_a, Some(&tokenizer)), Error::Format(_)));

    // A tensor missing, of another shape, of another type.
    fs::write(&path, &whole).unwrap();
    let tensors = read_tensors(&path, Device::cpu(), Verify::Digests).unwrap();
    for name in tensors.keys() {
        let rest = tensors.iter().filter(|(other, _)| *other != name);
        write_tensors(&path, &rest.collect::<Vec<_>>()).unwrap();
        assert!(
            matches!(load(&model_a, Some(&tokenizer)), Error::Format(_)),
            "{name}"
        );
    }
    for name in tensors.keys().filter(|name| *name != "recent") {
        let mut changed = tensors.clone();
        changed.insert(
            name.clone(),
            Tensor::full([3], 7_u32, Device::cpu()).unwrap(),
        );
        write_tensors(&path, &changed.iter().collect::<Vec<_>>()).unwrap();
        assert!(
            matches!(load(&model_a, Some(&tokenizer)), Error::NoState { .. }),
            "{name}"
        );
    }
}

#[test]
fn a_model_of_matrices_in_bf16_alone_has_the_fingerprint_of_the_same_in_f32() {
    let whole = model(4);
    let expected = fingerprint(&whole).unwrap();
    let changed = |change: fn(&str, bool, f32) -> f32| {
        let mut other = whole.clone();
        let done = other.visit_mut("", &mut |name, param| {
            let (matrix, mut value) = (param.matrix, param.value()?.clone());
            for value in value.make_mut::<f32>()? {
                *value = change(name, matrix, *value);
            }
            param.set(value)
        });
        done.unwrap();
        fingerprint(&other).unwrap()
    };
    let narrow = changed(|_, matrix, value| {
        if matrix {
            bf16::from_f32(value).to_f32()
        } else {
            value
        }
    });
    assert_eq!(narrow, expected);
    let norm = changed(|name, _, value| {
        if name.ends_with("norm_f.weight") {
            value + 1e-6
        } else {
            value
        }
    });
    assert_ne!(norm, expected);
}

/// Whoever writes a file can write its digests too; so they are not what holds it.
#[test]
fn a_state_with_any_values_is_refused_or_goes_on_without_a_panic() {
    let (model, dir) = (model(6), TempDir::new().unwrap());
    let path = dir.path().join("state.safetensors");
    let state = SequenceState::new(&model).unwrap();
    let state = state.read(&model, &[1, 2]).unwrap();
    state.save(&path, &model, None).unwrap();
    let tensors = read_tensors(&path, Device::cpu(), Verify::Digests).unwrap();
    let record = tensors["serpens.state"].to_vec::<u32>().unwrap();
    for (at, value) in
        (0..record.len()).flat_map(|at| [(at, u32::MAX), (at, 1 << 30), (at, 49), (at, 51)])
    {
        let mut changed = record.clone();
        changed[at] = value;
        for logits in [TOKENS, 0] {
            let mut tensors = tensors.clone();
            let record = Tensor::from_slice([6, 2], &changed, Device::cpu()).unwrap();
            tensors.insert("serpens.state".into(), record);
            let logits = Tensor::full([logits], f32::NAN, Device::cpu()).unwrap();
            tensors.insert("logits".into(), logits);
            let unknown = Tensor::full([100], u32::MAX, Device::cpu()).unwrap();
            tensors.insert("recent".into(), unknown);
            write_tensors(&path, &tensors.iter().collect::<Vec<_>>()).unwrap();
            let Ok(state) = SequenceState::load(&path, &model, None) else {
                continue;
            };
            let request = Request {
                prompt: vec![3],
                state: Some(state),
                sampling: SampleOptions {
                    repetition_penalty: 1.5,
                    ..SampleOptions::default()
                },
                tokens: 2,
                ..Request::default()
            };
            run(&model, vec![request], Batching::default(), 9).unwrap();
        }
    }
}

#[test]
fn a_state_of_another_model_is_refused_where_it_is_read_on() {
    let other = MambaLmConfig::new(24, 3, TOKENS)
        .init(Device::cpu(), 4)
        .unwrap();
    let state = SequenceState::new(&other)
        .unwrap()
        .read(&other, &[1])
        .unwrap();
    let error = state.read(&model(1), &[1]).unwrap_err();
    assert!(
        matches!(error, Error::Model(serpens_nn::Error::State { .. })),
        "{error}"
    );
}
