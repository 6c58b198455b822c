//! Every block and layer reads a sequence the same way whole, in chunks with carried state, token by token, packed, and reversed.

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serpens_core::{Device, GradCheckOptions, Tensor, Var, gradcheck};
use serpens_nn::blocks::{Block, BlockConfig, H3BlockConfig, MambaBlockConfig, PlainBlockConfig};
use serpens_nn::layers::{AInit, DtRank, InnerConfig, S4dConfig, SelectiveSsmConfig, Sequence};
use serpens_nn::{MambaLmConfig, Module, Start};
use serpens_ops::Starts;

const WIDTH: usize = 6;

fn inners() -> Vec<InnerConfig> {
    let s6 = SelectiveSsmConfig::new(5);
    let variant = |change: fn(&mut SelectiveSsmConfig)| {
        let mut config = s6.clone();
        change(&mut config);
        InnerConfig::S6(config)
    };
    vec![
        InnerConfig::S6(s6.clone()),
        variant(|c| c.a_init = AInit::Complex),
        variant(|c| c.a_init = AInit::Half),
        variant(|c| c.a_init = AInit::Random),
        variant(|c| c.dt_rank = DtRank::Fixed(0)),
        variant(|c| c.selective_b = false),
        variant(|c| c.selective_c = false),
        variant(|c| (c.selective_dt, c.selective_b, c.selective_c) = (false, false, false)),
        InnerConfig::S4d(S4dConfig::new(5)),
        InnerConfig::S4d(S4dConfig {
            complex: false,
            train_b: true,
            ..S4dConfig::new(5)
        }),
    ]
}

fn blocks() -> Vec<(String, Block, bool)> {
    let mut blocks = Vec::new();
    for (i, inner) in inners().into_iter().enumerate() {
        let selective = matches!(inner, InnerConfig::S6(_));
        let configs = [
            BlockConfig::Mamba(MambaBlockConfig {
                d_conv: 1 + i % 4,
                ..MambaBlockConfig::new(inner.clone())
            }),
            BlockConfig::H3(H3BlockConfig {
                inner: inner.clone(),
                ..H3BlockConfig::default()
            }),
            BlockConfig::Plain(PlainBlockConfig { inner, expand: 1 }),
        ];
        for config in configs {
            let block = config.plan(WIDTH, 1.0).unwrap();
            let block = block.init(Device::cpu(), 7).unwrap();
            blocks.push((format!("{config:?}"), block, selective));
        }
    }
    blocks
}

fn random(shape: [usize; 3], seed: u64) -> Tensor {
    let normal = Start::Normal { std: 1.0 };
    normal.draw(shape.into(), "x", seed, Device::cpu()).unwrap()
}

fn rows(tensor: &Tensor, from: usize, to: usize) -> Tensor {
    let [batch, length, width] = tensor.dims().try_into().unwrap();
    let values = tensor.as_slice::<f32>().unwrap();
    let part: Vec<f32> = (0..batch)
        .flat_map(|b| &values[(b * length + from) * width..(b * length + to) * width])
        .copied()
        .collect();
    Tensor::from_slice([batch, to - from, width], &part, Device::cpu()).unwrap()
}

fn reversed(tensor: &Tensor) -> Tensor {
    let [batch, length, width] = tensor.dims().try_into().unwrap();
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

fn read(block: &Block, x: &Tensor, sequence: &Sequence<'_>) -> Tensor {
    let y = block.forward(&x.clone().into(), sequence, None).unwrap();
    y.into_tensor().unwrap()
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
        let x = random([batch, length, WIDTH], seed);
        for (name, block, _) in blocks() {
            let whole = read(&block, &x, &Sequence::default());
            let mut state = block.initial_state(batch, Device::cpu()).unwrap();
            for (from, to) in [(0, cut), (cut, length)] {
                if from == to { continue; }
                let part: Var = rows(&x, from, to).into();
                let y = block.forward(&part, &Sequence::default(), Some(&mut state)).unwrap();
                assert_close(&name, &y.into_tensor().unwrap(), &rows(&whole, from, to));
            }
            let mut state = block.initial_state(batch, Device::cpu()).unwrap();
            for t in 0..length {
                let token: Var = rows(&x, t, t + 1).reshape([batch, WIDTH]).unwrap().into();
                let y = block.step(&token, &mut state).unwrap().into_tensor().unwrap();
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
            for (name, block, selective) in blocks() {
                if !selective { continue; }
                let packed = Sequence { starts: Some(&starts), reverse, ..Sequence::default() };
                let together = read(&block, &x, &packed);
                for (from, to) in [(0, first), (first, first + second)] {
                    let alone = Sequence { reverse, ..Sequence::default() };
                    let y = read(&block, &rows(&x, from, to), &alone);
                    assert_close(&name, &y, &rows(&together, from, to));
                }
            }
        }
    }

    #[test]
    fn reading_in_reverse_is_reading_the_reversed_sequence(
        batch in 1..3_usize, length in 1..30_usize, seed in any::<u64>()
    ) {
        let x = random([batch, length, WIDTH], seed);
        for (name, block, selective) in blocks() {
            if !selective { continue; }
            let backwards = Sequence { reverse: true, ..Sequence::default() };
            let y = read(&block, &x, &backwards);
            let turned = read(&block, &reversed(&x), &Sequence::default());
            assert_close(&name, &y, &reversed(&turned));
        }
    }
}

#[test]
fn gradients_of_every_block_pass_gradcheck() {
    for (name, block, _) in blocks() {
        let x = random([2, 5, WIDTH], 11);
        let forward = |v: &[Var]| {
            block
                .forward(&v[0], &Sequence::default(), None)
                .map_err(Into::into)
        };
        let check = gradcheck(forward, &[x], GradCheckOptions::default()).unwrap();
        assert!(check.ok, "{name}: {check:?}");
    }
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

#[test]
fn impossible_sizes_are_refused() {
    for (config, field) in [
        (MambaLmConfig::new(0, 1, 5), "d_model"),
        (MambaLmConfig::new(8, 1, 0), "vocab_size"),
        (
            MambaLmConfig::new(8, 1, 5).with_block(BlockConfig::Mamba(MambaBlockConfig::new(
                InnerConfig::S6(SelectiveSsmConfig::new(0)),
            ))),
            "d_state",
        ),
        (
            MambaLmConfig::new(8, 1, 5).with_block(BlockConfig::Mamba(MambaBlockConfig {
                expand: 0,
                ..MambaBlockConfig::default()
            })),
            "expand",
        ),
    ] {
        let error = config.init(Device::cpu(), 1).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}
