//! The softmax and its logarithm, forward and back.

use serpens_core::{DType, Device, Result, Tape, Tensor, Var};

use super::reference;
use crate::shared::tests::{assert_near, cases, f32s, read, tensor, values};
use crate::softmax::{Form, log_softmax, softmax};

/// (rows, columns, the row that they are part of, where they begin in it).
const SIZES: [(usize, usize, usize, usize); 6] = [
    (1, 641, 641, 0),
    (641, 1, 3, 2),
    (33, 70, 70, 0),
    (101, 67, 131, 5),
    (3, 5000, 5000, 0),
    (5, 1025, 1030, 3),
];

type Function = fn(&Var) -> Result<Var>;

const FUNCTIONS: [(Form, Function); 2] =
    [(Form::Softmax, softmax), (Form::LogSoftmax, log_softmax)];

/// Both, forward and back, for the programs that they ask for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for (rows, cols, width, offset) in SIZES {
        for (_, function) in FUNCTIONS {
            let tape = Tape::new();
            let whole = tape.leaf(Tensor::zeros([rows, width], dtype, device).unwrap());
            let y = function(&whole.columns(offset..offset + cols).unwrap()).unwrap();
            let dy = Tensor::zeros([rows, cols], dtype, device).unwrap();
            tape.backward_from(vec![(&y, dy)], &mut Default::default())
                .unwrap();
        }
    }
}

#[test]
fn probabilities_and_gradients_agree_with_their_definitions_on_every_device() {
    for (device, dtype) in cases() {
        for (rows, cols, width, offset) in SIZES {
            let wide = values(1, [rows, width], 4.0, dtype);
            let dy = values(2, [rows, cols], 1.0, dtype);
            let part = |values: &[f64]| -> Vec<f64> {
                let rows = values.chunks_exact(width);
                rows.flat_map(|row| row[offset..offset + cols].to_vec())
                    .collect()
            };
            let x = part(&wide);
            for (form, function) in FUNCTIONS {
                let what = format!("{form:?} of {rows} rows of {cols} on {device} in {dtype}");
                let run = || {
                    let tape = Tape::new();
                    let leaf = tape.leaf(tensor([rows, width], &wide, dtype, device));
                    let y = function(&leaf.columns(offset..offset + cols).unwrap()).unwrap();
                    assert_eq!((y.dtype(), y.device()), (dtype, device), "{what}");
                    let seed = tensor([rows, cols], &dy, dtype, device);
                    tape.backward_from(vec![(&y, seed)], &mut Default::default())
                        .unwrap();
                    let gradient = tape.gradient(&leaf).unwrap().unwrap();
                    (read(y.tensor().unwrap()), read(&gradient))
                };
                let (y, gradient) = run();
                let truth = reference::forward(form, &x, cols);
                let plain = reference::forward(form, &f32s(&x), cols);
                assert_near(&what, &y, &truth, &plain, dtype);
                let truth = reference::backward(form, &x, &dy, cols);
                let plain = reference::backward(form, &f32s(&x), &f32s(&dy), cols);
                let what = format!("gradient of {what}");
                assert_near(&what, &part(&gradient), &truth, &plain, dtype);
                let inside: f64 = part(&gradient).iter().map(|g| g.abs()).sum();
                let all: f64 = gradient.iter().map(|g| g.abs()).sum();
                assert!(
                    (all - inside).abs() <= 1e-9 * all,
                    "{what}: columns outside"
                );
                assert_eq!(run(), (y, gradient), "two runs of {what}");
            }
        }
    }
}
