//! Heads of rows of every alignment, of few rows and of more than are summed at a time.

use serpens_core::{DType, Device, Gradients, ParamId, Tape, Var};

use super::reference;
use crate::offset_scale::offset_scale;
use crate::shared::tests::real::Real;
use crate::shared::tests::{assert_near, cases, read, tensor, values};

/// One problem; x lies at `margin` in rows that are `2 · margin` wider.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    cols: usize,
    heads: usize,
    margin: usize,
}

/// Rows that share a block, fill it and need several; columns of all alignments; as many rows as blocks share them.
fn problems() -> Vec<Case> {
    let sizes = [
        (1, 20, 1, 0),
        (67, 61, 3, 1),
        (300, 64, 2, 4),
        (19, 766, 2, 2),
        (700, 128, 4, 8),
        (5, 1500, 1, 0),
        (3, 301, 7, 3),
        (9001, 4, 2, 0),
        (2000, 1, 5, 0),
    ];
    let case = |(rows, cols, heads, margin)| Case {
        rows,
        cols,
        heads,
        margin,
    };
    sizes.map(case).to_vec()
}

impl Case {
    fn width(&self) -> usize {
        self.heads * self.cols
    }

    /// x, scale, offset and the gradient of y, with activations in `dtype`.
    fn operands(&self, dtype: DType) -> [Vec<f64>; 4] {
        let width = self.width();
        [
            values(1, [self.rows, self.cols], 2.0, dtype),
            values(2, [width], 1.0, DType::F32),
            values(3, [width], 1.0, DType::F32),
            values(4, [self.rows, width], 1.0, dtype),
        ]
    }

    /// y, and the gradients of x, scale and offset.
    fn run(&self, device: Device, dtype: DType) -> [Vec<f64>; 4] {
        let ([x, scale, offset, dy], margin) = (self.operands(dtype), self.margin);
        let beside = vec![100.0; margin];
        let rows = x.chunks_exact(self.cols);
        let around = rows.flat_map(|row| [&beside, row, &beside].concat());
        let wide = [self.rows, self.cols + 2 * margin];
        let tape = Tape::new();
        let around = tape.leaf(tensor(wide, &around.collect::<Vec<_>>(), dtype, device));
        let x = around.columns(margin..margin + self.cols).unwrap();
        let ids = [(); 2].map(|()| ParamId::fresh());
        let param = |id, values: &[f64]| {
            let values = tensor([self.width()], values, DType::F32, device);
            Var::param(id, values)
        };
        let (scale, offset) = (param(ids[0], &scale), param(ids[1], &offset));
        let y = offset_scale(&x, &scale, &offset).unwrap();
        let dy = tensor([self.rows, self.width()], &dy, dtype, device);
        let mut gradients = Gradients::new();
        tape.backward_from(vec![(&y, dy)], &mut gradients).unwrap();
        let dx = tape.gradient(&around).unwrap().unwrap();
        assert_eq!((y.dtype(), dx.dtype()), (dtype, dtype));
        let inside = |row: &[f64]| row[margin..margin + self.cols].to_vec();
        let dx = read(&dx).chunks_exact(wide[1]).flat_map(inside).collect();
        let [dscale, doffset] = ids.map(|id| read(&gradients.get(id).unwrap().unwrap()));
        [read(y.tensor().unwrap()), dx, dscale, doffset]
    }

    fn reference<R: Real>(&self, dtype: DType) -> [Vec<R>; 4] {
        let operands = self.operands(dtype);
        let [x, scale, offset, dy] =
            operands.map(|v| v.iter().map(|&v| R::from(v as f32)).collect::<Vec<R>>());
        let y = reference::forward(&x, &scale, &offset, self.cols);
        let [dx, dscale, doffset] = reference::backward(&dy, &x, &scale, self.cols);
        [y, dx, dscale, doffset]
    }
}

/// Every case, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for case in problems() {
        case.run(device, dtype);
    }
}

#[test]
fn values_and_gradients_agree_with_the_definition_on_every_device() {
    let names = ["y", "dx", "dscale", "doffset"];
    for (device, dtype) in cases() {
        let types = [dtype, dtype, DType::F32, DType::F32];
        for case in problems() {
            let got = case.run(device, dtype);
            let (truth, plain) = (case.reference::<f64>(dtype), case.reference::<f32>(dtype));
            for (i, name) in names.iter().enumerate() {
                let what = format!("{name} of {case:?} on {device} in {dtype}");
                assert_near(&what, &got[i], &truth[i], &plain[i], types[i]);
            }
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems() {
            let runs = [(); 2].map(|()| case.run(device, dtype));
            assert_eq!(runs[0], runs[1], "{case:?} on {device} in {dtype}");
        }
    }
}
