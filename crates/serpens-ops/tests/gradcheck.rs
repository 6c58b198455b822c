//! The backward rule of every operation against finite differences, through the tape as a user meets it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serpens_core::{DType, Device, GradCheckOptions, Result, Shape, Tensor, Var, gradcheck};
use serpens_ops::Starts;
use serpens_ops::causal_conv1d::{ConvOptions, ConvOutput, causal_conv1d};
use serpens_ops::cross_entropy::{IGNORE, cross_entropy};
use serpens_ops::elementwise::{add, broadcast_rows, exp, mul, neg_exp, silu, silu_mul};
use serpens_ops::embedding::embedding;
use serpens_ops::linear::{ProductPrecision, linear};
use serpens_ops::long_conv::long_conv;
use serpens_ops::lti_kernel::{LtiSystem, lti_kernel};
use serpens_ops::rms_norm::rms_norm;
use serpens_ops::selective_scan::{A, ScanInputs, ScanOptions, ScanOutput, selective_scan};

/// Tensors of these shapes with values in [-1, 1).
fn tensors<const K: usize>(shapes: [Shape; K]) -> [Tensor; K] {
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    shapes.map(|shape| {
        let values: Vec<f32> = (0..shape.count())
            .map(|_| rng.next_u32() as f32 / 2.0_f32.powi(31) - 1.0)
            .collect();
        Tensor::from_slice(shape, &values, Device::cpu()).unwrap()
    })
}

fn assert_gradients(what: &str, f: impl Fn(&[Var]) -> Result<Var>, inputs: &[Tensor]) {
    let check = gradcheck(f, inputs, GradCheckOptions::default()).unwrap();
    assert!(check.ok, "{what}: {check:?}");
}

#[test]
fn linear_has_the_gradients_of_its_definition() {
    let inputs = tensors([[2, 3, 5].into(), [4, 5].into(), [4].into()]);
    assert_gradients(
        "linear",
        |v| linear(&v[0], &v[1], Some(&v[2]), ProductPrecision::Full),
        &inputs,
    );
    // Two overlapping ranges of columns, whose gradients meet in one buffer.
    let inputs = tensors([[6, 5].into(), [3, 3].into()]);
    let overlapping = |v: &[Var]| {
        let left = linear(&v[0].columns(0..3)?, &v[1], None, ProductPrecision::Full)?;
        let right = linear(&v[0].columns(2..5)?, &v[1], None, ProductPrecision::Full)?;
        mul(&left, &right)
    };
    assert_gradients("linear on columns", overlapping, &inputs);
}

#[test]
fn embedding_has_the_gradients_of_its_definition() {
    let ids = Tensor::from_slice([2, 3], &[0_u32, 2, 2, 1, 0, 2], Device::cpu());
    let ids: Var = ids.unwrap().into();
    let inputs = tensors([[4, 3].into()]);
    assert_gradients("embedding", |v| embedding(&ids, &v[0]), &inputs);
}

#[test]
fn rms_norm_has_the_gradients_of_its_definition() {
    let inputs = tensors([[2, 3, 5].into(), [2, 3, 5].into(), [5].into()]);
    let with_residual = |v: &[Var]| {
        let output = rms_norm(&v[0], Some(&v[1]), &v[2], 1e-5, DType::F32)?;
        add(&output.y, &mul(&output.h, &output.h)?)
    };
    assert_gradients("rms_norm", with_residual, &inputs);
    let alone = |v: &[Var]| {
        let output = rms_norm(&v[0], None, &v[2], 1e-5, DType::F32)?;
        mul(&output.y, &output.h)
    };
    assert_gradients("rms_norm without residual", alone, &inputs);
    let sum_only = |v: &[Var]| Ok(rms_norm(&v[0], Some(&v[1]), &v[2], 1e-5, DType::F32)?.h);
    assert_gradients("rms_norm, the sum alone", sum_only, &inputs);
}

#[test]
fn elementwise_functions_have_the_gradients_of_their_definitions() {
    let inputs = tensors([[2, 3].into(), [2, 3].into()]);
    assert_gradients("add", |v| add(&v[0], &v[1]), &inputs);
    assert_gradients("mul", |v| mul(&v[0], &v[1]), &inputs);
    assert_gradients("silu_mul", |v| silu_mul(&v[0], &v[1]), &inputs);
    assert_gradients("silu", |v| silu(&v[0]), &inputs[..1]);
    assert_gradients("exp", |v| exp(&v[0]), &inputs[..1]);
    assert_gradients("neg_exp", |v| neg_exp(&v[0]), &inputs[..1]);
    let row = tensors([[3].into()]);
    let repeated = |v: &[Var]| broadcast_rows(&v[0], [2, 2, 3].into());
    assert_gradients("broadcast_rows", repeated, &row);
}

#[test]
fn cross_entropy_has_the_gradients_of_its_definition() {
    let targets = Tensor::from_slice([2, 3], &[0_u32, IGNORE, 4, 2, 2, IGNORE], Device::cpu());
    let targets = targets.unwrap();
    let inputs = tensors([[2, 3, 5].into()]);
    let loss = |v: &[Var]| Ok(cross_entropy(v[0].clone(), &targets)?.loss);
    assert_gradients("cross_entropy", loss, &inputs);
}

#[test]
fn causal_conv1d_has_the_gradients_of_its_definition() {
    let inputs = tensors([
        [2, 6, 3].into(),
        [3, 1, 4].into(),
        [3].into(),
        [2, 3, 3].into(),
    ]);
    let starts = Starts::from_sequence_ids(&[0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 2], 2).unwrap();
    let cases = [
        (true, false, false),
        (false, true, false),
        (true, true, true),
    ];
    for (silu, reverse, packed) in cases {
        let run = |v: &[Var]| -> Result<ConvOutput> {
            let options = ConvOptions {
                silu,
                reverse,
                starts: packed.then_some(&starts),
            };
            causal_conv1d(&v[0], &v[1], Some(&v[2]), Some(&v[3]), &options)
        };
        assert_gradients("causal_conv1d", |v| Ok(run(v)?.y), &inputs);
        assert_gradients("its final state", |v| Ok(run(v)?.final_state), &inputs);
    }
}

#[test]
fn selective_scan_has_the_gradients_of_its_definition() {
    let starts = Starts::from_sequence_ids(&[0, 0, 0, 1, 1, 0, 0, 2, 2, 2], 2).unwrap();
    let (b, l, e, n, g) = (2, 5, 4, 3, 2);
    for complex in [false, true] {
        let width = if complex { 2 * n } else { n };
        let inputs = tensors([
            [b, l, e].into(),
            [b, l, e].into(),
            [e, n].into(),
            [e, n].into(),
            [b, l, g * width].into(),
            [b, l, g * width].into(),
            [e].into(),
            [b, l, e].into(),
            [e].into(),
            [b, e, width].into(),
        ]);
        for (reverse, packed) in [(false, false), (true, false), (false, true), (true, true)] {
            let run = |v: &[Var]| -> Result<ScanOutput> {
                let a = neg_exp(&v[2])?;
                let inputs = ScanInputs {
                    u: &v[0],
                    delta: &v[1],
                    a: match complex {
                        true => A::Complex { re: &a, im: &v[3] },
                        false => A::Real(&a),
                    },
                    b: &v[4],
                    c: &v[5],
                    d: Some(&v[6]),
                    z: Some(&v[7]),
                    delta_bias: Some(&v[8]),
                    initial_state: Some(&v[9]),
                };
                let options = ScanOptions {
                    groups: g,
                    reverse,
                    starts: packed.then_some(&starts),
                    ..ScanOptions::default()
                };
                selective_scan(&inputs, &options)
            };
            let what = format!("complex {complex}, reverse {reverse}, packed {packed}");
            assert_gradients(&what, |v| Ok(run(v)?.y), &inputs);
            assert_gradients(&what, |v| Ok(run(v)?.last_state), &inputs);
        }
    }
}

#[test]
fn a_scan_of_columns_without_options_has_the_gradients_of_its_definition() {
    // Δ, B and C side by side in one row, as a projection leaves them; Δ is kept positive by squaring instead of softplus.
    let inputs = tensors([[1, 6, 2].into(), [1, 6, 8].into(), [2, 3].into()]);
    let run = |v: &[Var]| -> Result<Var> {
        let delta = v[1].columns(0..2)?;
        let inputs = ScanInputs {
            u: &v[0],
            delta: &mul(&delta, &delta)?,
            a: A::Real(&v[2]),
            b: &v[1].columns(2..5)?,
            c: &v[1].columns(5..8)?,
            d: None,
            z: None,
            delta_bias: None,
            initial_state: None,
        };
        let options = ScanOptions {
            softplus: false,
            ..ScanOptions::default()
        };
        Ok(selective_scan(&inputs, &options)?.y)
    };
    assert_gradients("scan of columns", run, &inputs);
}

#[test]
fn long_conv_has_the_gradients_of_its_definition() {
    for length in [4, 40] {
        let inputs = tensors([[2, length, 3].into(), [length, 3].into()]);
        assert_gradients("long_conv", |v| long_conv(&v[0], &v[1]), &inputs);
    }
}

#[test]
fn lti_kernel_has_the_gradients_of_its_definition() {
    let (e, n) = (3, 4);
    let inputs = tensors([
        [e].into(),
        [e, n].into(),
        [e, n].into(),
        [e, n].into(),
        [e, n].into(),
        [e, n].into(),
        [e, n].into(),
        [e].into(),
    ]);
    for complex in [false, true] {
        let run = |v: &[Var]| -> Result<Var> {
            let system = LtiSystem {
                dt: &exp(&v[0])?,
                a: &neg_exp(&v[1])?,
                a_imag: complex.then_some(&v[2]),
                b: &v[3],
                b_imag: complex.then_some(&v[4]),
                c: &v[5],
                c_imag: complex.then_some(&v[6]),
                d: Some(&v[7]),
            };
            lti_kernel(&system, 9)
        };
        assert_gradients(&format!("lti_kernel, complex {complex}"), run, &inputs);
    }
}
