//! Functions applied value by value, conversions, and sums over rows.

use serpens_core::{DType, Device, Result, Tape, Tensor, Var};

use super::reference;
use crate::elementwise::{
    abs, add, binary_cross_entropy, broadcast_rows, cast, dropout, exp, gelu, log, mul, neg_exp,
    scale, sigmoid, silu, silu_mul, sub, tanh,
};
use crate::shared::tests::real::{Real, zero};
use crate::shared::tests::{assert_near, cases, read, round, tensor, values};

/// (rows, columns, the row that they are part of, where they begin in it).
const SIZES: [(usize, usize, usize, usize); 6] = [
    (1, 641, 641, 0),
    (641, 1, 3, 2),
    (33, 70, 70, 0),
    (100, 64, 128, 8),
    (101, 67, 131, 5),
    (3, 5000, 5000, 0),
];

/// A function of two operands and its gradients, as it is and by its definition.
struct Function {
    name: &'static str,
    run: fn(&Var, &Var) -> Result<Var>,
    exact: Definition<f64>,
    plain: Definition<f32>,
}

/// (dy, a, b) → (y, da, db) of one value.
type Definition<R> = fn(R, R, R) -> [R; 3];

fn added<R: Real>(dy: R, a: R, b: R) -> [R; 3] {
    [a + b, dy, dy]
}
fn subtracted<R: Real>(dy: R, a: R, b: R) -> [R; 3] {
    [a - b, dy, -dy]
}
fn multiplied<R: Real>(dy: R, a: R, b: R) -> [R; 3] {
    [a * b, dy * b, dy * a]
}
fn gated<R: Real>(dy: R, a: R, z: R) -> [R; 3] {
    let (silu, slope) = (reference::silu(z), reference::silu_slope(z));
    [a * silu, dy * silu, dy * a * slope]
}
fn silu_of<R: Real>(dy: R, a: R, _: R) -> [R; 3] {
    [reference::silu(a), dy * reference::silu_slope(a), zero()]
}
fn gelu_of<R: Real>(dy: R, a: R, _: R) -> [R; 3] {
    [reference::gelu(a), dy * reference::gelu_slope(a), zero()]
}
fn abs_of<R: Real>(dy: R, a: R, _: R) -> [R; 3] {
    let (abs, slope) = reference::abs(a);
    [abs, dy * slope, zero()]
}
/// Of targets |b| / 4.
fn binary_cross_entropy_of<R: Real>(dy: R, a: R, b: R) -> [R; 3] {
    let target = reference::abs(b).0 * R::from(0.25);
    let slope = reference::sigmoid(a) - target;
    [
        reference::binary_cross_entropy(a, target),
        dy * slope,
        zero(),
    ]
}
fn exp_of<R: Real>(dy: R, a: R, _: R) -> [R; 3] {
    [a.exp(), dy * a.exp(), zero()]
}
fn neg_exp_of<R: Real>(dy: R, a: R, _: R) -> [R; 3] {
    [-a.exp(), -(dy * a.exp()), zero()]
}

fn sigmoid_of<R: Real>(dy: R, a: R, _: R) -> [R; 3] {
    let slope = reference::sigmoid_slope(a);
    [reference::sigmoid(a), dy * slope, zero()]
}
fn tanh_of<R: Real>(dy: R, a: R, _: R) -> [R; 3] {
    let slope = reference::tanh_slope(a);
    [reference::tanh(a), dy * slope, zero()]
}

/// The functions' operands are as they come, but for the logarithm, which wants positive ones.
fn domain(function: &Function, values: Vec<f64>, dtype: DType) -> Vec<f64> {
    match function.name {
        "log" => values
            .iter()
            .map(|x| round(x.abs() + 0.125, dtype))
            .collect(),
        _ => values,
    }
}

/// e^x as a power of two in f32, without the care of a library: the product is rounded before the power is taken.
fn plain_exp(x: f32) -> f32 {
    (x * std::f32::consts::LOG2_E).exp2()
}

const FUNCTIONS: [Function; 14] = [
    Function {
        name: "add",
        run: add,
        exact: added,
        plain: added,
    },
    Function {
        name: "sub",
        run: sub,
        exact: subtracted,
        plain: subtracted,
    },
    Function {
        name: "scale",
        run: |a, _| scale(a, -1.7),
        exact: |dy, a, _| [f64::from(-1.7_f32) * a, f64::from(-1.7_f32) * dy, 0.0],
        plain: |dy, a, _| [-1.7 * a, -1.7 * dy, 0.0],
    },
    Function {
        name: "log",
        run: |a, _| log(a),
        exact: |dy, a, _| [a.ln(), dy / a, 0.0],
        plain: |dy, a, _| [a.ln(), dy / a, 0.0],
    },
    Function {
        name: "sigmoid",
        run: |a, _| sigmoid(a),
        exact: sigmoid_of,
        plain: sigmoid_of,
    },
    Function {
        name: "tanh",
        run: |a, _| tanh(a),
        exact: tanh_of,
        plain: tanh_of,
    },
    Function {
        name: "mul",
        run: mul,
        exact: multiplied,
        plain: multiplied,
    },
    Function {
        name: "silu_mul",
        run: silu_mul,
        exact: gated,
        plain: gated,
    },
    Function {
        name: "silu",
        run: |a, _| silu(a),
        exact: silu_of,
        plain: silu_of,
    },
    Function {
        name: "gelu",
        run: |a, _| gelu(a),
        exact: gelu_of,
        plain: gelu_of,
    },
    Function {
        name: "abs",
        run: |a, _| abs(a),
        exact: abs_of,
        plain: abs_of,
    },
    Function {
        name: "binary_cross_entropy",
        run: |a, b| {
            let targets = scale(&abs(&cast(&b.detach(), DType::F32)?)?, 0.25)?;
            binary_cross_entropy(a, targets.tensor()?)
        },
        exact: binary_cross_entropy_of,
        plain: binary_cross_entropy_of,
    },
    Function {
        name: "exp",
        run: |a, _| exp(a),
        exact: exp_of,
        plain: |dy, a, _| [plain_exp(a), dy * plain_exp(a), 0.0],
    },
    Function {
        name: "neg_exp",
        run: |a, _| neg_exp(a),
        exact: neg_exp_of,
        plain: |dy, a, _| [-plain_exp(a), -dy * plain_exp(a), 0.0],
    },
];

/// Some columns of a matrix row by row.
fn part(values: &[f64], (_, cols, width, offset): (usize, usize, usize, usize)) -> Vec<f64> {
    let rows = values.chunks_exact(width);
    rows.flat_map(|row| row[offset..offset + cols].to_vec())
        .collect()
}

/// Every function, conversion and sum, forward and back, for the programs that they ask for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    let zeros = |shape, dtype| Tensor::zeros(shape, dtype, device).unwrap();
    for (rows, cols, width, offset) in SIZES {
        let tape = Tape::new();
        let back = |y: &Var| {
            let dy = zeros([rows, cols], y.dtype());
            tape.backward_from(vec![(y, dy)], &mut Default::default())
                .unwrap();
        };
        let columns = || {
            let whole = tape.leaf(zeros([rows, width], dtype));
            whole.columns(offset..offset + cols).unwrap()
        };
        for function in &FUNCTIONS {
            back(&(function.run)(&columns(), &columns()).unwrap());
        }
        back(&dropout(&columns(), 0.5, Some(1)).unwrap());
        for to in [DType::F32, DType::BF16] {
            back(&cast(&columns(), to).unwrap());
        }
        let row = tape.leaf(zeros([1, cols], dtype).reshape([cols]).unwrap());
        back(&broadcast_rows(&row, [rows, cols].into()).unwrap());
    }
}

#[test]
fn functions_and_gradients_agree_with_their_definitions_on_every_device() {
    for (device, dtype) in cases() {
        for size in SIZES {
            for function in &FUNCTIONS {
                check(function, size, device, dtype);
            }
        }
    }
}

fn check(function: &Function, size: (usize, usize, usize, usize), device: Device, dtype: DType) {
    let (rows, cols, width, offset) = size;
    let what = |name: &str| {
        format!(
            "{name} of {}, {size:?} on {device} in {dtype}",
            function.name
        )
    };
    let wide = [1, 2].map(|seed| domain(function, values(seed, [rows, width], 3.0, dtype), dtype));
    let dy = values(3, [rows, cols], 1.0, dtype);
    let tape = Tape::new();
    let leaves = wide
        .each_ref()
        .map(|values| tape.leaf(tensor([rows, width], values, dtype, device)));
    let [a, b] = leaves
        .each_ref()
        .map(|leaf| leaf.columns(offset..offset + cols).unwrap());
    let y = (function.run)(&a, &b).unwrap();
    assert_eq!((y.dtype(), y.device()), (dtype, device));
    let seed = tensor([rows, cols], &dy, dtype, device);
    tape.backward_from(vec![(&y, seed)], &mut Default::default())
        .unwrap();

    let [a, b] = wide.each_ref().map(|values| part(values, size));
    let all = (0..dy.len()).map(|i| (function.exact)(dy[i], a[i], b[i]));
    let truth: Vec<[f64; 3]> = all.collect();
    let all = (0..dy.len()).map(|i| (function.plain)(dy[i] as f32, a[i] as f32, b[i] as f32));
    let plain: Vec<[f32; 3]> = all.collect();
    let near = |name: &str, got: &[f64], k: usize| {
        let truth: Vec<f64> = truth.iter().map(|values| values[k]).collect();
        let plain: Vec<f32> = plain.iter().map(|values| values[k]).collect();
        assert_near(&what(name), got, &truth, &plain, dtype);
    };
    near("y", &read(y.tensor().unwrap()), 0);
    for (k, leaf) in leaves.iter().enumerate() {
        let Some(gradient) = tape.gradient(leaf).unwrap() else {
            continue; // a function of one operand
        };
        let gradient = read(&gradient);
        near("a gradient", &part(&gradient, size), k + 1);
        let outside: f64 = gradient.iter().map(|g| g.abs()).sum::<f64>()
            - part(&gradient, size).iter().map(|g| g.abs()).sum::<f64>();
        assert!(outside.abs() < 1e-9, "{}", what("columns outside"));
    }
}

#[test]
fn repeated_rows_and_their_sums_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for (rows, cols) in [(1, 641), (700, 1), (300, 67), (5000, 64), (129, 1000)] {
            let what = format!("{rows} rows of {cols} on {device} in {dtype}");
            let row = values(1, [cols], 1.0, dtype);
            let dy = values(2, [rows, cols], 1.0, dtype);
            let run = || {
                let tape = Tape::new();
                let x = tape.leaf(tensor([cols], &row, dtype, device));
                let y = broadcast_rows(&x, [rows, cols].into()).unwrap();
                let seed = tensor([rows, cols], &dy, dtype, device);
                tape.backward_from(vec![(&y, seed)], &mut Default::default())
                    .unwrap();
                let dx = tape.gradient(&x).unwrap().unwrap();
                (read(y.tensor().unwrap()), read(&dx))
            };
            let (y, dx) = run();
            assert_eq!(y, row.repeat(rows), "{what}");
            let narrow: Vec<f32> = dy.iter().map(|&v| v as f32).collect();
            let (truth, plain) = (
                reference::sum_rows(&dy, cols),
                reference::sum_rows(&narrow, cols),
            );
            assert_near(&what, &dx, &truth, &plain, dtype);
            assert_eq!(run(), (y, dx), "two runs of {what}");
        }
    }
}

#[test]
fn dropout_drops_the_same_values_forward_and_back_on_every_device() {
    for (device, dtype) in cases() {
        for size in SIZES {
            let (rows, cols, width, offset) = size;
            let what = format!("{size:?} on {device} in {dtype}");
            let wide = values(1, [rows, width], 3.0, dtype);
            let dy = values(2, [rows, cols], 1.0, dtype);
            let tape = Tape::new();
            let leaf = tape.leaf(tensor([rows, width], &wide, dtype, device));
            let x = leaf.columns(offset..offset + cols).unwrap();
            let y = dropout(&x, 0.25, Some(7)).unwrap();
            let seed = tensor([rows, cols], &dy, dtype, device);
            tape.backward_from(vec![(&y, seed)], &mut Default::default())
                .unwrap();
            let dx = part(&read(&tape.gradient(&leaf).unwrap().unwrap()), size);
            // A value's number is its place in the rows as they are seen, not in those that they are part of.
            let kept = |i: usize| kept_at_a_quarter(7, i as u64);
            let expected = |values: &[f64]| -> Vec<f64> {
                let factor = f64::from(4.0_f32 / 3.0);
                let value = |(i, x): (usize, &f64)| {
                    if kept(i) {
                        round(x * factor, dtype)
                    } else {
                        0.0
                    }
                };
                values.iter().enumerate().map(value).collect()
            };
            let near = |got: &[f64], expected: &[f64]| {
                let zeros = |values: &[f64]| values.iter().map(|x| *x == 0.0).collect::<Vec<_>>();
                assert_eq!(zeros(got), zeros(expected), "{what}");
                assert_near(
                    &what,
                    got,
                    expected,
                    &crate::shared::tests::f32s(expected),
                    dtype,
                );
            };
            near(&read(y.tensor().unwrap()), &expected(&part(&wide, size)));
            near(&dx, &expected(&dy));
        }
    }
}

/// Whether dropout at a rate of ¼ keeps a value, by SplitMix64 as Steele, Lea and Flood have it: a state that is
/// advanced and mixed.
fn kept_at_a_quarter(seed: u64, index: u64) -> bool {
    let mut state = seed;
    for _ in 0..=index % 1000 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    state = state.wrapping_add((index - index % 1000).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state ^ (state >> 31)) >> 62 > 0
}

#[test]
fn conversions_round_to_nearest_and_gradients_go_back_on_every_device() {
    for device in Device::available() {
        for (rows, cols, width, offset) in SIZES {
            let size = (rows, cols, width, offset);
            let wide = values(1, [rows, width], 1e3, DType::F32);
            let dy = values(2, [rows, cols], 1.0, DType::BF16);
            let tape = Tape::new();
            let x = tape.leaf(tensor([rows, width], &wide, DType::F32, device));
            let columns = x.columns(offset..offset + cols).unwrap();
            let narrow = cast(&columns, DType::BF16).unwrap();
            let rounded: Vec<f64> = part(&wide, size)
                .iter()
                .map(|&v| round(v, DType::BF16))
                .collect();
            assert_eq!(narrow.dtype(), DType::BF16);
            assert_eq!(read(narrow.tensor().unwrap()), rounded, "{size:?}");
            let back = cast(&narrow, DType::F32).unwrap();
            assert_eq!(read(back.tensor().unwrap()), rounded, "{size:?}");
            let seed = tensor([rows, cols], &dy, DType::F32, device);
            tape.backward_from(vec![(&back, seed)], &mut Default::default())
                .unwrap();
            let dx = tape.gradient(&x).unwrap().unwrap();
            assert_eq!(dx.dtype(), DType::F32);
            assert_eq!(part(&read(&dx), size), dy, "{size:?} on {device}");
        }
    }
}

#[test]
fn operands_of_different_types_are_refused_on_a_gpu() {
    for (device, dtype) in cases() {
        if dtype == DType::BF16 {
            let a: Var = Tensor::zeros([3, 4], DType::F32, device).unwrap().into();
            let b = cast(&a, dtype).unwrap();
            assert!(add(&a, &b).is_err() && silu_mul(&b, &a).is_err());
        }
    }
}
