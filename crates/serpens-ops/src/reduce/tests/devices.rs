//! Sums, means and squared errors, forward and back.

use serpens_core::{DType, Device, Result, Tape, Tensor, Var};

use super::reference;
use crate::reduce::{mean, mean_last, mean_squared_error, sum, sum_last};
use crate::shared::tests::{assert_near, cases, f32s, read, tensor, values};

/// (rows, columns, the row that they are part of, where they begin in it).
const SIZES: [(usize, usize, usize, usize); 7] = [
    (1, 641, 641, 0),
    (641, 1, 3, 2),
    (33, 70, 70, 0),
    (101, 67, 131, 5),
    (3, 5000, 5000, 0),
    (5, 1025, 1030, 3),
    (2, 40_000, 40_000, 0),
];

const FUNCTIONS: [fn(&Var) -> Result<Var>; 4] = [sum, mean, sum_last, mean_last];

/// Every function, forward and back, for the programs that they ask for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for (rows, cols, width, offset) in SIZES {
        let tape = Tape::new();
        let columns = || {
            let whole = tape.leaf(Tensor::zeros([rows, width], dtype, device).unwrap());
            whole.columns(offset..offset + cols).unwrap()
        };
        let back = |y: Var| {
            let dy = Tensor::zeros(y.shape(), y.dtype(), device).unwrap();
            tape.backward_from(vec![(&y, dy)], &mut Default::default())
                .unwrap();
        };
        FUNCTIONS.iter().for_each(|f| back(f(&columns()).unwrap()));
        back(mean_squared_error(&columns(), &columns()).unwrap());
    }
}

fn part(values: &[f64], (_, cols, width, offset): (usize, usize, usize, usize)) -> Vec<f64> {
    let rows = values.chunks_exact(width);
    rows.flat_map(|row| row[offset..offset + cols].to_vec())
        .collect()
}

#[test]
fn sums_and_means_agree_with_their_definitions_on_every_device() {
    for (device, dtype) in cases() {
        for size in SIZES {
            let (rows, cols, width, offset) = size;
            // Not about zero: a sum of nothing but noise has no digits to lose.
            let wide: Vec<f64> = values(1, [rows, width], 1.0, DType::BF16)
                .iter()
                .map(|x| x + 2.0)
                .map(|x| crate::shared::tests::round(x, dtype))
                .collect();
            let x = part(&wide, size);
            let (count, width_share) = ((rows * cols) as f64, cols as f64);
            let truths = [
                (
                    vec![reference::sum(&x)],
                    vec![reference::sum(&f32s(&x))],
                    1.0,
                ),
                (
                    vec![reference::sum(&x)],
                    vec![reference::sum(&f32s(&x))],
                    count,
                ),
                (
                    reference::sum_last(&x, cols),
                    reference::sum_last(&f32s(&x), cols),
                    1.0,
                ),
                (
                    reference::sum_last(&x, cols),
                    reference::sum_last(&f32s(&x), cols),
                    width_share,
                ),
            ];
            for (i, (function, (truth, plain, parts))) in FUNCTIONS.iter().zip(truths).enumerate() {
                let what = format!("function {i} of {size:?} on {device} in {dtype}");
                let tape = Tape::new();
                let leaf = tape.leaf(tensor([rows, width], &wide, dtype, device));
                let y = function(&leaf.columns(offset..offset + cols).unwrap()).unwrap();
                assert_eq!((y.dtype(), y.device()), (DType::F32, device), "{what}");
                let truth: Vec<f64> = truth.iter().map(|x| x / parts).collect();
                let plain: Vec<f32> = plain.iter().map(|x| x / parts as f32).collect();
                assert_near(
                    &what,
                    &read(y.tensor().unwrap()),
                    &truth,
                    &plain,
                    DType::F32,
                );

                let dy = values(2, y.shape(), 1.0, DType::BF16);
                let seed = tensor(y.shape(), &dy, DType::F32, device);
                tape.backward_from(vec![(&y, seed)], &mut Default::default())
                    .unwrap();
                let gradient = read(&tape.gradient(&leaf).unwrap().unwrap());
                let slope = |r: usize| dy[r.min(dy.len() - 1)] / parts;
                let truth: Vec<f64> = (0..rows * cols).map(|i| slope(i / cols)).collect();
                assert_near(&what, &part(&gradient, size), &truth, &f32s(&truth), dtype);
                let inside: f64 = part(&gradient, size).iter().map(|g| g.abs()).sum();
                let all: f64 = gradient.iter().map(|g| g.abs()).sum();
                assert!((all - inside).abs() < 1e-9 * all, "{what}: columns outside");
            }
        }
    }
}

#[test]
fn squared_errors_agree_with_their_definition_on_every_device() {
    for (device, dtype) in cases() {
        for size in SIZES {
            let (rows, cols, width, offset) = size;
            let what = format!("{size:?} on {device} in {dtype}");
            let wide = [1, 2].map(|seed| values(seed, [rows, width], 3.0, dtype));
            let run = || {
                let tape = Tape::new();
                let leaves = wide
                    .each_ref()
                    .map(|x| tape.leaf(tensor([rows, width], x, dtype, device)));
                let [a, b] = leaves
                    .each_ref()
                    .map(|leaf| leaf.columns(offset..offset + cols).unwrap());
                let y = mean_squared_error(&a, &b).unwrap();
                assert_eq!(y.dtype(), DType::F32);
                tape.backward(&y, 0.75, &mut Default::default()).unwrap();
                let gradients = leaves
                    .each_ref()
                    .map(|leaf| part(&read(&tape.gradient(leaf).unwrap().unwrap()), size));
                (read(y.tensor().unwrap()), gradients)
            };
            let (y, [da, db]) = run();
            let [a, b] = wide.each_ref().map(|x| part(x, size));
            let truth = [reference::mean_squared_error(&a, &b)];
            let plain = [reference::mean_squared_error(&f32s(&a), &f32s(&b))];
            assert_near(&what, &y, &truth, &plain, DType::F32);
            let truth = reference::mean_squared_error_backward(0.75, &a, &b);
            let plain = reference::mean_squared_error_backward(0.75, &f32s(&a), &f32s(&b));
            assert_near(&what, &da, &truth, &plain, dtype);
            assert_eq!(db, da.iter().map(|x| -x).collect::<Vec<_>>(), "{what}");
            assert_eq!(run(), (y, [da, db]), "two runs of {what}");
        }
    }
}
