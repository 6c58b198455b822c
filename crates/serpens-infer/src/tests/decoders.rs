//! Sequences in the slots of a decoder.

use serpens_core::{DType, bf16};
use serpens_nn::mixers::{H3Config, MambaConfig, PooledConfig};
use serpens_nn::ssm::SelectiveSsmConfig;
use serpens_nn::{LoraConfig, Precision, StateRow};
use serpens_ops::elementwise::cast;
use serpens_ops::sampling::MOST_TOKENS;

use super::*;
use crate::{Decoder, SampleOptions};

fn start(model: &MambaLm) -> StateRow {
    model.initial_state(1).unwrap().scatter().unwrap().remove(0)
}

fn bits(row: &StateRow) -> Vec<u32> {
    let mut all = Vec::new();
    row.try_map(|_, tensor| {
        all.extend(match tensor.dtype() {
            DType::U32 => tensor.to_vec::<u32>().unwrap(),
            _ => {
                let values = tensor.to_vec::<f32>().unwrap();
                values.into_iter().map(f32::to_bits).collect()
            }
        });
        Ok::<_, Error>(tensor.clone())
    })
    .unwrap();
    all
}

/// Layers over groups of tokens, which sequences complete at different steps.
fn unet() -> MambaLm {
    let pooled = PooledConfig {
        pool: 3,
        ..PooledConfig::default()
    };
    let config = MambaLmConfig {
        embedding_std: 1.0,
        ..MambaLmConfig::new(24, 2, TOKENS)
    };
    let model = config.with_mixers([pooled.into(), MambaConfig::default().into()]);
    model.init(Device::cpu(), 6).unwrap()
}

/// So many slots, with states of this type.
fn decoder(model: &MambaLm, slots: usize, states: DType) -> Result<Decoder<'_>> {
    let batching = Batching {
        slots,
        states,
        ..Batching::default()
    };
    Decoder::batching(model, batching)
}

/// The logits after each token, read alone, and the state behind them.
fn alone(model: &MambaLm, ids: &[u32], states: DType) -> (Vec<Vec<f32>>, StateRow) {
    let mut decoder = decoder(model, 1, states).unwrap();
    decoder.enter(&start(model)).unwrap();
    let read = |id: &u32| {
        decoder.step(&[*id]).unwrap();
        decoder.logits(0).unwrap().to_vec()
    };
    let logits = ids.iter().map(read).collect();
    (logits, decoder.leave(0).unwrap())
}

#[test]
fn sequences_that_enter_late_and_leave_early_have_the_bits_that_they_have_alone() {
    let (plain, mut adapted, unet) = (model(6), model(7), unet());
    adapted.adapt(LoraConfig::default(), 3).unwrap(); // read by forward passes
    let cases = [
        (&plain, DType::F32),
        (&plain, DType::BF16),
        (&adapted, DType::F32),
        (&unet, DType::F32),
    ];
    for (model, states) in cases {
        // A sequence enters at each of these steps and is read for so many.
        let spans = [
            (0, 25),
            (0, 3),
            (2, 9),
            (2, 1),
            (5, 30),
            (7, 12),
            (13, 4),
            (13, 20),
        ];
        let texts: Vec<Vec<u32>> = (0..8).map(|i| ids(i, spans[i].1)).collect();
        let expected: Vec<_> = texts.iter().map(|ids| alone(model, ids, states)).collect();
        let mut decoder = decoder(model, 6, states).unwrap();
        let mut inside: Vec<(usize, usize)> = Vec::new(); // the sequence in each slot, and how much of it was read
        for step in 0..40 {
            for i in (0..8).filter(|i| spans[*i].0 == step) {
                decoder.enter(&start(model)).unwrap();
                inside.push((i, 0));
            }
            let tokens: Vec<u32> = inside.iter().map(|(i, at)| texts[*i][*at]).collect();
            decoder.step(&tokens).unwrap();
            for (slot, (i, at)) in inside.iter_mut().enumerate() {
                assert_eq!(
                    decoder.logits(slot).unwrap(),
                    expected[*i].0[*at],
                    "sequence {i} at {at}"
                );
                *at += 1;
            }
            while let Some(slot) = inside.iter().position(|(i, at)| *at == texts[*i].len()) {
                let (i, _) = inside.swap_remove(slot);
                let row = decoder.leave(slot).unwrap();
                assert_eq!(
                    bits(&row),
                    bits(&expected[i].1),
                    "the state of sequence {i}"
                );
            }
        }
        assert_eq!(decoder.taken(), 0);
    }
}

#[test]
fn a_sequence_beside_nan_stays_as_it_is() {
    let model = model(8);
    let (text, broken) = (
        ids(1, 20),
        start(&model).try_map(|_, tensor| Tensor::full(tensor.shape(), f32::NAN, Device::cpu())),
    );
    let expected = alone(&model, &text, DType::F32);
    let mut decoder = Decoder::new(&model, 3).unwrap();
    let broken = broken.unwrap();
    for row in [&broken, &start(&model), &broken] {
        decoder.enter(row).unwrap();
    }
    for (id, expected) in text.iter().zip(&expected.0) {
        decoder.step(&[3, *id, 4]).unwrap();
        assert_eq!(decoder.logits(1).unwrap(), expected);
        assert!(
            decoder
                .logits(2)
                .unwrap()
                .iter()
                .all(|logit| logit.is_nan())
        );
    }
    assert_eq!(bits(&decoder.leave(1).unwrap()), bits(&expected.1));
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let config = MambaLmConfig::new(96, 2, TOKENS);
    let model = config.init(Device::cpu(), 4).unwrap();
    let runs = [1, 2, 4].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap()
            .install(|| alone(&model, &ids(2, 30), DType::F32).0)
    });
    assert!(runs.iter().all(|run| *run == runs[0]));
}

#[test]
fn what_does_not_fit_a_decoder_is_refused_and_changes_nothing() {
    let (model, other) = (
        model(9),
        MambaLmConfig::new(24, 3, TOKENS).init(Device::cpu(), 1),
    );
    let other = other.unwrap();
    let mut decoder = Decoder::new(&model, 2).unwrap();
    decoder.step(&[]).unwrap(); // of nothing
    decoder.enter(&start(&model)).unwrap();
    assert!(matches!(
        decoder.enter(&start(&other)),
        Err(Error::Model(_))
    ));
    decoder.enter(&start(&model)).unwrap();
    let refused = [
        decoder.enter(&start(&model)).unwrap_err(),
        decoder.step(&[1]).unwrap_err(),
        decoder.step(&[1, TOKENS as u32]).unwrap_err(),
        decoder.leave(2).unwrap_err(),
        decoder.logits(2).unwrap_err(),
    ];
    assert!(
        refused.iter().all(|error| matches!(error, Error::Core(_))),
        "{refused:?}"
    );
    let expected = alone(&model, &[5], DType::F32).0;
    decoder.step(&[5, 6]).unwrap();
    assert_eq!(decoder.logits(0).unwrap(), expected[0]);
}

/// The state of each layer's scan rounded, and all else as it is.
fn rounded(row: &StateRow) -> StateRow {
    let round = |v: f32| bf16::from_f32(v).to_f32();
    row.try_map(|name, tensor| match name.ends_with(".1") {
        true => {
            let values = tensor.to_vec::<f32>()?.into_iter().map(round);
            Tensor::from_slice(tensor.shape(), &values.collect::<Vec<_>>(), tensor.device())
        }
        false => Ok(tensor.clone()),
    })
    .unwrap()
}

#[test]
fn states_in_bf16_are_those_of_f32_rounded_after_every_token_on_every_device() {
    let on_gpu = Device::cuda(0).map(|gpu| [(gpu, Precision::F32), (gpu, Precision::Bf16)]);
    let on_gpu = on_gpu.into_iter().flatten();
    for (device, precision) in on_gpu.chain([(Device::Cpu, Precision::F32)]) {
        let config = MambaLmConfig {
            embedding_std: 1.0,
            ..MambaLmConfig::new(128, 2, TOKENS)
        };
        let mut model = config.init(Device::cpu(), 5).unwrap();
        model.to(device, precision).unwrap();
        // Few and many, for which a GPU has kernels of their own.
        for slots in [2, 11] {
            let [mut narrow, mut wide, mut plain] = [DType::BF16, DType::F32, DType::F32]
                .map(|states| decoder(&model, slots, states).unwrap());
            let state = |decoder: &Decoder<'_>| decoder.bytes_per_sequence();
            let kept = 2 * 256 * 3 * size_of::<f32>(); // the windows of two convolutions
            assert_eq!(state(&wide) - kept, 2 * (state(&narrow) - kept));
            for decoder in [&mut narrow, &mut wide, &mut plain] {
                (0..slots).for_each(|_| decoder.enter(&start(&model)).unwrap());
            }
            for t in 0..30 {
                let tokens: Vec<u32> = (0..slots).map(|slot| ids(slot, 30)[t]).collect();
                for decoder in [&mut narrow, &mut wide, &mut plain] {
                    decoder.step(&tokens).unwrap();
                }
                for slot in 0..slots {
                    let [narrow, wide] = [&narrow, &wide].map(|it| it.logits(slot).unwrap());
                    assert_eq!(narrow, wide, "slot {slot} of {slots} at {t} on {device}");
                }
                let rows = (0..slots).rev().map(|slot| wide.leave(slot).unwrap());
                for row in rows.collect::<Vec<_>>().iter().rev() {
                    wide.enter(&rounded(row)).unwrap();
                }
            }
            assert_ne!(narrow.logits(0).unwrap(), plain.logits(0).unwrap());
            for slot in (0..slots).rev() {
                let [narrow, wide] = [&mut narrow, &mut wide].map(|it| it.leave(slot).unwrap());
                assert_eq!(bits(&narrow), bits(&wide), "the state of slot {slot}");
            }
        }
    }
}

#[test]
fn states_in_bf16_are_refused_where_a_layer_has_none_that_may_be() {
    let mixed = MambaLmConfig::new(24, 3, TOKENS)
        .with_mixers([MambaConfig::default().into(), H3Config::default().into()]);
    let mut adapted = model(7);
    adapted.adapt(LoraConfig::default(), 3).unwrap();
    for (model, expected) in [(mixed.init(Device::cpu(), 1).unwrap(), 1), (adapted, 0)] {
        let refused = decoder(&model, 1, DType::BF16).err().unwrap();
        let Error::Model(serpens_nn::Error::States { layer, .. }) = refused else {
            panic!("{refused}");
        };
        assert_eq!(layer, expected);
        decoder(&model, 1, DType::F32).unwrap();
    }
}

/// ‖a - b‖ / ‖b‖.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let norm = |values: Vec<f64>| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let (a, b) = (a.concat(), b.concat());
    let apart = a.iter().zip(&b).map(|(a, b)| f64::from(a - b)).collect();
    norm(apart) / norm(b.into_iter().map(f64::from).collect())
}

#[test]
fn of_more_tokens_than_a_gpu_draws_from_the_processor_draws() {
    let Ok(device) = Device::cuda(0) else {
        return println!("skipped: there is no GPU");
    };
    let config = MambaLmConfig::new(16, 1, MOST_TOKENS + 1);
    let mut model = config.init(Device::cpu(), 3).unwrap();
    model.to(device, Precision::F32).unwrap();
    let last = MOST_TOKENS as u32;
    let request = Request {
        prompt: vec![1, last],
        tokens: 3,
        sampling: SampleOptions {
            logit_bias: vec![(last, 1e6)],
            ..SampleOptions::default()
        },
        ..Request::default()
    };
    assert_eq!(run_one(&model, request).tokens(), [last; 3]);
}

/// The steps of a GPU go through kernels of their own; what they lose against the processor in f32 is held to twice
/// what the forward pass of one token loses there.
#[test]
fn a_gpu_has_the_logits_of_the_processor_however_many_slots_there_are() {
    let Ok(device) = Device::cuda(0) else {
        return println!("skipped: there is no GPU");
    };
    let wide = |d_model| {
        let config = MambaLmConfig {
            embedding_std: 1.0,
            ..MambaLmConfig::new(d_model, 3, TOKENS)
        };
        config.init(Device::cpu(), 6).unwrap()
    };
    let inner = |d_state| {
        let ssm = SelectiveSsmConfig {
            d_state,
            ..SelectiveSsmConfig::default()
        };
        MambaConfig::new(ssm).into()
    };
    let mixed = MambaLmConfig::new(256, 2, TOKENS).with_mixers([inner(8), inner(16)]);
    let mixed = mixed.init(Device::cpu(), 8).unwrap();
    // Of multiples of 256, one sequence in bf16 has a kernel for all layers where the card has one and they are alike.
    for model in [model(5), wide(192), wide(256), wide(768), mixed, unet()] {
        let text = ids(4, 40);
        let expected = alone(&model, &text, DType::F32).0;
        for precision in [Precision::F32, Precision::Bf16] {
            let mut model = model.clone();
            model.to(device, precision).unwrap();
            let mut state = model.initial_state(1).unwrap();
            let plain = text.iter().map(|id| {
                let id = Tensor::from_slice([1], &[*id], Device::cpu()).unwrap();
                let logits = model.step(&id, &mut state).unwrap();
                let logits = cast(&logits.into(), DType::F32).unwrap();
                logits.tensor().unwrap().to_vec::<f32>().unwrap()
            });
            let allowed = 2.0 * distance(&plain.collect::<Vec<_>>(), &expected).max(1e-6);
            for slots in [1, 2, 5, 16, 17] {
                let mut decoder = Decoder::new(&model, slots).unwrap();
                for _ in 0..slots.min(3) {
                    decoder.enter(&start(&model)).unwrap();
                }
                let last = decoder.taken() - 1;
                let read = |id: &u32| {
                    decoder.step(&vec![*id; last + 1]).unwrap();
                    decoder.logits(last).unwrap().to_vec()
                };
                let got: Vec<_> = text.iter().map(read).collect();
                let error = distance(&got, &expected);
                assert!(
                    error <= allowed,
                    "{slots} slots in {precision:?}: {error:.1e}, allowed {allowed:.1e}"
                );
            }
        }
    }
}
