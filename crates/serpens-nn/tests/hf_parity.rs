//! Tiny published checkpoints with random weights: logits, loss, every gradient and the greedy continuation must be
//! those of the `transformers` library, which wrote `expected.safetensors` beside each (in f32), whatever the layout;
//! and logits with an adapter those of the PEFT library (`scripts/make_model_vectors.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serpens_core::{Device, Gradients, Tape, Tensor};
use serpens_nn::checkpoint::{self, Verify};
use serpens_nn::layers::Sequence;
use serpens_nn::{MambaLm, Module};
use serpens_ops::cross_entropy::{IGNORE, cross_entropy};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

struct Expected {
    floats: BTreeMap<String, Vec<f32>>,
    ints: BTreeMap<String, (Vec<usize>, Vec<u32>)>,
}

fn expected(name: &str) -> Expected {
    let bytes = std::fs::read(fixture(name).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all = Expected {
        floats: BTreeMap::new(),
        ints: BTreeMap::new(),
    };
    for (name, view) in file.iter() {
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => {
                let values = data
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| f32::from_le_bytes(*b));
                all.floats.insert(name.to_owned(), values.collect());
            }
            Dtype::I64 => {
                let values = data
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|b| i64::from_le_bytes(*b));
                let values = values.map(|v| u32::try_from(v).unwrap()).collect();
                all.ints
                    .insert(name.to_owned(), (view.shape().to_vec(), values));
            }
            other => panic!("unexpected {other:?} in {name}"),
        }
    }
    all
}

fn ids(shape: &[usize], values: &[u32]) -> Tensor {
    Tensor::from_slice(serpens_core::Shape::new(shape), values, Device::cpu()).unwrap()
}

/// Both sides computed in f32 with sums in different orders: the bound is relative to the largest value of the tensor.
fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-6_f32, |m, v| m.max(v.abs()));
    let worst = got
        .iter()
        .zip(expected)
        .fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(
        worst <= tolerance * scale,
        "{what}: off by {worst}, largest value {scale}"
    );
}

/// Next-token targets of each row; the last position has none.
fn shifted(shape: &[usize], ids: &[u32]) -> Vec<u32> {
    let rows = ids.chunks(shape[1]);
    rows.flat_map(|row| row[1..].iter().copied().chain([IGNORE]))
        .collect()
}

fn load(name: &str) -> MambaLm {
    checkpoint::load(&fixture(name), Device::cpu(), Verify::Digests).unwrap()
}

fn check(name: &str, expected: &Expected) {
    let model = load(name);
    let (shape, tokens) = &expected.ints["input_ids"];
    let tape = Tape::new();
    let input = tape.constant(ids(shape, tokens));
    let logits = model.forward(&input, &Sequence::default(), None).unwrap();
    let values = logits.tensor().unwrap().to_vec::<f32>().unwrap();
    assert_close("logits", &values, &expected.floats["logits"], 1e-5);
    let targets = ids(shape, &shifted(shape, tokens));
    let loss = cross_entropy(logits, &targets).unwrap();
    let value = loss.loss.tensor().unwrap().to_vec::<f32>().unwrap();
    assert_close("loss", &value, &expected.floats["loss"], 1e-6);
    let mut gradients = Gradients::new();
    tape.backward(&loss.loss, 1.0, &mut gradients).unwrap();
    let mut seen = 0;
    let visited = model.visit("", &mut |name, param| {
        if !param.trained {
            return Ok(());
        }
        let gradient = gradients.get(param.id())?.expect(name);
        let key = format!("grad.{name}");
        assert_close(
            &key,
            gradient.as_slice().unwrap(),
            &expected.floats[&key],
            2e-5,
        );
        seen += 1;
        Ok(())
    });
    visited.unwrap();
    let wanted = expected.floats.keys().filter(|k| k.starts_with("grad."));
    assert_eq!(seen, wanted.count());
    check_greedy(&model, &expected.ints["greedy"].1, 8);
}

fn check_greedy(model: &MambaLm, expected: &[u32], prompt: usize) {
    let mut state = model.initial_state(1).unwrap();
    let mut tokens = expected[..prompt].to_vec();
    let mut logits = model.read(&ids(&[1, prompt], &tokens), &mut state).unwrap();
    while tokens.len() < expected.len() {
        let values = logits.to_vec::<f32>().unwrap();
        let best = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
        let next = best.unwrap() as u32;
        tokens.push(next);
        logits = model.step(&ids(&[1], &[next]), &mut state).unwrap();
    }
    assert_eq!(tokens, expected);
}

#[test]
fn hf_tiny_agrees_in_logits_loss_gradients_and_continuation() {
    check("hf-tiny", &expected("hf-tiny"));
}

#[test]
fn hf_variant_with_biases_an_own_head_and_other_sizes_agrees_too() {
    check("hf-variant", &expected("hf-variant"));
}

#[test]
fn falcon_mamba_agrees_too() {
    check("falcon-tiny", &expected("falcon-tiny"));
}

#[test]
fn the_original_layout_of_hf_tiny_is_the_same_model() {
    check("original-tiny", &expected("hf-tiny"));
}

#[test]
fn an_adapter_of_peft_s_gives_the_logits_that_it_gives_there_and_comes_back_as_it_was() {
    let expected = expected("peft-tiny");
    let (shape, tokens) = &expected.ints["input_ids"];
    let close = |what, model: &MambaLm| {
        let input = ids(shape, tokens).into();
        let logits = model.forward(&input, &Sequence::default(), None).unwrap();
        let values = logits.into_tensor().unwrap().to_vec::<f32>().unwrap();
        assert_close(what, &values, &expected.floats["logits"], 1e-5);
        values
    };
    let mut model = load("hf-tiny");
    checkpoint::load_adapter(&mut model, &fixture("peft-tiny"), Verify::Digests).unwrap();
    let added = close("added", &model);
    let dir = tempfile::tempdir().unwrap();
    checkpoint::save_adapter(&model, dir.path(), None).unwrap();
    let mut again = load("hf-tiny");
    checkpoint::load_adapter(&mut again, dir.path(), Verify::Digests).unwrap();
    assert_eq!(added, close("saved", &again));
    model.merge().unwrap();
    close("merged", &model);
}
