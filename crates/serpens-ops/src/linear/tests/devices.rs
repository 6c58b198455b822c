//! y = x Wᵀ + b.

use serpens_core::{DType, Device, Gradients, ParamId, Tape, Var};

use super::{reference, steps_on_devices};
use crate::linear::{ProductPrecision, linear};
use crate::shared::tests::{assert_near, cases, distance, f32s, read, tensor, values};

/// (rows, inputs, outputs), multiples of nothing but the last two.
const SIZES: [(usize, usize, usize); 5] = [
    (1, 1, 1),
    (37, 19, 23),
    (130, 70, 33),
    (64, 132, 256),
    (64, 128, 256),
];

/// y, dx, dW and db with an upstream gradient dy.
fn run(
    sizes: (usize, usize, usize),
    device: Device,
    dtype: DType,
    products: ProductPrecision,
) -> [Vec<f64>; 4] {
    let (rows, inputs, outputs) = sizes;
    let tape = Tape::new();
    let x = tape.leaf(tensor(
        [rows, inputs],
        &values(1, [rows, inputs], 1.0, dtype),
        dtype,
        device,
    ));
    let w = tensor(
        [outputs, inputs],
        &values(2, [outputs, inputs], 1.0, dtype),
        dtype,
        device,
    );
    let b = tensor(
        [outputs],
        &values(3, [outputs], 1.0, DType::F32),
        DType::F32,
        device,
    );
    let (w_id, b_id) = (ParamId::fresh(), ParamId::fresh());
    let (w, b) = (Var::param(w_id, w), Var::param(b_id, b));
    let y = linear(&x, &w, Some(&b), products).unwrap();
    let dy = tensor(
        [rows, outputs],
        &values(4, [rows, outputs], 1.0, dtype),
        dtype,
        device,
    );
    let mut gradients = Gradients::new();
    tape.backward_from(vec![(&y, dy)], &mut gradients).unwrap();
    let gradient = |gradients: &mut Gradients, id| gradients.get(id).unwrap().unwrap();
    let (dw, db) = (
        gradient(&mut gradients, w_id),
        gradient(&mut gradients, b_id),
    );
    assert_eq!(dw.dtype(), DType::F32);
    let dx = tape.gradient(&x).unwrap().unwrap();
    [read(y.tensor().unwrap()), read(&dx), read(&dw), read(&db)]
}

/// Every size, for the programs that it asks for, but the last: cuBLASLt may store its products in bulk, which
/// initcheck does not see.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for sizes in &SIZES[..4] {
        run(*sizes, device, dtype, ProductPrecision::Full);
    }
    steps_on_devices::run_all(device, dtype);
}

#[test]
fn products_and_gradients_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for sizes in SIZES {
            let (rows, inputs, outputs) = sizes;
            let got = run(sizes, device, dtype, ProductPrecision::Full);
            let (x, w) = (
                values(1, [rows, inputs], 1.0, dtype),
                values(2, [outputs, inputs], 1.0, dtype),
            );
            let (b, dy) = (
                values(3, [outputs], 1.0, DType::F32),
                values(4, [rows, outputs], 1.0, dtype),
            );
            let (x32, w32, b32, dy32) = (f32s(&x), f32s(&w), f32s(&b), f32s(&dy));
            let what = |name: &str| format!("{name} of {sizes:?} on {device} in {dtype}");
            let truth = reference::forward(&x, &w, Some(&b), inputs, outputs, rows);
            let plain = reference::forward(&x32, &w32, Some(&b32), inputs, outputs, rows);
            assert_near(&what("y"), &got[0], &truth, &plain, dtype);
            let truth = reference::backward_input(&dy, &w, inputs, outputs, rows);
            let plain = reference::backward_input(&dy32, &w32, inputs, outputs, rows);
            assert_near(&what("dx"), &got[1], &truth, &plain, dtype);
            let truth = reference::backward_weight(&dy, &x, inputs, outputs, rows);
            let plain = reference::backward_weight(&dy32, &x32, inputs, outputs, rows);
            assert_near(&what("dW"), &got[2], &truth, &plain, DType::F32);
            let truth: Vec<f64> = (0..outputs)
                .map(|o| dy.iter().skip(o).step_by(outputs).sum())
                .collect();
            let plain: Vec<f32> = (0..outputs)
                .map(|o| dy32.iter().skip(o).step_by(outputs).sum())
                .collect();
            assert_near(&what("db"), &got[3], &truth, &plain, DType::F32);
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        for sizes in SIZES {
            let run = || run(sizes, device, dtype, ProductPrecision::Full);
            assert_eq!(run(), run(), "{sizes:?} on {device}");
        }
    }
}

/// TF32 has 10 bits after the first: its rounding shows, and is no larger than that.
#[test]
fn tf32_rounds_operands_where_it_is_asked_for_on_a_gpu() {
    let sizes = SIZES[3];
    let gpus = cases()
        .into_iter()
        .filter(|(device, dtype)| *device != Device::Cpu && *dtype == DType::F32);
    for (device, _) in gpus {
        let full = run(sizes, device, DType::F32, ProductPrecision::Full);
        let tf32 = run(sizes, device, DType::F32, ProductPrecision::Tf32);
        for (name, full, tf32) in [
            ("y", &full[0], &tf32[0]),
            ("dx", &full[1], &tf32[1]),
            ("dW", &full[2], &tf32[2]),
        ] {
            let error = distance(tf32, full);
            assert!(
                (1e-5..1e-3).contains(&error),
                "{name} on {device}: {error:.1e}"
            );
        }
        assert_eq!(full[3], tf32[3], "db on {device}");
    }
}
