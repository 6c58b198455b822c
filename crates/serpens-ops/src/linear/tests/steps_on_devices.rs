//! Products of the few rows of decoding, on every device.

use serpens_core::{DType, Device, Tensor, Var};

use super::reference;
use crate::linear::{Norm, Weight, step};
use crate::quantized_linear::tests::reference::rounded;
use crate::quantized_linear::{Blocks, Packed};
use crate::rms_norm;
use crate::shared::tests::real::Real;
use crate::shared::tests::{assert_near, cases, f32s, read, tensor, values};

const EPS: f32 = 1e-5;

/// One problem; x lies at `margin` in rows that are `2 · margin` wider.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    margin: usize,
    /// Whether x is normalised, there is a bias, y is added to.
    norm: bool,
    bias: bool,
    accumulate: bool,
    /// None: f32, or the type of the activations.
    blocks: Option<Blocks>,
}

/// Rows for every kernel, one more than it takes and beyond; inputs and outputs that are multiples of nothing, fewer
/// than a block takes, and many.
fn problems(device: Device) -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, inputs, outputs, margin) in [
        (1, 768, 40, 0),
        (1, 1, 1, 0),
        (2, 129, 23, 3),
        (5, 320, 133, 8),
        (8, 64, 9, 1),
        (9, 1536, 80, 8),
        (16, 96, 300, 0),
        (40, 130, 70, 0),
        (24, 200, 76, 0),
        (64, 768, 200, 8),
        (72, 136, 2052, 0),
        (130, 264, 2052, 0),
        // More tiles of W than are in shared memory at a time: alone, and in a cluster.
        (9, 648, 16_388, 0),
        (65, 2056, 2052, 0),
        (24, 72, 0, 0),
    ] {
        for options in 0..4 {
            let case = Case {
                rows,
                inputs,
                outputs,
                margin,
                norm: options & 1 == 0,
                bias: options & 2 == 0,
                accumulate: options == 1 || options == 2,
                blocks: None,
            };
            all.push(case);
            if device != Device::Cpu && inputs.is_multiple_of(32) {
                let blocks = [Blocks::Q8_0, Blocks::Q4_0][options % 2];
                let blocks = Some(blocks);
                all.push(Case { blocks, ..case });
            }
        }
    }
    all
}

/// What a case is computed from; the weight as f32 holds what blocks hold.
struct Operands {
    x: Vec<f64>,
    norm: Vec<f64>,
    weight: Vec<f64>,
    packed: Option<Packed>,
    bias: Vec<f64>,
    before: Vec<f64>,
}

impl Case {
    /// The type of x: f32 before a norm.
    fn x_type(&self, dtype: DType) -> DType {
        if self.norm { DType::F32 } else { dtype }
    }

    /// The type of y: the residual stream, which is added to, is f32.
    fn y_type(&self, dtype: DType) -> DType {
        if self.accumulate { DType::F32 } else { dtype }
    }

    fn operands(&self, device: Device, dtype: DType) -> Operands {
        let shape = [self.outputs, self.inputs];
        let mut weight = values(2, shape, 1.0, dtype);
        let packed = self.blocks.map(|blocks| {
            let plain = tensor(shape, &weight, DType::F32, Device::Cpu);
            Packed::quantize(blocks, &plain, device).unwrap()
        });
        if let Some(packed) = &packed {
            weight = read(&packed.dequantize().unwrap());
        }
        Operands {
            x: values(1, [self.rows, self.inputs], 2.0, self.x_type(dtype)),
            norm: values(5, [self.inputs], 1.0, DType::F32),
            weight,
            packed,
            bias: values(3, [self.outputs], 1.0, DType::F32),
            before: values(4, [self.rows, self.outputs], 1.0, self.y_type(dtype)),
        }
    }

    fn run(&self, operands: &Operands, device: Device, dtype: DType) -> Vec<f64> {
        let (wide, margin) = (self.inputs + 2 * self.margin, self.margin);
        let around = |i: usize| match (i % wide).checked_sub(margin) {
            Some(k) if k < self.inputs => operands.x[i / wide * self.inputs + k],
            _ => 100.0,
        };
        let around: Vec<f64> = (0..self.rows * wide).map(around).collect();
        let x = Var::from(tensor(
            [self.rows, wide],
            &around,
            self.x_type(dtype),
            device,
        ));
        let x = x.columns(margin..margin + self.inputs).unwrap();
        let norm = tensor([self.inputs], &operands.norm, DType::F32, device);
        let weight = tensor([self.outputs, self.inputs], &operands.weight, dtype, device);
        let bias = tensor([self.outputs], &operands.bias, DType::F32, device);
        let mut y = match self.accumulate {
            true => tensor(
                [self.rows, self.outputs],
                &operands.before,
                DType::F32,
                device,
            ),
            false => Tensor::full([self.rows, self.outputs], f32::NAN, device).unwrap(),
        };
        if self.y_type(dtype) == DType::BF16 {
            y = tensor(
                [self.rows, self.outputs],
                &vec![f64::NAN; y.len()],
                DType::BF16,
                device,
            );
        }
        let norm = self.norm.then(|| Norm {
            weight: norm.view(),
            eps: EPS,
        });
        let weight = match &operands.packed {
            Some(packed) => Weight::Packed(packed),
            None => Weight::Plain(weight.view()),
        };
        let bias = self.bias.then(|| bias.view());
        step(
            x.view(),
            norm,
            weight,
            bias,
            y.view_mut().unwrap(),
            self.accumulate,
        )
        .unwrap();
        read(&y)
    }

    fn reference<R: Real>(&self, operands: &Operands) -> Vec<R> {
        let cast = |values: &[f64]| values.iter().map(|&v| R::from_f64(v)).collect::<Vec<R>>();
        let (mut x, weight) = (cast(&operands.x), cast(&operands.weight));
        if self.blocks.is_some() {
            x = cast(&self.integers(operands));
        } else if self.norm {
            let norm = cast(&operands.norm);
            x = rms_norm::tests::reference::forward(&x, None, &norm, R::from(EPS)).1;
        }
        let bias = self.bias.then(|| cast(&operands.bias));
        let mut y = reference::forward(
            &x,
            &weight,
            bias.as_deref(),
            self.inputs,
            self.outputs,
            self.rows,
        );
        if self.accumulate {
            y.iter_mut()
                .zip(cast(&operands.before))
                .for_each(|(y, before)| *y += before);
        }
        y
    }
}

impl Case {
    /// norm(x), of which x ⊙ w, or else x, became integers with scales.
    fn integers(&self, operands: &Operands) -> Vec<f64> {
        let of_row = |x: &[f64]| {
            let weighted = x.iter().zip(&operands.norm).map(|(x, w)| match self.norm {
                true => *x as f32 * *w as f32,
                false => *x as f32,
            });
            let squares: f64 = x.iter().map(|x| x * x).sum();
            let size = match self.norm {
                true => (squares / self.inputs as f64 + f64::from(EPS)).sqrt(),
                false => 1.0,
            };
            let rounded = rounded(&weighted.collect::<Vec<f32>>());
            rounded.into_iter().map(move |x| x / size)
        };
        operands.x.chunks(self.inputs).flat_map(of_row).collect()
    }
}

/// Every case, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for case in problems(device) {
        case.run(&case.operands(device, dtype), device, dtype);
    }
}

#[test]
fn steps_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems(device) {
            let operands = case.operands(device, dtype);
            let got = case.run(&operands, device, dtype);
            let truth = case.reference::<f64>(&operands);
            let plain = case.reference::<f32>(&operands);
            // The tensor cores take operands of bf16: what is rounded to it is a value of x, or y where x is given. Of
            // blocks a value of x between two integers may become either.
            let rounds = device != Device::Cpu && (dtype == DType::BF16 || case.blocks.is_some());
            let dtype = if rounds {
                DType::BF16
            } else {
                case.y_type(dtype)
            };
            assert_near(
                &format!("{case:?} on {device}"),
                &got,
                &truth,
                &plain,
                dtype,
            );
        }
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_is_beside_it_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems(device).into_iter().filter(|case| case.rows > 1) {
            let mut operands = case.operands(device, dtype);
            let whole = case.run(&operands, device, dtype);
            operands.x[..case.inputs].fill(f64::NAN);
            operands.x[2 * case.inputs..].fill(1e30);
            let beside = case.run(&operands, device, dtype);
            let row = case.outputs..2 * case.outputs;
            assert_eq!(whole[row.clone()], beside[row], "{case:?} on {device}");
        }
    }
}

#[test]
fn blocks_come_back_bit_for_bit_from_every_device() {
    for device in Device::available() {
        for blocks in [Blocks::Q8_0, Blocks::Q4_0] {
            let plain = tensor(
                [5, 96],
                &values(7, [5, 96], 1.0, DType::F32),
                DType::F32,
                Device::Cpu,
            );
            let there = Packed::quantize(blocks, &plain, device).unwrap();
            let here = Packed::quantize(blocks, &plain, Device::Cpu).unwrap();
            assert_eq!(
                there.unpack().unwrap(),
                here.unpack().unwrap(),
                "{blocks} on {device}"
            );
            let f32s = |packed: &Packed| f32s(&read(&packed.dequantize().unwrap()));
            assert_eq!(f32s(&there), f32s(&here), "{blocks} on {device}");
        }
    }
}
