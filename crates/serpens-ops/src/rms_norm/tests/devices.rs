//! Normalisation of a sum, with the residual stream in f32 and activations in either type.

use serpens_core::{DType, Device, Gradients, ParamId, Tape, Var};

use super::reference;
use crate::rms_norm::rms_norm;
use crate::shared::tests::real::Real;
use crate::shared::tests::{assert_near, cases, f32s, read, tensor, values};

const EPS: f32 = 1e-5;

/// One problem; x lies at `margin` in rows that are `2 · margin` wider.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    cols: usize,
    margin: usize,
    residual: bool,
    /// Whether the sum is used besides its normalisation.
    stream: bool,
    /// What x and the residual are multiplied by.
    size: f32,
    x: DType,
    y: DType,
}

/// Rows of every alignment, in one warp, in several, and too long for a block, with x and y of the types that a model
/// gives them where its activations are `dtype`.
fn problems(dtype: DType) -> Vec<Case> {
    let sizes = [
        (1, 20, 0),
        (67, 61, 1),
        (300, 64, 4),
        (19, 766, 2),
        (700, 768, 0),
        (5, 2600, 8),
        (3, 8300, 1),
    ];
    let mut all = Vec::new();
    for (rows, cols, margin) in sizes {
        let case = Case {
            rows,
            cols,
            margin,
            residual: true,
            stream: true,
            size: 1.0,
            x: dtype,
            y: dtype,
        };
        all.push(case);
        all.push(Case {
            stream: false,
            ..case
        });
        // Squares beyond those that f32 holds; below, eps is what is left of them.
        for size in [1e-22, 1e7, 2e12, 1e19, 1e30, 8e37] {
            all.push(Case {
                stream: false,
                size,
                ..case
            });
        }
        all.push(Case {
            residual: false,
            stream: false,
            ..case
        });
        all.push(Case {
            residual: false,
            stream: false,
            x: DType::F32,
            ..case
        });
        if dtype == DType::BF16 {
            let wider = Case {
                y: DType::F32,
                ..case
            };
            all.push(wider);
            all.push(Case {
                residual: false,
                stream: false,
                ..wider
            });
        }
    }
    all
}

/// y, h and the gradients of x, residual and weight.
type Outcome = [Vec<f64>; 5];

impl Case {
    /// x, residual, weight and the gradients of y and h.
    fn operands(&self) -> [Vec<f64>; 5] {
        let shape = [self.rows, self.cols];
        [
            values(1, shape, 2.0 * self.size, self.x),
            values(2, shape, 2.0 * self.size, DType::F32),
            values(3, [self.cols], 1.0, DType::F32),
            values(4, shape, 1.0, self.y),
            values(5, shape, 1.0, DType::F32),
        ]
    }

    /// The types of an [`Outcome`].
    fn types(&self) -> [DType; 5] {
        let h = if self.residual { DType::F32 } else { self.x };
        [self.y, h, self.x, DType::F32, DType::F32]
    }

    fn run(&self, device: Device) -> Outcome {
        let [x, residual, weight, dy, dh] = self.operands();
        let shape = [self.rows, self.cols];
        let tape = Tape::new();
        let wide = self.cols + 2 * self.margin;
        let around: Vec<f64> = (0..self.rows * wide)
            .map(|i| match (i % wide).checked_sub(self.margin) {
                Some(c) if c < self.cols => x[i / wide * self.cols + c],
                _ => 100.0,
            })
            .collect();
        let wide_x = tape.leaf(tensor([self.rows, wide], &around, self.x, device));
        let x = wide_x.columns(self.margin..self.margin + self.cols);
        let residual = tape.leaf(tensor(shape, &residual, DType::F32, device));
        let id = ParamId::fresh();
        let weight = Var::param(id, tensor([self.cols], &weight, DType::F32, device));
        let given = self.residual.then_some(&residual);
        let output = rms_norm(&x.unwrap(), given, &weight, EPS, self.y).unwrap();
        let mut seeds = vec![(&output.y, tensor(shape, &dy, self.y, device))];
        if self.stream {
            seeds.push((&output.h, tensor(shape, &dh, DType::F32, device)));
        }
        let mut gradients = Gradients::new();
        tape.backward_from(seeds, &mut gradients).unwrap();
        let inner = |wide_rows: Vec<f64>| -> Vec<f64> {
            let rows = wide_rows.chunks_exact(wide);
            rows.flat_map(|row| row[self.margin..self.margin + self.cols].to_vec())
                .collect()
        };
        let dx = tape.gradient(&wide_x).unwrap().unwrap();
        let dresidual = tape.gradient(&residual).unwrap();
        let dweight = gradients.get(id).unwrap().unwrap();
        assert_eq!((dx.dtype(), dweight.dtype()), (self.x, DType::F32));
        let h = match self.residual {
            true => read(output.h.tensor().unwrap()),
            false => vec![], // x itself
        };
        [
            read(output.y.tensor().unwrap()),
            h,
            inner(read(&dx)),
            dresidual.map_or(vec![], |tensor| read(&tensor)),
            read(&dweight),
        ]
    }

    fn reference<R: Real>(&self) -> [Vec<R>; 5] {
        let [x, residual, weight, dy, dh] = self
            .operands()
            .map(|v| v.iter().map(|&v| R::from(v as f32)).collect::<Vec<R>>());
        let residual = self.residual.then_some(&residual[..]);
        let (h, y, r) = reference::forward(&x, residual, &weight, R::from(EPS));
        let dh = self.stream.then_some(&dh[..]);
        let (dh, dw) = reference::backward(&dy, dh, &h, &weight, &r);
        let given = |values: Vec<R>| if self.residual { values } else { vec![] };
        [y, given(h), dh.clone(), given(dh), dw]
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
    let names = ["y", "h", "dx", "the residual's gradient", "dw"];
    for (device, dtype) in cases() {
        for case in problems(dtype) {
            let (got, types) = (case.run(device), case.types());
            let truth = case.reference::<f64>();
            // What plain f32 cannot compute is held to one rounding.
            let plain = match case.size == 1.0 {
                true => case.reference::<f32>(),
                false => truth.each_ref().map(|truth| f32s(truth)),
            };
            for (i, name) in names.iter().enumerate() {
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
