//! The causal long convolution: by definition, in one block, and in columns and rows.

use serpens_core::{DType, Device, Gradients, Tape, Tensor};

use super::reference;
use crate::long_conv::{LongConvDims, long_conv};
use crate::shared::tests::real::{Real, zero};
use crate::shared::tests::{assert_near, cases, read, tensor, values};

const fn dims(batch: usize, length: usize, channels: usize) -> LongConvDims {
    LongConvDims {
        batch,
        length,
        channels,
    }
}

/// Lengths around every change of method and of size, channels and batches that are multiples of nothing.
const SHAPES: [LongConvDims; 16] = [
    dims(1, 1, 1),
    dims(3, 7, 37),
    dims(5, 33, 5),
    dims(2, 64, 65),
    dims(3, 65, 37),
    dims(1, 128, 3),
    dims(9, 129, 33),
    dims(2, 255, 7),
    dims(3, 300, 20),
    dims(2, 513, 9),
    dims(1, 1024, 11),
    dims(3, 1025, 5),
    dims(2, 2048, 6),
    dims(3, 2049, 3),
    dims(2, 4097, 2),
    dims(2, 8193, 1),
];

/// Lengths whose columns are long.
const LONG: [LongConvDims; 3] = [
    dims(1, 40_000, 33),
    dims(1, 300_000, 2),
    dims(1, 600_001, 1),
];

fn numbers<R: Real>(values: &[f64]) -> Vec<R> {
    values.iter().map(|&value| R::from(value as f32)).collect()
}

struct Case {
    dims: LongConvDims,
    dtype: DType,
    u: Vec<f64>,
    k: Vec<f64>,
    dy: Vec<f64>,
}

impl Case {
    fn new(dims: LongConvDims, dtype: DType) -> Self {
        let batched = [dims.batch, dims.length, dims.channels];
        Self {
            dims,
            dtype,
            u: values(1, batched, 1.0, dtype),
            k: values(2, [dims.length, dims.channels], 1.0, DType::F32),
            dy: values(3, batched, 1.0, dtype),
        }
    }

    /// y, du and dk.
    fn run(&self, device: Device) -> [Vec<f64>; 3] {
        let LongConvDims {
            batch,
            length,
            channels,
        } = self.dims;
        let tape = Tape::new();
        let batched = [batch, length, channels];
        let u = tape.leaf(tensor(batched, &self.u, self.dtype, device));
        let k = tape.leaf(tensor([length, channels], &self.k, DType::F32, device));
        let y = long_conv(&u, &k).unwrap();
        let dy = tensor(batched, &self.dy, self.dtype, device);
        tape.backward_from(vec![(&y, dy)], &mut Gradients::new())
            .unwrap();
        let [du, dk] = [&u, &k].map(|leaf| tape.gradient(leaf).unwrap().unwrap());
        assert_eq!((du.dtype(), dk.dtype()), (self.dtype, DType::F32));
        [read(y.tensor().unwrap()), read(&du), read(&dk)]
    }

    fn reference<R: Real>(&self) -> [Vec<R>; 3] {
        let [u, k, dy] = [&self.u, &self.k, &self.dy].map(|values| numbers::<R>(values));
        let (du, dk) = reference::backward(&u, &k, &dy, self.dims);
        [reference::forward(&u, &k, self.dims), du, dk]
    }

    /// y, du and dk of the first item and channel at some steps, of a batch of one.
    fn reference_at<R: Real>(&self, steps: &[usize]) -> [Vec<R>; 3] {
        let channels = self.dims.channels;
        let [u, k, dy] = [&self.u, &self.k, &self.dy].map(|values| {
            numbers::<R>(&values.iter().copied().step_by(channels).collect::<Vec<_>>())
        });
        let dot = |a: &mut dyn Iterator<Item = &R>, b: &[R]| {
            a.zip(b).fold(zero::<R>(), |sum, (a, b)| sum + *a * *b)
        };
        let at = |f: &dyn Fn(usize) -> R| steps.iter().map(|&step| f(step)).collect();
        [
            at(&|t| dot(&mut k[..=t].iter().rev(), &u)),
            at(&|s| dot(&mut k.iter(), &dy[s..])),
            at(&|s| dot(&mut u.iter(), &dy[s..])),
        ]
    }

    fn assert_near(
        &self,
        device: Device,
        got: &[Vec<f64>; 3],
        truth: &[Vec<f64>; 3],
        plain: &[Vec<f32>; 3],
    ) {
        let dtypes = [self.dtype, self.dtype, DType::F32];
        for (i, name) in ["y", "du", "dk"].into_iter().enumerate() {
            let what = format!("{name} of {:?} on {device} in {}", self.dims, self.dtype);
            assert_near(&what, &got[i], &truth[i], &plain[i], dtypes[i]);
        }
    }
}

/// All sizes, forward and back, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    run_shapes(&SHAPES, device, dtype);
    run_shapes(&LONG, device, dtype);
}

/// The short ones of them.
pub(crate) fn run_small(device: Device, dtype: DType) {
    run_shapes(&SHAPES, device, dtype);
}

fn run_shapes(shapes: &[LongConvDims], device: Device, dtype: DType) {
    let zeros = |shape, dtype| Tensor::zeros(shape, dtype, device).unwrap();
    for &dims in shapes {
        let LongConvDims {
            batch,
            length,
            channels,
        } = dims;
        let tape = Tape::new();
        let u = tape.leaf(zeros([batch, length, channels].into(), dtype));
        let k = tape.leaf(zeros([length, channels].into(), DType::F32));
        let y = long_conv(&u, &k).unwrap();
        let dy = zeros(y.shape(), dtype);
        tape.backward_from(vec![(&y, dy)], &mut Gradients::new())
            .unwrap();
    }
}

#[test]
fn outputs_and_gradients_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for dims in SHAPES {
            let case = Case::new(dims, dtype);
            let got = case.run(device);
            case.assert_near(device, &got, &case.reference(), &case.reference());
        }
    }
}

#[test]
fn long_sequences_agree_with_the_definition_wherever_one_looks() {
    for (device, dtype) in cases() {
        for dims in LONG {
            let case = Case::new(dims, dtype);
            let (length, channels) = (dims.length, dims.channels);
            let steps: Vec<usize> = (0..50).map(|i| i * (length - 1) / 49).collect();
            let got = case
                .run(device)
                .map(|values| steps.iter().map(|&step| values[step * channels]).collect());
            case.assert_near(
                device,
                &got,
                &case.reference_at(&steps),
                &case.reference_at(&steps),
            );
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        for dims in SHAPES {
            let case = Case::new(dims, dtype);
            assert_eq!(case.run(device), case.run(device), "{dims:?} on {device}");
        }
    }
}

#[test]
fn columns_of_a_wider_tensor_are_convolved_where_they_lie() {
    for (device, dtype) in cases() {
        if device == Device::Cpu {
            continue; // takes contiguous operands
        }
        for (length, channels) in [(40, 13), (300, 13), (2100, 13)] {
            let case = Case::new(dims(2, length, channels), dtype);
            let wide = channels + 3;
            let row = |row: &[f64]| [&[50.0, 50.0], row, &[50.0]].concat();
            let around: Vec<f64> = case.u.chunks(channels).flat_map(row).collect();
            let tape = Tape::new();
            let u = tape.leaf(tensor([2, length, wide], &around, dtype, device));
            let k = tape.leaf(tensor([length, channels], &case.k, DType::F32, device));
            let y = long_conv(&u.columns(2..2 + channels).unwrap(), &k).unwrap();
            let dy = tensor([2, length, channels], &case.dy, dtype, device);
            tape.backward_from(vec![(&y, dy)], &mut Gradients::new())
                .unwrap();
            let du = read(&tape.gradient(&u).unwrap().unwrap());
            let inner = du.chunks(wide).flat_map(|row| {
                assert_eq!([row[0], row[1], row[wide - 1]], [0.0; 3]);
                row[2..wide - 1].to_vec()
            });
            let dk = read(&tape.gradient(&k).unwrap().unwrap());
            let got = [read(y.tensor().unwrap()), inner.collect(), dk];
            assert_eq!(got, case.run(device), "{length} steps on {device}");
        }
    }
}
