//! Stages of fewer and wider steps.

use serpens_core::{Device, GradCheckOptions, Gradients, Tape, Tensor, Var, gradcheck};
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{
    BidirectionalConfig, MambaConfig, Mixer, MixerConfig, MixerSettings, MixerState, MlpConfig,
    PooledConfig,
};
use serpens_nn::ssm::{AInit, SelectiveSsmConfig};
use serpens_nn::{Backbone, Error, LoraConfig, MambaLmConfig, Module, Result, Start};
use serpens_ops::Starts;

const WIDTH: usize = 6;
const POOL: usize = 3;
/// Of both stages together.
const ALL: usize = 2 * POOL;

/// Mamba with a complex A around a stage with a real one.
fn config() -> PooledConfig {
    let complex = SelectiveSsmConfig {
        a_init: AInit::Complex,
        d_state: 3,
        ..SelectiveSsmConfig::default()
    };
    let inside = PooledConfig {
        pool: 2,
        ..PooledConfig::default()
    };
    PooledConfig {
        pool: POOL,
        n_layer: 2,
        mixers: vec![MambaConfig::new(complex).into(), inside.into()],
        ..PooledConfig::default()
    }
}

fn mixer() -> Box<dyn Mixer> {
    let plan = config().plan(WIDTH, 1.0).unwrap();
    plan.init(Device::cpu(), 7).unwrap()
}

fn random(shape: [usize; 3], seed: u64) -> Tensor {
    let normal = Start::Normal { std: 1.0 };
    normal.draw(shape.into(), "x", seed, Device::cpu()).unwrap()
}

/// These positions of the only row.
fn cut(x: &Tensor, from: usize, to: usize) -> Tensor {
    let rows = x.reshape([x.shape().rows(), WIDTH]).unwrap();
    let rows = rows.narrow(from..to).unwrap();
    rows.reshape([1, to - from, WIDTH]).unwrap()
}

fn read(mixer: &dyn Mixer, x: Tensor, state: Option<&mut MixerState>) -> Tensor {
    let y = mixer.forward(&x.into(), &Sequence::default(), state);
    y.unwrap().into_tensor().unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.to_vec().unwrap()
}

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(1e-3_f32, |most, v| most.max(v.abs()));
    for (got, expected) in got.iter().zip(expected) {
        assert!(
            (got - expected).abs() <= 1e-5 * scale,
            "{got} and {expected}"
        );
    }
}

#[test]
fn sequences_at_different_places_in_their_groups_are_read_together_as_each_alone() {
    let mixer = mixer();
    let (read_before, length) = ([0, 1, 2, 4, 5, 6, 11], 4 * ALL);
    let texts: Vec<Tensor> = (0..7)
        .map(|seed| random([1, length, WIDTH], seed))
        .collect();
    let whole: Vec<Vec<f32>> = texts
        .iter()
        .map(|x| values(&read(mixer.as_ref(), x.clone(), None)))
        .collect();
    let rows_of = |i: usize, from: usize, to: usize| &whole[i][from * WIDTH..to * WIDTH];
    let states = texts.iter().zip(read_before).enumerate();
    let states: Vec<MixerState> = states
        .map(|(i, (x, before))| {
            let mut state = mixer.initial_state(1, Device::cpu()).unwrap();
            if before > 0 {
                let y = read(mixer.as_ref(), cut(x, 0, before), Some(&mut state));
                assert_close(&values(&y), rows_of(i, 0, before));
            }
            state
        })
        .collect();
    let mut together: MixerState = (0..states[0].len())
        .map(|place| {
            let each: Vec<Tensor> = states
                .iter()
                .map(|state| state[place].tensor().unwrap().clone())
                .collect();
            Tensor::concat(&each).unwrap().into()
        })
        .collect();
    let mut at = read_before;
    // A token of each, several of each, then as many as it likes.
    for length in [1, 1, 1, 4] {
        let tokens = texts.iter().zip(at).map(|(x, at)| cut(x, at, at + length));
        let x = Tensor::concat(&tokens.collect::<Vec<_>>()).unwrap();
        let y = values(&read(mixer.as_ref(), x, Some(&mut together)));
        for (i, y) in y.chunks(length * WIDTH).enumerate() {
            assert_close(y, rows_of(i, at[i], at[i] + length));
            at[i] += length;
        }
    }
    let lengths = [1, 0, 5, 2, 7, 1, 6];
    let tokens = texts.iter().zip(at).zip(lengths);
    let tokens: Vec<Tensor> = tokens
        .filter(|(_, length)| *length > 0)
        .map(|((x, at), length)| {
            let x = cut(x, at, at + length);
            x.reshape([length, WIDTH]).unwrap()
        })
        .collect();
    let rows = Tensor::concat(&tokens).unwrap();
    let x = rows.reshape([1, rows.shape()[0], WIDTH]).unwrap();
    let sequence = Sequence {
        lengths: Some(&lengths),
        ..Sequence::default()
    };
    let y = mixer.forward(&x.into(), &sequence, Some(&mut together));
    let mut y = &values(y.unwrap().tensor().unwrap())[..];
    for (i, length) in lengths.into_iter().enumerate() {
        let (own, others) = y.split_at(length * WIDTH);
        assert_close(own, rows_of(i, at[i], at[i] + length));
        y = others;
    }
}

#[test]
fn an_input_reaches_only_outputs_behind_its_group() {
    let (mixer, length) = (mixer(), 4 * ALL);
    let x = random([1, length, WIDTH], 1);
    let before = values(&read(mixer.as_ref(), x.clone(), None));
    assert!(
        before[..POOL * WIDTH].iter().all(|y| *y == 0.0),
        "nothing precedes the first group"
    );
    for at in 0..length {
        let mut changed = x.clone();
        changed.make_mut::<f32>().unwrap()[at * WIDTH + 2] += 1.0;
        let after = values(&read(mixer.as_ref(), changed, None));
        let first = (at / POOL + 1) * POOL * WIDTH;
        assert_eq!(before[..first], after[..first], "{at}");
        let next = first..(first + POOL * WIDTH).min(after.len());
        assert!(
            next.is_empty() || before[next.clone()] != after[next],
            "{at}"
        );
    }
}

#[test]
fn packed_sequences_of_any_length_are_each_read_as_by_itself_whole_and_in_chunks() {
    let mixer = mixer();
    // Two rows, in which sequences start amid the groups of both stages.
    let lengths = [[1, POOL, ALL + 2, 2 * ALL - 1], [ALL, 3, 1, 2 * ALL + 1]];
    let length: usize = lengths[0].iter().sum();
    let x = random([2, length, WIDTH], 3);
    let mut ids = Vec::new();
    for row in lengths {
        for (id, count) in row.into_iter().enumerate() {
            ids.extend(std::iter::repeat_n(id as u32, count));
        }
    }
    assert_eq!(ids.len(), 2 * length);
    let starts = Starts::from_sequence_ids(&ids, 2).unwrap();
    let (mut apart, mut at) = (Vec::new(), 0);
    for count in lengths.concat() {
        let own = cut(&x, at, at + count);
        apart.extend(values(&read(mixer.as_ref(), own, None)));
        at += count;
    }
    let packed = |x: &Var, starts: &Starts, state: Option<&mut MixerState>| {
        let sequence = Sequence {
            starts: Some(starts),
            ..Sequence::default()
        };
        mixer.forward(x, &sequence, state)
    };
    let y = packed(&Tape::new().leaf(x.clone()), &starts, None).unwrap();
    assert_close(&values(y.tensor().unwrap()), &apart);
    let check = gradcheck(
        |x: &[Var]| Ok(packed(&x[0], &starts, None)?),
        std::slice::from_ref(&x),
        GradCheckOptions::default(),
    );
    let check = check.unwrap();
    assert!(check.ok, "{check:?}");
    let mut state = mixer.initial_state(2, Device::cpu()).unwrap();
    let mut parts = [Vec::new(), Vec::new()];
    for (from, to) in [(0, 5), (5, 6), (6, 6 + ALL), (6 + ALL, length)] {
        let rows: Vec<f32> = [0, length]
            .iter()
            .flat_map(|row| values(&cut(&x, row + from, row + to)))
            .collect();
        let chunk = Tensor::from_slice([2, to - from, WIDTH], &rows, Device::cpu()).unwrap();
        let starts = starts.chunk(from..to).unwrap();
        let y = packed(&chunk.into(), &starts, Some(&mut state)).unwrap();
        let y = values(y.tensor().unwrap());
        for (part, y) in parts.iter_mut().zip(y.chunks((to - from) * WIDTH)) {
            part.extend_from_slice(y);
        }
    }
    assert_close(&parts.concat(), &apart);
}

#[test]
fn a_length_that_pooling_does_not_divide_is_read_and_not_trained_on() {
    let mixer = mixer();
    let x = random([2, ALL + 2, WIDTH], 3);
    let refused = mixer.forward(&Tape::new().leaf(x.clone()), &Sequence::default(), None);
    let told = refused.unwrap_err();
    assert!(told.is_config());
    assert_eq!(
        told.to_string(),
        "pool (with those inside) = 6 does not divide length = 8 of what is trained on"
    );
    // Without gradients, as the beginning of one that it divides.
    let y = values(&read(mixer.as_ref(), cut(&x, 0, ALL + 2), None));
    let whole =
        Tensor::concat(&[&x, &x].map(|x| cut(x, 0, ALL + 2).reshape([ALL + 2, WIDTH]).unwrap()));
    let whole = cut(
        &whole.unwrap().reshape([1, 2 * ALL + 4, WIDTH]).unwrap(),
        0,
        2 * ALL,
    );
    let whole = mixer.forward(&Tape::new().leaf(whole), &Sequence::default(), None);
    let whole = values(whole.unwrap().tensor().unwrap());
    assert_close(&y, &whole[..y.len()]);
    let mut state = mixer.initial_state(2, Device::cpu()).unwrap();
    let unsupported = |result: Result<Var>| matches!(result, Err(Error::Unsupported(_)));
    let reverse = Sequence {
        reverse: true,
        ..Sequence::default()
    };
    let lengths = Sequence {
        lengths: Some(&[ALL, ALL]),
        ..Sequence::default()
    };
    let two = Tape::new().leaf(random([1, 2 * ALL, WIDTH], 3));
    let x = Var::from(x);
    assert!(unsupported(mixer.forward(&x, &reverse, None)));
    assert!(unsupported(mixer.forward(&two, &lengths, None)));
    let on_tape = Tape::new().leaf(x.into_tensor().unwrap());
    assert!(unsupported(mixer.forward(
        &on_tape,
        &Sequence::default(),
        Some(&mut state)
    )));
}

/// The gradient of every parameter along a direction against the difference.
#[test]
fn gradients_of_all_parameters_of_all_stages_are_those_of_differences() {
    let mixer = mixer();
    let (x, dy) = (
        random([2, 3 * ALL, WIDTH], 4),
        random([2, 3 * ALL, WIDTH], 5),
    );
    let sum = |mixer: &dyn Mixer| {
        let y = values(&read(mixer, x.clone(), None));
        let products = y.iter().zip(dy.as_slice::<f32>().unwrap());
        products
            .map(|(y, d)| f64::from(*y) * f64::from(*d))
            .sum::<f64>()
    };
    let tape = Tape::new();
    let y = mixer
        .forward(&tape.leaf(x.clone()), &Sequence::default(), None)
        .unwrap();
    let mut gradients = Gradients::new();
    tape.backward_from(vec![(&y, dy.clone())], &mut gradients)
        .unwrap();
    let mut checked = 0;
    let visited = mixer.visit("", &mut |changed, param| {
        let gradient = gradients.get(param.id())?;
        assert_eq!(gradient.is_some(), param.trained, "{changed}");
        let Some(gradient) = gradient else {
            return Ok(());
        };
        checked += 1;
        let normal = Start::Normal { std: 1.0 };
        let direction = normal.draw(param.shape(), changed, 6, Device::cpu())?;
        let direction = direction.as_slice::<f32>()?;
        let pairs = gradient.as_slice::<f32>()?.iter().zip(direction);
        let expected: f64 = pairs.map(|(g, d)| f64::from(g * d)).sum();
        const STEP: f32 = 2e-3;
        let [up, down] = [STEP, -STEP].map(|step| {
            let mut moved = mixer.clone();
            let result = moved.visit_mut("", &mut |name, param| {
                if name == changed {
                    let mut value = param.value()?.clone();
                    for (v, d) in value.make_mut::<f32>()?.iter_mut().zip(direction) {
                        *v += step * d;
                    }
                    param.set(value)?;
                }
                Ok(())
            });
            result.unwrap();
            sum(moved.as_ref())
        });
        let found = (up - down) / f64::from(2.0 * STEP);
        assert!(
            (found - expected).abs() <= 2e-2 * expected.abs().max(0.1),
            "{changed}: {found}, {expected}"
        );
        Ok(())
    });
    visited.unwrap();
    assert!(checked > 20, "{checked}");
}

#[test]
fn settings_that_make_no_stage_are_named_where_they_stand() {
    let inside = |change: fn(&mut PooledConfig)| {
        let mut inside = PooledConfig::default();
        change(&mut inside);
        PooledConfig {
            mixers: vec![inside.into()],
            ..PooledConfig::default()
        }
    };
    let many = |n_layer, depth| {
        let one = |inside: MixerConfig, _| {
            let stage = PooledConfig {
                n_layer,
                mixers: vec![inside],
                ..PooledConfig::default()
            };
            stage.into()
        };
        (0..depth).fold(MambaConfig::default().into(), one)
    };
    let base = MambaLmConfig::new(8, 2, 5);
    let refused: [(MixerConfig, &str); 8] = [
        (inside(|it| it.pool = 1).into(), "block.block.pool"),
        (inside(|it| it.expand = 0).into(), "block.block.expand"),
        (inside(|it| it.n_layer = 0).into(), "block.block.n_layer"),
        (
            inside(|it| it.norm_eps = -1.0).into(),
            "block.block.norm_eps",
        ),
        (
            inside(|it| it.pool = 1 << 40).into(),
            "block.pool (with those inside)",
        ),
        (many(1, 9), "block.pool (with those inside)"),
        (many(16_384, 2), "n_layer (with those inside)"),
        (many(1_000, 3), "n_layer (with those inside)"),
    ];
    for (mixer, field) in refused {
        let Err(Error::Config { field: found, .. }) = base.clone().with_mixer(mixer).plan() else {
            panic!("{field}");
        };
        assert_eq!(found, format!("model.{field}"));
    }
    let both = BidirectionalConfig::default();
    let config = |mixer| PooledConfig {
        mixers: vec![mixer],
        ..PooledConfig::default()
    };
    let model = base.clone().with_mixer(config(both.clone().into()));
    assert!(matches!(model.plan(), Err(Error::Uneven(_))));
    // A backbone with another head may see both directions.
    assert!(Backbone::plan(8, 1, 1e-5, &[config(both.into()).into()]).is_ok());
    // What a group gives is of the groups before.
    assert!(
        base.clone()
            .with_mixer(config(MlpConfig::default().into()))
            .plan()
            .is_ok()
    );
    let text = r#"{"kind":"pooled","pool":8,"block":{"kind":"pooled","block":[{"kind":"mlp"}]}}"#;
    let read: MixerConfig = serde_json::from_str(text).unwrap();
    let written = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::from_str::<MixerConfig>(&written).unwrap(), read);
    let wrong = text.replace("pool\"", "pol\"");
    let error = serde_json::from_str::<MixerConfig>(&wrong).unwrap_err();
    assert!(error.to_string().contains("unknown field `pol`"), "{error}");
}

#[test]
fn matrices_are_counted_for_the_tokens_that_use_them_and_models_inside_are_replaced() {
    let plan = config().plan(WIDTH, 1.0).unwrap();
    let [mut all, mut of_stages] = [0.0; 2];
    let visited = plan.visit("", &mut |name, param| {
        if param.matrix {
            let within = name.contains("mixer.inner")
                || name.contains("mixer.up")
                || name.contains("mixer.down");
            let tokens = if within { ALL } else { POOL };
            assert_eq!(param.every, tokens, "{name}");
            of_stages += 2.0 * param.count() as f64 / tokens as f64;
            all += 2.0 * param.count() as f64;
        }
        Ok(())
    });
    visited.unwrap();
    assert!((plan.flops_per_token().unwrap() - of_stages).abs() < 1e-6 * all);
    assert!(of_stages < all / 3.0);
    let mut model = MambaLmConfig::new(WIDTH, 1, 11).with_mixer(config());
    let lora = LoraConfig::default();
    model.lora = Some(lora);
    let adapted = model.plan().unwrap();
    let mut added = [0, 0];
    let visited = adapted.visit("", &mut |name, param| {
        if name.contains("lora_") {
            let inside = name.contains("mixer.inner.layers.1.mixer.inner");
            assert_eq!(param.every, if inside { ALL } else { POOL }, "{name}");
            added[usize::from(inside)] += 1;
        }
        Ok(())
    });
    visited.unwrap();
    assert_eq!(added, [8, 8], "two factors of four matrices in each");
    assert_eq!(model.ssm_name(), "S6");
    let s4d = serpens_nn::ssm::S4dConfig::default().into();
    let twin = model.with_ssm(&s4d);
    assert_eq!(twin.ssm_name(), "S4D");
    assert_eq!(twin.mixers[0].clone().ssms().len(), 2);
}

#[test]
fn the_state_of_another_stage_is_refused() {
    let (mixer, x) = (mixer(), Var::from(random([1, 2, WIDTH], 3)));
    let state = || mixer.initial_state(1, Device::cpu()).unwrap();
    let other = PooledConfig {
        pool: POOL + 1,
        ..config()
    };
    let other = other.plan(WIDTH, 1.0).unwrap();
    let (mut fewer, mut more) = (state(), state());
    fewer.pop();
    more.push(x.clone());
    let others = other.initial_state(1, Device::cpu()).unwrap();
    for mut wrong in [fewer, more, others, MixerState::new()] {
        let refused = mixer.forward(&x, &Sequence::default(), Some(&mut wrong));
        assert!(refused.is_err());
    }
}

#[test]
fn a_cache_inside_ends_a_sequence_after_as_many_groups() {
    let text = r#"{"kind":"pooled","pool":3,"block":{"kind":"attention","context":2}}"#;
    let mixer: MixerConfig = serde_json::from_str(text).unwrap();
    let config = MambaLmConfig::new(8, 1, 5).with_mixer(mixer);
    assert_eq!((config.caches(), config.context()), (true, Some(8)));
    let model = config.init(Device::cpu(), 1).unwrap();
    let stepper = model.stepper().unwrap();
    let token = Tensor::from_slice([1], &[1_u32], Device::cpu()).unwrap();
    let mut state = model.initial_state(1).unwrap();
    for left in (1..=8).rev() {
        let row = state.scatter().unwrap().remove(0);
        assert_eq!(stepper.left(&row).unwrap(), Some(left));
        model.step(&token, &mut state).unwrap();
    }
    let row = state.scatter().unwrap().remove(0);
    assert_eq!(stepper.left(&row).unwrap(), Some(0));
    let full = model.step(&token, &mut state);
    assert!(matches!(
        full,
        Err(Error::Full {
            tokens: 2,
            learnt: false
        })
    ));
}
