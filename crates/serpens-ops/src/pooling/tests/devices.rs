//! Sequences of less than a part and of many, alone and packed, in rows of every alignment.

use serpens_core::cuda::Graph;
use serpens_core::{DType, Device, Error, Gradients, Tape, Tensor, Var};

use super::{KINDS, packed, reference, unpacked};
use crate::pooling::{Pooling, PoolingOptions, pooling};
use crate::shared::tests::real::Real;
use crate::shared::tests::{assert_near, cases, read, tensor, values};

/// One problem; x and the scores lie at `margin` in rows that are `2 · margin` wider.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Pooling,
    batch: usize,
    length: usize,
    width: usize,
    margin: usize,
    /// Rows of a packed sequence at most; none are packed where it is 0.
    every: usize,
    /// What the scores, between −1 and 1, are multiplied by.
    size: f32,
    /// The types of x and of the scores.
    types: [DType; 2],
}

/// Sequences of a row, of a part, of several, of more than are summed at a time; scores of either type.
fn problems(dtype: DType) -> Vec<Case> {
    let sizes = [
        (3, 70, 64, 4, 0, 3.0),
        (2, 300, 7, 0, 0, 10.0),
        (1, 5000, 20, 2, 0, 3.0),
        (4, 1, 1025, 1, 0, 3.0),
        (2, 1000, 12, 0, 37, 1000.0),
        (3, 500, 260, 8, 13, 3.0),
        (1, 700, 5, 0, 301, 3.0),
    ];
    let scores = match dtype {
        DType::BF16 => &[DType::BF16, DType::F32][..],
        _ => &[DType::F32],
    };
    let mut all = Vec::new();
    for (batch, length, width, margin, every, size) in sizes {
        for kind in KINDS {
            let types = if kind == Pooling::Attention {
                scores
            } else {
                &scores[..1]
            };
            all.extend(types.iter().map(|&scores| Case {
                kind,
                batch,
                length,
                width,
                margin,
                every,
                size,
                types: [dtype, scores],
            }));
        }
    }
    all
}

impl Case {
    fn bounds(&self) -> Vec<usize> {
        let shape = [self.batch, self.length];
        match self.every {
            0 => unpacked(shape),
            every => packed(shape, |row| row.is_multiple_of(every)).1,
        }
    }

    /// x, the scores and the gradient of y.
    fn operands(&self) -> [Vec<f64>; 3] {
        let (rows, sequences) = ([self.batch, self.length], self.bounds().len() - 1);
        [
            values(1, [rows[0], rows[1], self.width], 2.0, self.types[0]),
            values(2, rows, self.size, self.types[1]),
            values(3, [sequences, self.width], 1.0, DType::F32),
        ]
    }

    /// These rows inside wider ones.
    fn around(&self, values: &[f64], dtype: DType, device: Device) -> Tensor {
        let width = values.len() / (self.batch * self.length);
        let beside = vec![100.0; self.margin];
        let rows = values.chunks_exact(width);
        let around = rows.flat_map(|row| [&beside, row, &beside].concat());
        let shape = [self.batch, self.length, width + 2 * self.margin];
        tensor(shape, &around.collect::<Vec<_>>(), dtype, device)
    }

    fn inside(&self, around: &Var) -> Var {
        let width = around.shape().cols();
        around.columns(self.margin..width - self.margin).unwrap()
    }

    fn pool(&self, x: &Var, scores: &Var) -> Result<Var, Error> {
        let packed = packed([self.batch, self.length], |row| {
            row.is_multiple_of(self.every)
        });
        let options = PoolingOptions {
            kind: self.kind,
            starts: (self.every > 0).then_some(&packed.0),
        };
        let scores = (self.kind == Pooling::Attention).then_some(scores);
        pooling(x, scores, &options)
    }

    /// y, and the gradients of x and, of attention, of the scores.
    fn run(&self, device: Device) -> [Vec<f64>; 3] {
        let [x, scores, dy] = self.operands();
        let tape = Tape::new();
        let x = tape.leaf(self.around(&x, self.types[0], device));
        let scores = tape.leaf(self.around(&scores, self.types[1], device));
        let y = self.pool(&self.inside(&x), &self.inside(&scores)).unwrap();
        let dy = tensor(y.shape(), &dy, DType::F32, device);
        let seeds = vec![(&y, dy)];
        tape.backward_from(seeds, &mut Gradients::new()).unwrap();
        let gradient = |around: &Var| {
            let gradient = tape.gradient(around).unwrap();
            let width = around.shape().cols();
            let inside = |row: &[f64]| row[self.margin..width - self.margin].to_vec();
            gradient.map_or(vec![], |gradient| {
                assert_eq!(gradient.dtype(), around.dtype());
                let rows = read(&gradient);
                rows.chunks_exact(width).flat_map(inside).collect()
            })
        };
        [read(y.tensor().unwrap()), gradient(&x), gradient(&scores)]
    }

    fn reference<R: Real>(&self) -> [Vec<R>; 3] {
        let exact = |values: Vec<f64>| values.iter().map(|&v| R::from(v as f32)).collect();
        let [x, scores, dy]: [Vec<R>; 3] = self.operands().map(exact);
        let bounds = self.bounds();
        let shares = reference::shares(self.kind, &scores, &bounds);
        let y = reference::forward(&x, &shares, &bounds, self.width);
        let [dx, dscores] = reference::backward(&dy, &x, &shares, &bounds, self.width);
        let attention = self.kind == Pooling::Attention;
        [y, dx, if attention { dscores } else { vec![] }]
    }
}

/// Every case, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for case in problems(dtype) {
        case.run(device);
    }
}

#[test]
fn values_and_gradients_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems(dtype) {
            let (got, truth, plain) = (
                case.run(device),
                case.reference::<f64>(),
                case.reference::<f32>(),
            );
            let types = [DType::F32, case.types[0], case.types[1]];
            for (i, name) in ["y", "dx", "dscores"].iter().enumerate() {
                let what = format!("{name} of {case:?} on {device}");
                assert_near(&what, &got[i], &truth[i], &plain[i], types[i]);
            }
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems(dtype) {
            assert_eq!(case.run(device), case.run(device), "{case:?} on {device}");
        }
    }
}

#[test]
fn a_score_of_minus_infinity_leaves_its_row_out_on_every_device() {
    let (length, width, none) = (300, 2, f64::NEG_INFINITY);
    for (device, dtype) in cases() {
        let pool = |x: &[f64], scores: &[f64]| {
            let batch = scores.len() / length;
            let tape = Tape::new();
            let x = tape.leaf(tensor([batch, length, width], x, dtype, device));
            let scores = tape.leaf(tensor([batch, length, 1], scores, dtype, device));
            let options = PoolingOptions {
                kind: Pooling::Attention,
                starts: None,
            };
            let y = pooling(&x, Some(&scores), &options).unwrap();
            let dy = Tensor::full(y.shape(), 1.0_f32, device).unwrap();
            let seeds = vec![(&y, dy)];
            tape.backward_from(seeds, &mut Gradients::new()).unwrap();
            let gradients = [&x, &scores].map(|v| read(&tape.gradient(v).unwrap().unwrap()));
            (read(y.tensor().unwrap()), gradients)
        };
        let x = values(1, [2, length, width], 2.0, dtype);
        // Of the first sequence one row is left, behind a part without any; the second has only others.
        let mut scores = vec![none; 2 * length];
        scores[200] = 5.0;
        let (y, [dx, dscores]) = pool(&x, &scores);
        assert_eq!(y[..width], x[200 * width..201 * width], "{device}");
        assert!(y[width..].iter().all(|y| y.is_nan()), "{y:?} on {device}");
        let shares = (0..length).map(|row| f64::from(u8::from(row == 200)));
        let shares: Vec<f64> = shares.flat_map(|share| [share; 2]).collect();
        assert_eq!(dx[..length * width], shares, "{device}");
        assert!(dscores[..length].iter().all(|&slope| slope == 0.0));
        scores[length..].fill(1.0);
        for wrong in [f64::NAN, f64::INFINITY] {
            scores[7] = wrong;
            let (y, _) = pool(&x, &scores);
            assert!(y[..width].iter().all(|y| y.is_nan()), "{y:?} on {device}");
            assert!(
                y[width..].iter().all(|y| y.is_finite()),
                "{y:?} on {device}"
            );
        }
    }
}

#[test]
fn a_graph_records_sequences_that_are_not_packed_with_their_gradients() {
    for (device, dtype) in cases() {
        if device == Device::Cpu {
            continue; // records no graphs
        }
        for case in problems(dtype).into_iter().filter(|case| case.every == 0) {
            let [y, ..] = case.run(device);
            let [x, scores, dy] = case.operands();
            let x = case.around(&x, case.types[0], device);
            let scores = case.around(&scores, case.types[1], device);
            let dy = tensor([case.batch, case.width], &dy, DType::F32, device);
            let mut recorded = None;
            let graph = Graph::capture(device, || {
                let tape = Tape::new();
                let [x, scores] = [&x, &scores].map(|values| tape.leaf(values.clone()));
                let y = case.pool(&case.inside(&x), &case.inside(&scores))?;
                tape.backward_from(vec![(&y, dy.clone())], &mut Gradients::new())?;
                recorded = Some(y.into_tensor()?);
                Ok::<_, Error>(())
            });
            graph.unwrap().replay().unwrap();
            assert_eq!(read(&recorded.unwrap()), y, "{case:?}");
        }
    }
}
