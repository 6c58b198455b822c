//! Losses of a program's own from elementary operations: their values against formulas in f64, their gradients against
//! finite differences.

use serpens_core::{Device, GradCheckOptions, Result, Shape, Tensor, Var, gradcheck};
use serpens_ops::elementwise::{
    add, broadcast_rows, dropout, exp, log, mul, scale, sigmoid, sub, tanh,
};
use serpens_ops::linear::{ProductPrecision, linear};
use serpens_ops::reduce::{mean, mean_last, mean_squared_error, sum, sum_last};
use serpens_ops::softmax::{log_softmax, softmax};

const ROWS: usize = 4;
const COLS: usize = 5;

/// Values in [-1, 1) that are far from regular.
fn values(seed: f64, count: usize) -> Vec<f64> {
    let value = |i| (((i as f64 + seed) * 78.233).sin() * 43_758.545_3).rem_euclid(2.0) - 1.0;
    (0..count).map(value).collect()
}

fn tensor(shape: impl Into<Shape>, values: &[f64]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    Tensor::from_slice(shape, &values, Device::cpu()).unwrap()
}

/// Holds a loss against its formula, and its gradients against finite differences.
fn check(what: &str, loss: impl Fn(&[Var]) -> Result<Var>, inputs: &[Tensor], expected: f64) {
    let untracked: Vec<Var> = inputs.iter().cloned().map(Var::from).collect();
    let value = loss(&untracked).unwrap().into_tensor().unwrap();
    let value = f64::from(value.to_vec::<f32>().unwrap()[0]);
    let error = (value - expected).abs() / (1.0 + expected.abs());
    assert!(error < 1e-6, "{what}: {value} is not {expected}");
    let gradients = gradcheck(loss, inputs, GradCheckOptions::default()).unwrap();
    assert!(gradients.ok, "{what}: {gradients:?}");
}

/// ln of the softmax of a row.
fn log_probabilities(row: &[f64]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|x| x.exp()).sum();
    row.iter().map(|x| x - sum.ln()).collect()
}

#[test]
fn a_student_learns_from_its_teacher_at_a_temperature() {
    const WARMTH: f64 = 2.0;
    let (student, teacher) = (values(1.0, ROWS * COLS), values(2.0, ROWS * COLS));
    // WARMTH² · mean over rows of Σ_c p_c (ln p_c − ln q_c)
    let loss = |v: &[Var]| {
        let cooled = |x: &Var| scale(x, 1.0 / WARMTH as f32);
        let (teacher, student) = (cooled(&v[1])?, cooled(&v[0])?);
        let apart = sub(&log_softmax(&teacher)?, &log_softmax(&student)?)?;
        let rows = sum_last(&mul(&softmax(&teacher)?, &apart)?)?;
        scale(&mean(&rows)?, (WARMTH * WARMTH) as f32)
    };
    let rows = student.chunks(COLS).zip(teacher.chunks(COLS));
    let divergences = rows.map(|(student, teacher)| {
        let cooled = |row: &[f64]| row.iter().map(|x| x / WARMTH).collect::<Vec<_>>();
        let (q, p) = (
            log_probabilities(&cooled(student)),
            log_probabilities(&cooled(teacher)),
        );
        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    });
    let expected = WARMTH * WARMTH * divergences.sum::<f64>() / ROWS as f64;
    let shape = [ROWS, COLS];
    let inputs = [tensor(shape, &student), tensor(shape, &teacher)];
    check("distillation", loss, &inputs, expected);
}

#[test]
fn a_binary_classifier_with_weights_and_a_focus() {
    let (x, weight) = (values(3.0, ROWS * COLS), values(4.0, COLS));
    // −mean of w_c (1 − p)² ln p
    let loss = |v: &[Var]| {
        let p = sigmoid(&v[0])?;
        let miss = sigmoid(&scale(&v[0], -1.0)?)?;
        let focus = mul(&mul(&miss, &miss)?, &log(&p)?)?;
        let weights = broadcast_rows(&v[1], focus.shape())?;
        scale(&mean(&mul(&weights, &focus)?)?, -1.0)
    };
    let terms = x.iter().enumerate().map(|(i, x)| {
        let p = 1.0 / (1.0 + (-x).exp());
        -weight[i % COLS] * (1.0 - p).powi(2) * p.ln()
    });
    let expected = terms.sum::<f64>() / (ROWS * COLS) as f64;
    let inputs = [tensor([ROWS, COLS], &x), tensor([COLS], &weight)];
    check("focal loss", loss, &inputs, expected);
}

#[test]
fn a_variational_bound_of_means_and_logarithms_of_variances() {
    let (means, logs) = (values(5.0, ROWS * COLS), values(6.0, ROWS * COLS));
    // ½ Σ (m² + e^l − l − 1)
    let loss = |v: &[Var]| {
        let spread = sub(&exp(&v[1])?, &v[1])?;
        let all = sum(&add(&mul(&v[0], &v[0])?, &spread)?)?;
        let ones = Var::from(Tensor::full(1, (ROWS * COLS) as f32, Device::cpu())?);
        scale(&sub(&all, &ones)?, 0.5)
    };
    let terms = means.iter().zip(&logs);
    let expected = terms.map(|(m, l)| 0.5 * (m * m + l.exp() - l - 1.0)).sum();
    let inputs = [&means, &logs].map(|values| tensor([ROWS, COLS], values));
    check("variational bound", loss, &inputs, expected);
}

#[test]
fn a_network_with_dropout_learns_the_means_of_its_inputs() {
    let (x, weight) = (values(7.0, ROWS * COLS), values(8.0, COLS * COLS));
    let network = |v: &[Var], seed| {
        let hidden = tanh(&linear(&v[0], &v[1], None, ProductPrecision::Full)?)?;
        let estimate = mean_last(&dropout(&hidden, 0.25, seed)?)?;
        mean_squared_error(&estimate, &mean_last(&v[0])?)
    };
    let row = |row: &[f64]| {
        let hidden = weight.chunks(COLS).map(|w| {
            let sum: f64 = w.iter().zip(row).map(|(w, x)| w * x).sum();
            sum.tanh()
        });
        let difference = (hidden.sum::<f64>() - row.iter().sum::<f64>()) / COLS as f64;
        difference * difference
    };
    let expected = x.chunks(COLS).map(row).sum::<f64>() / ROWS as f64;
    let inputs = [tensor([ROWS, COLS], &x), tensor([COLS, COLS], &weight)];
    check("evaluation", |v| network(v, None), &inputs, expected);
    // While training the mask is a function of the seed, so that differences see the same one.
    let trained = gradcheck(
        |v| network(v, Some(3)),
        &inputs,
        GradCheckOptions::default(),
    );
    assert!(trained.unwrap().ok);
}
