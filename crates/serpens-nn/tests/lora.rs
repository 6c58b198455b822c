//! Low-rank adaptation: added to the matrices on every way through a model, and to them when it is merged.

use serpens_core::{Device, GradCheckOptions, Gradients, Tape, Tensor, Var, gradcheck};
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::AttentionConfig;
use serpens_nn::{Error, LmState, LoraConfig, MambaLm, MambaLmConfig, Module, Recompute, Start};
use serpens_ops::Starts;

fn config() -> LoraConfig {
    LoraConfig {
        rank: 2,
        alpha: 3.0,
        ..LoraConfig::default()
    }
}

/// A model whose every matrix has something added to it.
fn adapted() -> MambaLm {
    let mut model = MambaLmConfig::new(8, 2, 11).init(Device::cpu(), 3).unwrap();
    model.adapt(config(), 1).unwrap();
    let moved = model.visit_mut(
        "",
        &mut |name, param| match name.ends_with("lora_B.weight") {
            true => {
                param.set(Start::Normal { std: 0.3 }.draw(param.shape(), name, 2, Device::cpu())?)
            }
            false => Ok(()),
        },
    );
    moved.unwrap();
    model
}

const LENGTH: usize = 13;

fn ids(from: usize, to: usize) -> Tensor {
    let ids: Vec<u32> = (from..to).map(|i| (i * 7 % 11) as u32).collect();
    Tensor::from_slice([1, to - from], &ids, Device::cpu()).unwrap()
}

fn logits(model: &MambaLm, from: usize, to: usize, state: Option<&mut LmState>) -> Vec<f32> {
    let logits = model.forward(&ids(from, to).into(), &Sequence::default(), state);
    logits
        .unwrap()
        .into_tensor()
        .unwrap()
        .to_vec::<f32>()
        .unwrap()
}

fn assert_close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for (g, e) in got.iter().zip(expected) {
        assert!(
            (g - e).abs() <= 1e-5 * largest,
            "{what}: {g} and {e}, largest {largest}"
        );
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_it_alone_is_trained() {
    let plain = MambaLmConfig::new(8, 2, 11).init(Device::cpu(), 3).unwrap();
    let mut model = plain.clone();
    model.adapt(config(), 1).unwrap();
    assert_eq!(
        logits(&plain, 0, LENGTH, None),
        logits(&model, 0, LENGTH, None)
    );
    // A and B of rank 2 beside (32, 8), (33, 16), (16, 1) and (8, 16), twice.
    let trained = model.count(|param| param.trained && !param.frozen).unwrap();
    assert_eq!(trained, 2 * 2 * (32 + 8 + 33 + 16 + 16 + 1 + 8 + 16));
    for recompute in [Recompute::None, Recompute::Scan, Recompute::Layer] {
        let tape = Tape::new();
        let sequence = Sequence {
            recompute,
            ..Sequence::default()
        };
        let y = model
            .forward(&tape.constant(ids(0, LENGTH)), &sequence, None)
            .unwrap();
        let seed = Tensor::full(y.shape(), 1.0_f32, Device::cpu()).unwrap();
        let mut gradients = Gradients::new();
        tape.backward_from(vec![(&y, seed)], &mut gradients)
            .unwrap();
        let visited = model.visit("", &mut |name, param| {
            let is_added = name.contains(".lora_");
            assert_eq!(gradients.get(param.id())?.is_some(), is_added, "{name}");
            Ok(())
        });
        visited.unwrap();
    }
}

#[test]
fn merged_and_added_are_the_same_model_on_every_way_through_it() {
    let model = adapted();
    let whole = logits(&model, 0, LENGTH, None);
    let mut merged = model.clone();
    merged.merge().unwrap();
    assert_eq!(merged.config(), &MambaLmConfig::new(8, 2, 11));
    assert_eq!(
        merged.count(|param| !param.frozen).unwrap(),
        merged.count(|_| true).unwrap()
    );
    assert_close("merged", &logits(&merged, 0, LENGTH, None), &whole);
    let plain = MambaLmConfig::new(8, 2, 11).init(Device::cpu(), 3).unwrap();
    let before = logits(&plain, 0, LENGTH, None);
    let apart = before.iter().zip(&whole).map(|(a, b)| (a - b).abs());
    assert!(apart.fold(0.0, f32::max) > 1e-2, "something is added");

    let mut state = model.initial_state(1).unwrap();
    let chunks = [0..5, 5..6, 6..LENGTH];
    let chunks = chunks.map(|c| logits(&model, c.start, c.end, Some(&mut state)));
    assert_close("chunks", &chunks.concat(), &whole);
    let mut state = model.initial_state(1).unwrap();
    for t in 0..LENGTH {
        let token = ids(t, t + 1).reshape([1]).unwrap();
        let step = model
            .step(&token, &mut state)
            .unwrap()
            .to_vec::<f32>()
            .unwrap();
        assert_close("step", &step, &whole[t * 11..(t + 1) * 11]);
    }
    let starts = Starts::from_lengths(&[5, LENGTH - 5]);
    let packed = Sequence {
        starts: Some(&starts),
        ..Sequence::default()
    };
    let read = |model: &MambaLm| {
        let y = model
            .forward(&ids(0, LENGTH).into(), &packed, None)
            .unwrap();
        y.into_tensor().unwrap().to_vec::<f32>().unwrap()
    };
    assert_close("packed", &read(&model), &read(&merged));
}

#[test]
fn gradients_reach_the_input_and_both_factors_as_differences_say() {
    let model = adapted();
    let mixer = |x: &Var| {
        model
            .backbone()
            .forward(x.clone(), &Sequence::default(), None)
    };
    let x = Start::Normal { std: 1.0 }.draw([1, 5, 8].into(), "x", 5, Device::cpu());
    let forward = |v: &[Var]| mixer(&v[0]).map_err(Into::into);
    let check = gradcheck(forward, &[x.unwrap()], GradCheckOptions::default()).unwrap();
    assert!(check.ok, "{check:?}");

    // Along a random direction of each factor, by central differences of the sum of logits.
    let sum = |model: &MambaLm| {
        let values = logits(model, 0, LENGTH, None).into_iter().map(f64::from);
        values.sum::<f64>()
    };
    let tape = Tape::new();
    let y = model
        .forward(&tape.constant(ids(0, LENGTH)), &Sequence::default(), None)
        .unwrap();
    let seed = Tensor::full(y.shape(), 1.0_f32, Device::cpu()).unwrap();
    let mut gradients = Gradients::new();
    tape.backward_from(vec![(&y, seed)], &mut gradients)
        .unwrap();
    let visited = model.visit("", &mut |changed, param| {
        let Some(gradient) = gradients.get(param.id())? else {
            return Ok(());
        };
        let direction =
            Start::Normal { std: 1.0 }.draw(param.shape(), changed, 6, Device::cpu())?;
        let direction = direction.as_slice::<f32>()?;
        let pairs = gradient.as_slice::<f32>()?.iter().zip(direction);
        let expected: f64 = pairs.map(|(g, d)| f64::from(g * d)).sum();
        const STEP: f32 = 2e-3;
        let [up, down] = [STEP, -STEP].map(|step| {
            let mut model = model.clone();
            let moved = model.visit_mut("", &mut |name, param| {
                if name == changed {
                    let mut value = param.value()?.clone();
                    for (v, d) in value.make_mut::<f32>()?.iter_mut().zip(direction) {
                        *v += step * d;
                    }
                    param.set(value)?;
                }
                Ok(())
            });
            moved.unwrap();
            sum(&model)
        });
        let found = (up - down) / f64::from(2.0 * STEP);
        let allowed = 2e-2 * expected.abs().max(0.1);
        assert!(
            (found - expected).abs() <= allowed,
            "{changed}: {found}, {expected}"
        );
        Ok(())
    });
    visited.unwrap();
}

#[test]
fn what_was_added_before_is_kept_in_the_matrices_when_something_else_is_added() {
    let mut model = adapted();
    let whole = logits(&model, 0, LENGTH, None);
    let targets = vec!["out_proj".to_owned()];
    let second = LoraConfig {
        targets,
        ..config()
    };
    model.adapt(second, 4).unwrap();
    assert_close("twice adapted", &logits(&model, 0, LENGTH, None), &whole);
    let trained = model.count(|param| param.trained && !param.frozen).unwrap();
    assert_eq!(trained, 2 * 2 * (8 + 16));
}

#[test]
fn by_default_the_matrices_are_adapted_that_a_model_has() {
    let attention = MambaLmConfig::new(8, 1, 12).with_mixer(AttentionConfig::default());
    let mut model = attention.init(Device::cpu(), 3).unwrap();
    model.adapt(LoraConfig::default(), 0).unwrap();
    let mut trained = Vec::new();
    let visited = model.visit("", &mut |name, param| {
        trained.extend((!param.frozen).then(|| name.to_owned()));
        Ok(())
    });
    visited.unwrap();
    assert_eq!(
        trained.len(),
        4,
        "two factors each of two projections: {trained:?}"
    );
}

#[test]
fn targets_and_numbers_that_cannot_be_are_refused() {
    let mut model = MambaLmConfig::new(8, 2, 11).init(Device::cpu(), 3).unwrap();
    let before = logits(&model, 0, LENGTH, None);
    let mut refused = |change: fn(&mut LoraConfig)| {
        let mut config = config();
        change(&mut config);
        let error = model.adapt(config, 0).unwrap_err();
        assert_eq!(before, logits(&model, 0, LENGTH, None), "it is as it was");
        assert_eq!(model.count(|param| param.frozen).unwrap(), 0);
        error
    };
    let error = refused(|c| c.targets.push("q_proj".into()));
    assert!(matches!(error, Error::NoTarget(name) if name == "q_proj"));
    let error = refused(|c| c.targets.clear());
    assert!(matches!(error, Error::Config { field, .. } if field.starts_with("lora.targets")));
    let error = refused(|c| c.rank = 0);
    assert!(matches!(error, Error::Config { field, .. } if field == "lora.rank"));
    let error = refused(|c| c.alpha = f32::NAN);
    assert!(matches!(error, Error::Config { field, .. } if field == "lora.alpha"));
}
