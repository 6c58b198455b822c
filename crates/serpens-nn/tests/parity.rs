//! Every mixer reads a sequence the same way whole, in chunks with carried state, token by token, packed, and reversed.

use std::ops::Range;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serpens_core::{DType, Device, GradCheckOptions, Gradients, Tape, Tensor, Var, gradcheck};
use serpens_nn::layers::{RmsNorm, Sequence};
use serpens_nn::mixers::{
    Activation, AttentionConfig, GauConfig, H3Config, LstmConfig, MambaConfig, MinGruConfig, Mixer,
    MixerConfig, MixerSettings, MlpConfig, PlainConfig, PooledConfig,
};
use serpens_nn::ssm::{AInit, DtRank, S4dConfig, SelectiveSsmConfig, SsmConfig, SsmSettings};
use serpens_nn::{Error, LmState, MambaLmConfig, Module, Start, StateRow};
use serpens_ops::Starts;
use serpens_ops::elementwise::add;

const WIDTH: usize = 6;
/// Pooled layers read whole sequences of a multiple of these.
const POOL: usize = 4;

fn ssms() -> Vec<SsmConfig> {
    let s6 = SelectiveSsmConfig {
        d_state: 5,
        ..SelectiveSsmConfig::default()
    };
    let variant = |change: fn(&mut SelectiveSsmConfig)| {
        let mut config = s6.clone();
        change(&mut config);
        config.into()
    };
    vec![
        s6.clone().into(),
        variant(|c| c.a_init = AInit::Complex),
        variant(|c| c.a_init = AInit::Half),
        variant(|c| c.a_init = AInit::Random),
        variant(|c| c.zero_order_hold = true),
        variant(|c| c.dt_rank = DtRank::Fixed(0)),
        // Of rank 3, as the norm of one value is its sign, which no difference follows.
        variant(|c| (c.dt_rank, c.dt_b_c_rms_eps) = (DtRank::Fixed(3), Some(1e-2))),
        variant(|c| {
            (c.dt_rank, c.dt_b_c_rms_eps) = (DtRank::Fixed(3), Some(1e-2));
            (c.selective_b, c.a_init) = (false, AInit::Complex);
        }),
        variant(|c| c.selective_b = false),
        variant(|c| c.selective_c = false),
        variant(|c| (c.selective_dt, c.selective_b, c.selective_c) = (false, false, false)),
        S4dConfig {
            d_state: 5,
            ..S4dConfig::default()
        }
        .into(),
        SsmConfig::from(S4dConfig {
            complex: false,
            train_b: true,
            d_state: 5,
            ..S4dConfig::default()
        }),
    ]
}

/// Which sequences a mixer reads besides plain ones.
#[derive(Clone, Copy, PartialEq)]
enum Reads {
    Plain,
    /// Packed rows as a whole.
    Packed,
    /// Those, also in chunks, and in reverse.
    All,
}

fn attention_of(context: usize) -> AttentionConfig {
    AttentionConfig {
        context,
        ..AttentionConfig::default()
    }
}

fn mixers() -> Vec<(String, Box<dyn Mixer>, Reads)> {
    let mut mixers = Vec::new();
    let mut add = |config: MixerConfig, reads| {
        let mixer = config.plan(WIDTH, 1.0).unwrap();
        let mixer = mixer.init(Device::cpu(), 7).unwrap();
        mixers.push((format!("{config:?}"), mixer, reads));
    };
    let gelu = MlpConfig {
        activation: Activation::Gelu,
        bias: true,
        ..MlpConfig::default()
    };
    add(MlpConfig::default().into(), Reads::All);
    add(gelu.into(), Reads::All);
    add(MinGruConfig::default().into(), Reads::All);
    let attention = attention_of(40);
    let grouped = AttentionConfig {
        heads: Some(3),
        kv_heads: Some(1),
        window: Some(7),
        bias: true,
        ..attention.clone()
    };
    let unturned = AttentionConfig {
        heads: Some(2),
        rope: false,
        ..attention.clone()
    };
    let gau = GauConfig {
        heads: Some(3),
        context: 40,
        ..GauConfig::default()
    };
    for config in [attention, grouped, unturned] {
        add(config.into(), Reads::Packed);
    }
    add(gau.into(), Reads::Packed);
    add(LstmConfig::default().into(), Reads::Packed);
    let inside = PooledConfig {
        pool: 2,
        expand: 1,
        mixers: vec![attention_of(40).into()],
        ..PooledConfig::default()
    };
    let pooled = PooledConfig {
        pool: 2,
        n_layer: 2,
        mixers: vec![MambaConfig::default().into(), inside.into()],
        ..PooledConfig::default()
    };
    add(pooled.into(), Reads::Plain);
    for (i, ssm) in ssms().into_iter().enumerate() {
        let reads = match ssm.name() {
            "S6" => Reads::All,
            _ => Reads::Plain,
        };
        let configs: [MixerConfig; 3] = [
            MambaConfig {
                d_conv: 1 + i % 4,
                ..MambaConfig::new(ssm.clone())
            }
            .into(),
            H3Config {
                ssm: ssm.clone(),
                ..H3Config::default()
            }
            .into(),
            PlainConfig { ssm, expand: 1 }.into(),
        ];
        for config in configs {
            add(config, reads);
        }
    }
    mixers
}

fn random(shape: [usize; 3], seed: u64) -> Tensor {
    let normal = Start::Normal { std: 1.0 };
    normal.draw(shape.into(), "x", seed, Device::cpu()).unwrap()
}

fn rows(tensor: &Tensor, from: usize, to: usize) -> Tensor {
    let [batch, length, width] = tensor.shape()[..].try_into().unwrap();
    let values = tensor.as_slice::<f32>().unwrap();
    let taken: Vec<f32> = (0..batch)
        .flat_map(|b| &values[(b * length + from) * width..(b * length + to) * width])
        .copied()
        .collect();
    Tensor::from_slice([batch, to - from, width], &taken, Device::cpu()).unwrap()
}

fn reversed(tensor: &Tensor) -> Tensor {
    let [batch, length, width] = tensor.shape()[..].try_into().unwrap();
    let values = tensor.as_slice::<f32>().unwrap();
    let turned: Vec<f32> = (0..batch * length)
        .flat_map(|i| {
            let row = i / length * length + (length - 1 - i % length);
            &values[row * width..(row + 1) * width]
        })
        .copied()
        .collect();
    Tensor::from_slice(tensor.shape(), &turned, Device::cpu()).unwrap()
}

fn read(mixer: &dyn Mixer, x: &Tensor, sequence: &Sequence<'_>) -> Tensor {
    let y = mixer.forward(&x.clone().into(), sequence, None).unwrap();
    y.into_tensor().unwrap()
}

/// What a mixer makes of a packed row in these chunks, each with the state that the one before it left, and the
/// gradient of the row from that of the outputs.
fn read_packed(
    mixer: &dyn Mixer,
    [x, dy]: [&Tensor; 2],
    starts: &Starts,
    reverse: bool,
    chunks: &[Range<usize>],
) -> Vec<[Tensor; 2]> {
    let tape = Tape::new();
    let mut state = mixer.initial_state(1, Device::cpu()).unwrap();
    let read = |chunk: &Range<usize>| {
        let leaf = tape.leaf(rows(x, chunk.start, chunk.end));
        let starts = starts.chunk(chunk.clone()).unwrap();
        let sequence = Sequence {
            starts: Some(&starts),
            reverse,
            ..Sequence::default()
        };
        let y = mixer.forward(&leaf, &sequence, Some(&mut state)).unwrap();
        (leaf, y, rows(dy, chunk.start, chunk.end))
    };
    let outputs: Vec<_> = chunks.iter().map(read).collect();
    let seeds = outputs.iter().map(|(_, y, dy)| (y, dy.clone())).collect();
    tape.backward_from(seeds, &mut Gradients::new()).unwrap();
    let results = outputs.iter().map(|(leaf, y, _)| {
        let dx = tape.gradient(leaf).unwrap().unwrap();
        [y.tensor().unwrap().clone(), dx]
    });
    results.collect()
}

fn assert_close(what: &str, got: &Tensor, expected: &Tensor) {
    let (got, expected) = (
        got.as_slice::<f32>().unwrap(),
        expected.as_slice::<f32>().unwrap(),
    );
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
    for (g, e) in got.iter().zip(expected) {
        assert!(
            (g - e).abs() <= 1e-5 * scale,
            "{what}: {g} and {e}, largest {scale}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn chunks_with_carried_state_and_single_steps_equal_the_whole(
        batch in 1..3_usize, length in 2..40_usize, cut in 0.0..1.0_f64, seed in any::<u64>()
    ) {
        let cut = 1 + ((length - 1) as f64 * cut) as usize;
        let x = random([batch, length.next_multiple_of(POOL), WIDTH], seed);
        for (name, mixer, _) in mixers() {
            let whole = read(mixer.as_ref(), &x, &Sequence::default());
            let mut state = mixer.initial_state(batch, Device::cpu()).unwrap();
            for (from, to) in [(0, cut), (cut, length)] {
                if from == to { continue; }
                let chunk: Var = rows(&x, from, to).into();
                let y = mixer.forward(&chunk, &Sequence::default(), Some(&mut state)).unwrap();
                assert_close(&name, &y.into_tensor().unwrap(), &rows(&whole, from, to));
            }
            let mut state = mixer.initial_state(batch, Device::cpu()).unwrap();
            for t in 0..length {
                let token: Var = rows(&x, t, t + 1).reshape([batch, WIDTH]).unwrap().into();
                let y = mixer.step(&token, &mut state).unwrap().into_tensor().unwrap();
                assert_close(&name, &y, &rows(&whole, t, t + 1));
            }
        }
    }

    #[test]
    fn packed_sequences_do_not_see_each_other(
        first in 1..20_usize, second in 1..20_usize, seed in any::<u64>()
    ) {
        let x = random([1, first + second, WIDTH], seed);
        let starts = Starts::from_lengths(&[first, second]);
        for reverse in [false, true] {
            for (name, mixer, reads) in mixers() {
                if reads == Reads::Plain || (reverse && reads != Reads::All) { continue; }
                let packed = Sequence { starts: Some(&starts), reverse, ..Sequence::default() };
                let together = read(mixer.as_ref(), &x, &packed);
                for (from, to) in [(0, first), (first, first + second)] {
                    let alone = Sequence { reverse, ..Sequence::default() };
                    let y = read(mixer.as_ref(), &rows(&x, from, to), &alone);
                    assert_close(&name, &y, &rows(&together, from, to));
                }
            }
        }
    }

    #[test]
    fn packed_rows_in_chunks_with_carried_state_equal_the_whole(
        lengths in prop::collection::vec(0..9_usize, 2..6), cut in 0.0..1.0_f64, seed in any::<u64>()
    ) {
        let length = lengths.iter().sum::<usize>() + 2;
        let cut = 1 + ((length - 2) as f64 * cut) as usize;
        let starts = Starts::from_lengths(&[&lengths[..], &[2]].concat());
        let (x, dy) = (random([1, length, WIDTH], seed), random([1, length, WIDTH], !seed));
        for reverse in [false, true] {
            let mut chunks = [0..cut, cut..length];
            if reverse {
                chunks.reverse();
            }
            for (name, mixer, reads) in mixers() {
                if reads != Reads::All { continue; }
                let read = |chunks: &[_]| read_packed(mixer.as_ref(), [&x, &dy], &starts, reverse, chunks);
                let row = 0..length;
                let row = [row];
                let whole = &read(&row)[0];
                let packed = Sequence { starts: Some(&starts), reverse, ..Sequence::default() };
                assert_close(&name, &self::read(mixer.as_ref(), &x, &packed), &whole[0]);
                for (chunk, got) in chunks.iter().zip(read(&chunks)) {
                    for (got, whole) in got.iter().zip(whole) {
                        assert_close(&name, got, &rows(whole, chunk.start, chunk.end));
                    }
                }
            }
        }
    }

    #[test]
    fn reading_in_reverse_is_reading_the_reversed_sequence(
        batch in 1..3_usize, length in 1..30_usize, seed in any::<u64>()
    ) {
        let x = random([batch, length, WIDTH], seed);
        for (name, mixer, reads) in mixers() {
            if reads != Reads::All { continue; }
            let backwards = Sequence { reverse: true, ..Sequence::default() };
            let y = read(mixer.as_ref(), &x, &backwards);
            let turned = read(mixer.as_ref(), &reversed(&x), &Sequence::default());
            assert_close(&name, &y, &reversed(&turned));
        }
    }
}

#[test]
fn a_lowered_mixer_adds_what_its_forward_gives_to_the_slots_that_are_taken_alone() {
    let (slots, taken, length) = (3, 2, 3 * POOL);
    let norm = RmsNorm::plan(WIDTH, 1e-5).init(Device::cpu(), 0).unwrap();
    let mut fused = 0;
    for (name, mixer, _) in mixers() {
        fused += usize::from(mixer.fused().unwrap().is_some());
        let stepper = mixer.stepper().unwrap();
        let x = random([slots, length, WIDTH], 5);
        let normalised = norm.forward(&x.clone().into(), None, DType::F32).unwrap().y;
        let y = read(
            mixer.as_ref(),
            normalised.tensor().unwrap(),
            &Sequence::default(),
        );
        let expected = add(&y.into(), &x.clone().into())
            .unwrap()
            .into_tensor()
            .unwrap();
        let state = mixer.initial_state(slots, Device::cpu()).unwrap();
        let mut state: Vec<Tensor> = state
            .into_iter()
            .map(|var| var.into_tensor().unwrap())
            .collect();
        let untouched = state.clone();
        let mut room =
            Tensor::full([slots, stepper.room().max(1)], f32::NAN, Device::cpu()).unwrap();
        for t in 0..length {
            let mut h = rows(&x, t, t + 1).reshape([slots, WIDTH]).unwrap();
            let other = h.narrow(taken..slots).unwrap().to_vec::<f32>().unwrap();
            stepper
                .step(&norm, taken, &mut h, &mut state, &mut room)
                .unwrap();
            let expected = rows(&expected, t, t + 1).narrow(0..taken).unwrap();
            assert_close(&name, &h.narrow(0..taken).unwrap(), &expected);
            assert_eq!(
                h.narrow(taken..slots).unwrap().to_vec::<f32>().unwrap(),
                other,
                "{name}"
            );
        }
        for (state, before) in state.iter().zip(&untouched) {
            let [state, before] = [state, before].map(|all| all.narrow(taken..slots).unwrap());
            assert_eq!(
                state.as_bytes().unwrap(),
                before.as_bytes().unwrap(),
                "{name}"
            );
        }
        let mut h = rows(&x, 0, 1).reshape([slots, WIDTH]).unwrap();
        let mut wrong = if state.is_empty() {
            vec![h.clone()]
        } else {
            Vec::new()
        };
        let refused = stepper.step(&norm, taken, &mut h, &mut wrong, &mut room);
        assert!(matches!(refused, Err(Error::State { .. })), "{name}");
    }
    // Mamba around a real S6 whose Δ, B and C depend on the token, in five of the variants; four with caches, and a
    // pooled one.
    assert_eq!(fused, 10);
}

#[test]
fn gradients_of_every_mixer_pass_gradcheck() {
    for (name, mixer, _) in mixers() {
        let x = random([2, 2 * POOL, WIDTH], 11);
        let forward = |v: &[Var]| {
            mixer
                .forward(&v[0], &Sequence::default(), None)
                .map_err(Into::into)
        };
        let check = gradcheck(forward, &[x], GradCheckOptions::default()).unwrap();
        assert!(check.ok, "{name}: {check:?}");
    }
}

/// A model whose layers are of all kinds.
fn mixed() -> MambaLmConfig {
    let h3 = H3Config {
        ssm: S4dConfig {
            d_state: 5,
            ..S4dConfig::default()
        }
        .into(),
        ..H3Config::default()
    };
    let letters: String = MixerConfig::all().map(|one| one.kind().0).iter().collect();
    let model = MambaLmConfig {
        positions: 2048,
        ..MambaLmConfig::new(WIDTH, letters.len() + 1, 11)
    };
    model.with_mixer(h3).with_layers(letters)
}

#[test]
fn a_model_of_several_mixers_reads_whole_in_chunks_and_token_by_token_alike() {
    let model = mixed().init(Device::cpu(), 3).unwrap();
    let (batch, length, cut) = (2, 7 * POOL, 13);
    let ids: Vec<u32> = (0..batch * length).map(|i| (i * 7 % 11) as u32).collect();
    let chunk = |from: usize, to: usize| {
        let rows = ids.chunks(length).flat_map(|row| &row[from..to]).copied();
        let rows: Vec<u32> = rows.collect();
        Tensor::from_slice([batch, to - from], &rows, Device::cpu()).unwrap()
    };
    let logits = |ids: Tensor, state: Option<&mut LmState>| {
        let logits = model.forward(&ids.into(), &Sequence::default(), state);
        logits.unwrap().into_tensor().unwrap()
    };
    let whole = logits(chunk(0, length), None);
    let mut state = model.initial_state(batch).unwrap();
    for (from, to) in [(0, cut), (cut, length)] {
        let got = logits(chunk(from, to), Some(&mut state));
        assert_close("chunks", &got, &rows(&whole, from, to));
    }
    let mut state = model.initial_state(batch).unwrap();
    let stepper = model.stepper().unwrap();
    let mut slots = stepper.slots(&model, batch, DType::F32).unwrap();
    for t in 0..length {
        let token = chunk(t, t + 1).reshape([batch]).unwrap();
        let got = model.step(&token, &mut state).unwrap();
        assert_close("steps", &got, &rows(&whole, t, t + 1));
        stepper.step(&token, batch, &mut slots).unwrap();
        assert_close("lowered steps", slots.logits(), &rows(&whole, t, t + 1));
    }
}

#[test]
fn a_model_reads_a_packed_row_whole_and_in_chunks_alike_and_refuses_a_state_before_whole_rows() {
    let model = MambaLmConfig::new(WIDTH, 2, 11)
        .init(Device::cpu(), 3)
        .unwrap();
    let lengths = [0, 5, 1, 9, 0, 6];
    let (starts, length) = (Starts::from_lengths(&lengths), 21);
    let logits = |positions: Range<usize>, starts: &Starts, state: Option<&mut LmState>| {
        let ids: Vec<u32> = positions.map(|i| (i * 7 % 11) as u32).collect();
        let ids = Tensor::from_slice([1, ids.len()], &ids, Device::cpu()).unwrap();
        let sequence = Sequence {
            starts: Some(starts),
            ..Sequence::default()
        };
        let logits = model.forward(&ids.into(), &sequence, state)?;
        Ok::<_, Error>(logits.into_tensor()?)
    };
    let whole = logits(0..length, &starts, None).unwrap();
    let mut state = model.initial_state(1).unwrap();
    for (from, to) in [(0, 4), (4, 6), (6, 13), (13, 21)] {
        let chunk = starts.chunk(from..to).unwrap();
        let got = logits(from..to, &chunk, Some(&mut state)).unwrap();
        assert_close("chunks", &got, &rows(&whole, from, to));
    }
    let refused = logits(0..length, &starts, Some(&mut state)).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Core(serpens_core::Error::Surplus {
                op: "causal_conv1d",
                ..
            })
        ),
        "{refused}"
    );
}

/// The rows of a product have the same bits among few others, and among many.
#[test]
fn sequences_of_their_own_states_are_read_together_to_the_bits_of_each_by_itself() {
    let wide = |config: MambaLmConfig| MambaLmConfig {
        d_model: 72,
        ..config
    };
    for config in [MambaLmConfig::new(72, 2, 11), wide(mixed())] {
        let model = config.init(Device::cpu(), 3).unwrap();
        let read = |ids: &[u32], lengths: Option<&[usize]>, rows: &[&StateRow]| {
            let ids = Tensor::from_slice([1, ids.len()], ids, Device::cpu()).unwrap();
            let mut state = LmState::gather(rows).unwrap();
            let sequence = Sequence {
                lengths,
                ..Sequence::default()
            };
            let hidden = model
                .hidden(&ids.into(), &sequence, Some(&mut state))
                .unwrap();
            let hidden = hidden.into_tensor().unwrap().to_vec::<f32>().unwrap();
            (hidden, state.scatter().unwrap())
        };
        for lengths in [vec![1, 40, 7, 64], vec![520, 700, 531], vec![1; 5]] {
            let fresh = model.initial_state(1).unwrap().scatter().unwrap();
            let ids: Vec<u32> = (0..lengths.iter().sum())
                .map(|i: usize| (i * 7 % 11) as u32)
                .collect();
            // Twice, so that the second time they go on from states that differ.
            let mut together = vec![fresh[0].clone(); lengths.len()];
            let mut alone = together.clone();
            for _ in 0..2 {
                let (hidden, states) =
                    read(&ids, Some(&lengths), &together.iter().collect::<Vec<_>>());
                let mut from = 0;
                for (i, length) in lengths.iter().enumerate() {
                    let (own, state) = read(&ids[from..from + length], None, &[&alone[i]]);
                    assert!(
                        own == hidden[from * 72..(from + length) * 72],
                        "{i} of {lengths:?}"
                    );
                    alone[i] = state[0].clone();
                    from += length;
                }
                together = states;
            }
        }
        // Neither without a state for each, nor to be trained.
        let sequence = Sequence {
            lengths: Some(&[2, 1]),
            ..Sequence::default()
        };
        let ids = Tensor::from_slice([1, 3], &[1_u32, 2, 3], Device::cpu()).unwrap();
        for mut state in [None, Some(model.initial_state(1).unwrap())] {
            let refused = model.hidden(&ids.clone().into(), &sequence, state.as_mut());
            assert!(matches!(refused, Err(Error::Unsupported(_))));
        }
        let mut state = model.initial_state(2).unwrap();
        let ids = Tape::new().constant(ids);
        let refused = model.hidden(&ids, &sequence, Some(&mut state));
        assert!(matches!(refused, Err(Error::Unsupported(_))));
    }
}

#[test]
fn mixers_are_written_as_one_or_as_a_list_and_repeat_over_the_layers() {
    let listed = [MambaConfig::default().into(), H3Config::default().into()];
    let listed = MambaLmConfig::new(8, 3, 5).with_mixers(listed);
    for config in [MambaLmConfig::new(8, 2, 5), mixed(), listed] {
        let text = serde_json::to_string(&config).unwrap();
        let listed = text.contains(r#""block":["#);
        assert_eq!(listed, config.mixers.len() > 1, "{text}");
        assert_eq!(
            serde_json::from_str::<MambaLmConfig>(&text).unwrap(),
            config
        );
    }
    let mut kinds = String::new();
    let of_kind = [
        ("conv1d.weight", 'M'),
        ("shift.weight", 'H'),
        ("gate.bias", 'G'),
    ];
    let seen = mixed().plan().unwrap().visit("", &mut |name, _| {
        let found = of_kind.iter().filter(|(part, _)| name.contains(part));
        kinds.extend(found.map(|(_, letter)| letter));
        Ok(())
    });
    seen.unwrap();
    // Inside the pooled layer are another Mamba and a shift.
    assert_eq!(kinds, "MHGMHM", "those of other kinds are none of these");
    assert_eq!(mixed().ssm_name(), "mixed");
    let twin = mixed().with_ssm(
        &S4dConfig {
            d_state: 5,
            ..S4dConfig::default()
        }
        .into(),
    );
    assert_eq!(twin.ssm_name(), "S4D");
    let wrong = r#"{"d_model":8,"n_layer":1,"vocab_size":5,"block":[{"kind":"h3","d_cov":3}]}"#;
    let error = serde_json::from_str::<MambaLmConfig>(wrong).unwrap_err();
    assert!(
        error.to_string().contains("unknown field `d_cov`"),
        "{error}"
    );
}

#[test]
fn a_state_goes_on_under_another_tape_once_it_is_detached() {
    let model = MambaLmConfig::new(WIDTH, 2, 11)
        .init(Device::cpu(), 3)
        .unwrap();
    let read = |state: &mut LmState| {
        let ids = Tensor::from_slice([1, 3], &[1_u32, 2, 3], Device::cpu()).unwrap();
        model.forward(
            &Tape::new().constant(ids),
            &Sequence::default(),
            Some(state),
        )
    };
    let mut state = model.initial_state(1).unwrap();
    read(&mut state).unwrap();
    assert!(matches!(
        read(&mut state.clone()),
        Err(Error::Core(serpens_core::Error::TapeMismatch { .. }))
    ));
    read(&mut state.detach()).unwrap();
}

#[test]
fn a_state_of_another_model_is_refused() {
    let small = MambaLmConfig::new(8, 1, 5).init(Device::cpu(), 1).unwrap();
    let large = MambaLmConfig::new(8, 2, 5).init(Device::cpu(), 1).unwrap();
    let mut state = small.initial_state(1).unwrap();
    let ids = Tensor::from_slice([1, 3], &[1_u32, 2, 3], Device::cpu()).unwrap();
    let error = large.read(&ids, &mut state).unwrap_err();
    assert!(error.to_string().contains("another model"), "{error}");
}

#[test]
fn one_seed_gives_the_same_bits_whatever_the_number_of_threads() {
    let config = MambaLmConfig::new(24, 2, 17);
    let mut rng = SmallRng::seed_from_u64(5);
    let tokens: Vec<u32> = (0..2 * 70).map(|_| rng.random_range(0..17)).collect();
    let run = |threads: usize| -> Vec<f32> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let model = config.init(Device::cpu(), 9).unwrap();
            let ids = Tensor::from_slice([2, 70], &tokens, Device::cpu()).unwrap();
            let logits = model
                .forward(&ids.into(), &Sequence::default(), None)
                .unwrap();
            logits.into_tensor().unwrap().to_vec::<f32>().unwrap()
        })
    };
    let one = run(1);
    assert_eq!(one, run(1));
    // The GEMM library may order its sums by the number of threads; everything else keeps the same bits.
    let scale = one.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for (a, b) in one.iter().zip(run(3)) {
        assert!((a - b).abs() <= 1e-5 * scale);
    }
}
