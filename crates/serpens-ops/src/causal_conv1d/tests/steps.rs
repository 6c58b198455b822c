//! One position of many slots, on every device.

use serpens_core::{DType, Device, Var};

use super::reference;
use crate::causal_conv1d::{StepConv, step, step_of_product};
use crate::linear::{self, Norm, Weight};
use crate::shared::tests::real::Real;
use crate::shared::tests::{assert_near, cases, read, tensor, values};

/// One problem; x lies at `margin` in rows that are `2 · margin` wider.
#[derive(Clone, Copy, Debug)]
struct Case {
    slots: usize,
    channels: usize,
    width: usize,
    margin: usize,
    /// Whether there are a bias and silu.
    whole: bool,
}

/// Pairs of channels and single ones, more than a block has; filters of any width.
fn problems() -> Vec<Case> {
    let sizes = [
        (1, 1536, 4, 8),
        (5, 33, 4, 3),
        (130, 70, 2, 2),
        (3, 9, 1, 0),
        (2, 300, 7, 2),
        (2, 11, 20, 1),
    ];
    let case = |(slots, channels, width, margin)| Case {
        slots,
        channels,
        width,
        margin,
        whole: width != 2,
    };
    sizes.map(case).to_vec()
}

impl Case {
    /// x, weight, bias and state.
    fn operands(&self, dtype: DType) -> [Vec<f64>; 4] {
        let history = (self.width - 1) * self.channels;
        [
            values(1, [self.slots, self.channels], 2.0, dtype),
            values(2, [self.channels, self.width], 1.0, DType::F32),
            values(3, [self.channels], 1.0, DType::F32),
            values(4, [self.slots, history], 2.0, DType::F32),
        ]
    }

    /// y and the state behind it.
    fn run(
        &self,
        [x, weight, bias, state]: &[Vec<f64>; 4],
        device: Device,
        dtype: DType,
    ) -> [Vec<f64>; 2] {
        let (wide, margin) = (self.channels + 2 * self.margin, self.margin);
        let around = |i: usize| match (i % wide).checked_sub(margin) {
            Some(e) if e < self.channels => x[i / wide * self.channels + e],
            _ => 100.0,
        };
        let around: Vec<f64> = (0..self.slots * wide).map(around).collect();
        let x = Var::from(tensor([self.slots, wide], &around, dtype, device));
        let x = x.columns(margin..margin + self.channels).unwrap();
        let weight = tensor([self.channels, self.width], weight, DType::F32, device);
        let bias = tensor([self.channels], bias, DType::F32, device);
        let bias = self.whole.then(|| bias.view());
        let history = (self.width - 1) * self.channels;
        let mut state = tensor([self.slots, history], state, DType::F32, device);
        let blank = vec![f64::NAN; self.slots * self.channels];
        let mut y = tensor([self.slots, self.channels], &blank, dtype, device);
        let (to, out) = (state.view_mut().unwrap(), y.view_mut().unwrap());
        step(x.view(), weight.view(), bias, self.whole, to, out).unwrap();
        [read(&y), read(&state)]
    }

    fn reference<R: Real>(&self, operands: &[Vec<f64>; 4]) -> [Vec<R>; 2] {
        let [x, weight, bias, state] = operands
            .each_ref()
            .map(|values| values.iter().map(|&v| R::from_f64(v)).collect::<Vec<R>>());
        let conv = reference::Conv {
            batch: self.slots,
            length: 1,
            channels: self.channels,
            width: self.width,
            weight: &weight,
            bias: self.whole.then_some(&bias[..]),
            initial_state: Some(&state),
            starts: None,
            reverse: false,
            silu: self.whole,
        };
        let (y, state) = reference::forward(&conv, &x);
        [y, state]
    }
}

/// Every case, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for case in problems() {
        case.run(&case.operands(dtype), device, dtype);
    }
    for (slots, channels) in PRODUCTS {
        run_product(slots, channels, device, dtype, true);
    }
}

#[test]
fn steps_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems() {
            let operands = case.operands(dtype);
            let got = case.run(&operands, device, dtype);
            let (truth, plain) = (
                case.reference::<f64>(&operands),
                case.reference::<f32>(&operands),
            );
            let what = format!("{case:?} on {device}");
            assert_near(&what, &got[0], &truth[0], &plain[0], dtype);
            assert_eq!(got[1], truth[1], "the state of {what}");
        }
    }
}

#[test]
fn a_slot_has_the_same_bits_whatever_is_beside_it_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems().into_iter().filter(|case| case.slots > 1) {
            let operands = case.operands(dtype);
            let whole = case.run(&operands, device, dtype);
            let mut beside = operands.clone();
            let others = |values: &mut Vec<f64>| {
                let row = values.len() / case.slots;
                values[..row].fill(f64::NAN);
                values[2 * row..].fill(f64::NAN);
            };
            others(&mut beside[0]);
            others(&mut beside[3]);
            let alone = case.run(&beside, device, dtype);
            for (whole, alone) in whole.iter().zip(&alone) {
                let row = whole.len() / case.slots;
                assert_eq!(
                    whole[row..2 * row],
                    alone[row..2 * row],
                    "{case:?} on {device}"
                );
            }
        }
    }
}

/// Slots and channels: of the kernels of few rows and of tens of them, of the library where channels do not go by
/// fours.
const PRODUCTS: [(usize, usize); 6] = [(1, 40), (5, 40), (16, 40), (40, 40), (40, 42), (130, 1028)];

/// A product whose first columns are convolved: in one operation, or in two. xz behind the first columns, u and the
/// state.
fn run_product(
    slots: usize,
    channels: usize,
    device: Device,
    dtype: DType,
    whole: bool,
) -> [Vec<f64>; 3] {
    let (inputs, width) = (72, 4);
    let f32s = |seed, shape: [usize; 2]| {
        let values = values(seed, shape, 1.0, DType::F32);
        tensor(shape, &values, DType::F32, device)
    };
    let (h, norm) = (f32s(1, [slots, inputs]), f32s(2, [1, inputs]));
    let w = values(3, [2 * channels, inputs], 1.0, dtype);
    let w = tensor([2 * channels, inputs], &w, dtype, device);
    let (weight, bias) = (f32s(4, [channels, width]), f32s(5, [1, channels]));
    let mut state = f32s(6, [slots, (width - 1) * channels]);
    let blank = |columns| {
        tensor(
            [slots, columns],
            &vec![f64::NAN; slots * columns],
            dtype,
            device,
        )
    };
    let (mut xz, mut u) = (blank(2 * channels), blank(channels));
    let norm = Some(Norm {
        weight: norm.view(),
        eps: 1e-5,
    });
    let (w, bias) = (Weight::Plain(w.view()), Some(bias.view()));
    let (to, out) = (state.view_mut().unwrap(), u.view_mut().unwrap());
    if whole {
        let conv = StepConv {
            weight: weight.view(),
            bias,
            silu: true,
            state: to,
        };
        step_of_product(h.view(), norm, w, None, xz.view_mut().unwrap(), conv, out).unwrap();
    } else {
        linear::step(h.view(), norm, w, None, xz.view_mut().unwrap(), false).unwrap();
        let x = xz.view().columns(0..channels);
        step(x, weight.view(), bias, true, to, out).unwrap();
    }
    let rows = read(&xz);
    let z = rows.chunks(2 * channels).flat_map(|row| &row[channels..]);
    [z.copied().collect(), read(&u), read(&state)]
}

#[test]
fn the_step_of_a_product_is_that_of_two_operations_to_the_bit_on_every_device() {
    for (device, dtype) in cases() {
        for (slots, channels) in PRODUCTS {
            let [whole, parts] =
                [true, false].map(|whole| run_product(slots, channels, device, dtype, whole));
            let what = format!("{slots} slots of {channels} channels on {device} in {dtype}");
            assert_eq!(whole, parts, "{what}");
        }
    }
}
