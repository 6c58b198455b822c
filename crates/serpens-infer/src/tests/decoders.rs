//! Sequences in the slots of a decoder.

use serpens_nn::{LoraConfig, StateRow};

use super::*;
use crate::Decoder;

fn start(model: &MambaLm) -> StateRow {
    model.initial_state(1).unwrap().scatter().unwrap().remove(0)
}

fn bits(row: &StateRow) -> Vec<u32> {
    let mut all = Vec::new();
    row.try_map(|_, tensor| {
        all.extend(
            tensor
                .to_vec::<f32>()
                .unwrap()
                .into_iter()
                .map(f32::to_bits),
        );
        Ok::<_, Error>(tensor.clone())
    })
    .unwrap();
    all
}

/// The logits after each token, read alone, and the state behind them.
fn alone(model: &MambaLm, ids: &[u32]) -> (Vec<Vec<f32>>, StateRow) {
    let mut decoder = Decoder::new(model, 1).unwrap();
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
    let (plain, mut adapted) = (model(6), model(7));
    adapted.adapt(LoraConfig::default(), 3).unwrap(); // read by forward passes
    for model in [&plain, &adapted] {
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
        let expected: Vec<_> = texts.iter().map(|ids| alone(model, ids)).collect();
        let mut decoder = Decoder::new(model, 6).unwrap();
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
    let expected = alone(&model, &text);
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
        pool.unwrap().install(|| alone(&model, &ids(2, 30)).0)
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
    let expected = alone(&model, &[5]).0;
    decoder.step(&[5, 6]).unwrap();
    assert_eq!(decoder.logits(0).unwrap(), expected[0]);
}
