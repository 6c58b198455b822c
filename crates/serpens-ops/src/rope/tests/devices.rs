//! Heads of every alignment at near and far positions.

use serpens_core::{DType, Device, Gradients, Tape};

use super::reference;
use crate::rope::{RopeOptions, rope};
use crate::shared::tests::{assert_near, cases, f32s, read, tensor, values};

/// One problem; x lies at `margin` in rows that are `2 · margin` wider.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    length: usize,
    heads: usize,
    margin: usize,
    options: RopeOptions,
}

/// Stretches of positions and threads' heads that end anywhere, pairs that fill no access.
fn problems() -> Vec<Case> {
    let sizes = [
        (2, 70, 3, 64, 8, 0),
        (1, 200, 12, 128, 0, 5),
        (3, 1, 5, 16, 4, 1_000_000),
        (1, 130, 1, 256, 0, 999_900),
        (2, 3, 9, 2, 1, 77),
        (1, 9, 4, 20, 3, 1_000_000),
        (2, 65, 2, 12, 2, 0),
    ];
    let case = |(batch, length, heads, head, margin, from)| Case {
        batch,
        length,
        heads,
        margin,
        options: RopeOptions {
            head,
            base: if head == 16 { 500_000.0 } else { 10_000.0 },
            from,
        },
    };
    sizes.map(case).to_vec()
}

impl Case {
    fn columns(&self) -> usize {
        self.heads * self.options.head
    }

    /// x and dy.
    fn operands(&self, dtype: DType) -> [Vec<f64>; 2] {
        let shape = [self.batch, self.length, self.columns()];
        [1, 2].map(|seed| values(seed, shape, 2.0, dtype))
    }

    /// y, and the gradient of x.
    fn run(&self, device: Device, dtype: DType) -> [Vec<f64>; 2] {
        let [x, dy] = self.operands(dtype);
        let (columns, margin) = (self.columns(), self.margin);
        let wide = columns + 2 * margin;
        let beside = || vec![100.0; margin];
        let rows = x.chunks_exact(columns);
        let around: Vec<f64> = rows
            .flat_map(|row| [beside(), row.to_vec(), beside()].concat())
            .collect();
        let tape = Tape::new();
        let around = tensor([self.batch, self.length, wide], &around, dtype, device);
        let around = tape.leaf(around);
        let x = around.columns(margin..margin + columns).unwrap();
        let y = rope(&x, &self.options).unwrap();
        let dy = tensor(y.shape(), &dy, dtype, device);
        tape.backward_from(vec![(&y, dy)], &mut Gradients::new())
            .unwrap();
        let gradient = read(&tape.gradient(&around).unwrap().unwrap());
        let inside = |row: &[f64]| {
            let (inside, right) = row.split_at(margin + columns);
            let beside = inside[..margin].iter().chain(right);
            assert!(beside.copied().all(|v| v == 0.0), "a gradient beside x");
            inside[margin..].to_vec()
        };
        let dx = gradient.chunks_exact(wide).flat_map(inside).collect();
        [read(y.tensor().unwrap()), dx]
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
    for (device, dtype) in cases() {
        for case in problems() {
            let got = case.run(device, dtype);
            let operands = case.operands(dtype);
            for (i, back) in [false, true].into_iter().enumerate() {
                let (columns, length) = (case.columns(), case.length);
                let truth = reference::turn(&operands[i], columns, length, &case.options, back);
                let plain = f32s(&operands[i]);
                let plain = reference::turn(&plain, columns, length, &case.options, back);
                let what = format!("{case:?} on {device} in {dtype}, back: {back}");
                assert_near(&what, &got[i], &truth, &plain, dtype);
            }
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems() {
            let [first, second] = [(); 2].map(|()| case.run(device, dtype));
            assert_eq!(first, second, "{case:?} on {device} in {dtype}");
        }
    }
}
