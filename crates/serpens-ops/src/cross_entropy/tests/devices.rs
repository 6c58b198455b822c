//! −ln softmax(logits)[target], its mean, its totals and its gradient.

use std::cell::Cell;
use std::rc::Rc;

use serpens_core::tape::{Backward, BackwardContext, record};
use serpens_core::{DType, Device, Error, Gradients, Result, Tape, Tensor};

use super::reference;
use crate::cross_entropy::{IGNORE, Totals, cross_entropy, weighted};
use crate::shared::tests::{assert_near, cases, f32s, read, round, tensor, values};

/// (rows, vocabulary): rows that a warp, half a block and a whole block share, hardly any of them aligned.
const SIZES: [(usize, usize); 8] = [
    (300, 1),
    (211, 3),
    (129, 16),
    (300, 256),
    (37, 1001),
    (5, 8191),
    (6, 50_277),
    (3, 70_001),
];

/// Targets of which each fifth is ignored.
fn targets(rows: usize, vocabulary: usize) -> Vec<u32> {
    let target = |r: usize| match r % 5 {
        1 => IGNORE,
        _ => (r * 7919 % vocabulary) as u32,
    };
    (0..rows).map(target).collect()
}

/// The totals, and the gradient of `scale` · loss.
fn run(
    logits: &[f64],
    targets: &[u32],
    scale: f32,
    device: Device,
    dtype: DType,
) -> (Totals, Vec<f64>) {
    let shape = [targets.len(), logits.len() / targets.len()];
    let tape = Tape::new();
    let x = tape.leaf(tensor(shape, logits, dtype, device));
    let targets = Tensor::from_slice([targets.len()], targets, device).unwrap();
    let result = cross_entropy(x.clone(), &targets).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&result.loss, scale, &mut gradients).unwrap();
    let totals = result.read().unwrap();
    let loss = read(result.loss.tensor().unwrap());
    assert_eq!(loss, [f64::from(totals.mean() as f32)]);
    assert_eq!(read(x.tensor().unwrap()), logits, "the logits were shared");
    let gradient = tape.gradient(&x).unwrap().unwrap();
    (totals, read(&gradient))
}

/// Every size, forward and back, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for (rows, vocabulary) in SIZES {
        let tape = Tape::new();
        let logits = Tensor::zeros([rows, vocabulary], dtype, device).unwrap();
        let untracked = logits.clone().into();
        let targets = Tensor::zeros([rows], DType::U32, device).unwrap();
        cross_entropy(untracked, &targets).unwrap();
        let result = cross_entropy(tape.leaf(logits), &targets).unwrap();
        tape.backward(&result.loss, 1.0, &mut Gradients::new())
            .unwrap();
    }
    weighted::tests::devices::run_all(device, dtype);
}

#[test]
fn loss_and_gradient_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for (rows, vocabulary) in SIZES {
            let what = format!("{rows} rows of {vocabulary} on {device} in {dtype}");
            let logits = values(1, [rows, vocabulary], 8.0, dtype);
            let targets = targets(rows, vocabulary);
            let exact = reference::forward(&logits, &targets, vocabulary);
            let narrow = f32s(&logits);
            let plain_sum = reference::forward(&narrow, &targets, vocabulary).sum;
            for scale in [1.0_f32, 0.3] {
                let (totals, gradient) = run(&logits, &targets, scale, device, dtype);
                assert_eq!(
                    (totals.count, totals.correct),
                    (exact.count, exact.correct),
                    "{what}"
                );
                let epsilon = f64::from(f32::EPSILON);
                let allowed = 2.0 * (plain_sum - exact.sum).abs()
                    + epsilon * (exact.count as f64 + exact.sum.abs());
                let error = (totals.sum - exact.sum).abs();
                assert!(error <= allowed, "sum of {what}: {error} > {allowed}");
                if vocabulary == 1 {
                    assert!(gradient.iter().all(|&g| g == 0.0));
                    continue;
                }
                let factor = scale / exact.count as f32;
                let truth = f64::from(scale) / exact.count as f64;
                let truth = reference::backward(&logits, &targets, vocabulary, truth);
                let plain = reference::backward(&narrow, &targets, vocabulary, factor);
                assert_near(
                    &format!("gradient of {what}"),
                    &gradient,
                    &truth,
                    &plain,
                    dtype,
                );
            }
        }
    }
}

#[test]
fn large_logits_leave_their_differences_alone_on_every_device() {
    for (device, dtype) in cases() {
        for offset in [1e4, -1e6, 1e30].map(|offset| round(offset, dtype)) {
            let (totals, gradient) = run(&[offset; 2], &[0], 1.0, device, dtype);
            assert_eq!(gradient, [-0.5, 0.5], "at {offset} on {device} in {dtype}");
            assert!((totals.sum - std::f64::consts::LN_2).abs() < 1e-6);
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        for (rows, vocabulary) in SIZES {
            let logits = values(2, [rows, vocabulary], 8.0, dtype);
            let targets = targets(rows, vocabulary);
            let once = || run(&logits, &targets, 0.7, device, dtype);
            assert_eq!(once(), once(), "{rows} rows of {vocabulary} on {device}");
        }
    }
}

#[test]
fn masked_logits_ties_and_broken_logits_are_seen_on_every_device() {
    for (device, dtype) in cases() {
        let low = f64::NEG_INFINITY;
        // The target's logit is the largest, but in the second row only one of two, and not the first.
        let logits = [low, 2.0, low, 1.0, 2.0, 2.0, low, low, 3.0];
        let (totals, gradient) = run(&logits, &[1, 2, 2], 1.0, device, dtype);
        assert_eq!((totals.count, totals.correct), (3, 2));
        assert_eq!([gradient[0], gradient[1], gradient[2]], [0.0; 3]);
        for broken in [f64::NAN, f64::INFINITY] {
            let logits = [1.0, broken, 2.0];
            let x = tensor([1, 3], &logits, dtype, device);
            let targets = Tensor::from_slice([1], &[0_u32], device).unwrap();
            let result = cross_entropy(x.into(), &targets).unwrap();
            assert!(result.read().unwrap().sum.is_nan(), "{broken} on {device}");
        }
    }
}

#[test]
fn targets_outside_the_vocabulary_are_named_on_every_device() {
    for (device, dtype) in cases() {
        let logits = values(3, [4, 5], 1.0, dtype);
        let tape = Tape::new();
        let x = tape.leaf(tensor([4, 5], &logits, dtype, device));
        let targets = Tensor::from_slice([4], &[1_u32, 9, IGNORE, 7], device).unwrap();
        let result = cross_entropy(x.clone(), &targets);
        let (error, target) = match device {
            Device::Cpu => (result.err(), 9),
            Device::Cuda(_) => {
                let result = result.unwrap();
                let mut gradients = Gradients::new();
                tape.backward(&result.loss, 1.0, &mut gradients).unwrap();
                let gradient = read(&tape.gradient(&x).unwrap().unwrap());
                assert!(gradient[..5].iter().all(|&g| g != 0.0));
                assert!(gradient[5..].iter().all(|&g| g == 0.0));
                (result.read().err(), 7)
            }
        };
        assert!(
            matches!(&error, Some(Error::Range { expected, got, .. }) if *expected == (0..5) && *got == target),
            "{error:?} on {device}"
        );
    }
}

#[test]
fn an_invalid_target_is_told_whatever_it_is_said_to_be() {
    let words = |offender: u32| [0, 0, 1, 0, 1, offender, 5, 0];
    for offender in [0, 3, 5, IGNORE] {
        let totals = Tensor::from_slice([8], &words(offender), Device::Cpu).unwrap();
        assert!(Totals::read(&totals).is_err(), "{offender}");
    }
}

/// Notes where the gradient that arrives lies.
struct Spy(Rc<Cell<u64>>);

impl Backward for Spy {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let gradient = context.take_output(0).unwrap();
        self.0.set(gradient.view().ptr().0);
        Ok(())
    }
}

#[test]
fn the_gradient_takes_the_place_of_the_logits_on_every_device() {
    for (device, dtype) in cases() {
        let tape = Tape::new();
        let x = tape.leaf(tensor([1], &[0.0], dtype, device));
        let logits = tensor([64, 100], &values(4, [64, 100], 1.0, dtype), dtype, device);
        let (place, seen) = (logits.view().ptr().0, Rc::new(Cell::new(0)));
        let spy = Box::new(Spy(Rc::clone(&seen)));
        let [logits] = record("spy", &[Some(&x)], [logits], Some(spy)).unwrap();
        let targets = Tensor::from_slice([64], &targets(64, 100), device).unwrap();
        let result = cross_entropy(logits, &targets).unwrap();
        let mut gradients = Gradients::new();
        tape.backward(&result.loss, 1.0, &mut gradients).unwrap();
        assert_eq!(seen.get(), place, "{device}");
    }
}
