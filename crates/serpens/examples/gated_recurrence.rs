//! S6 with one number as state beside the gated recurrence that it is under zero-order hold, and by Euler's rule, which
//! only resembles it: the picture of docs/gated-recurrence.md.
//!
//! `cargo run --release -p serpens --example gated_recurrence -- docs/images/gated-recurrence.svg`

use std::error::Error;

use serpens::core::{Device, Tensor};
use serpens::nn::layers::Sequence;
use serpens::nn::ssm::{DtRank, SelectiveSsmConfig, SsmSettings};
use serpens::nn::{Module, Result as NnResult};
use serpens_report::{Form, LineChart, Series};

/// The gate before the logistic function is SLOPE · x + BIAS: it opens for large inputs.
const SLOPE: f32 = 4.0;
const BIAS: f32 = -4.0;

fn main() -> Result<(), Box<dyn Error>> {
    let x: Vec<f32> = (0..64).map(input).collect();
    let gated = gated_recurrence(&x);
    let [held, euler] = [s6(&x, true)?, s6(&x, false)?];
    let far = |y: &[f64]| {
        let differences = y.iter().zip(&gated).map(|(y, h)| (y - h).abs());
        differences.fold(0.0, f64::max)
    };
    println!(
        "largest difference from the gated recurrence: {:.1e} under zero-order hold, {:.2} by Euler's rule",
        far(&held),
        far(&euler)
    );
    let Some(path) = std::env::args().nth(1) else {
        return Ok(());
    };
    let series = |name: &str, values: &[f64]| {
        let points = values.iter().enumerate();
        Series {
            name: name.to_owned(),
            points: points.map(|(t, y)| (t as f64, *y)).collect(),
            ..Series::default()
        }
    };
    let inputs: Vec<f64> = x.iter().copied().map(f64::from).collect();
    let chart = LineChart {
        title: "S6 with one number as state is a gated recurrence".to_owned(),
        x_label: "token".to_owned(),
        y_label: "value".to_owned(),
        series: vec![
            series("input x", &inputs),
            series("gated recurrence h", &gated),
            series("S6, zero-order hold", &held),
            series("S6, Euler's rule", &euler),
        ],
        caption: "The gate opens for large inputs: what comes then stays, ripples between are passed by. Under zero-order hold S6 lies on the \
            recurrence; Euler's rule takes in more than it forgets, and goes beyond."
            .to_owned(),
        ..LineChart::default()
    };
    Ok(std::fs::write(path, chart.to_svg(Form::Page))?)
}

/// Ripples, and now and then a level that is to be kept.
fn input(t: usize) -> f32 {
    let ripple = 0.25 * (t as f32 * 2.1).sin();
    match t {
        6 => 1.0,
        20 | 21 => 1.3,
        38 => 0.8,
        50 | 51 => 1.2,
        _ => ripple,
    }
}

/// h_t = (1 - g_t) h_(t-1) + g_t x_t with g_t = σ(SLOPE x_t + BIAS), in f64.
fn gated_recurrence(x: &[f32]) -> Vec<f64> {
    let mut h = 0.0;
    let next = |x: &f32| {
        let w = f64::from(SLOPE) * f64::from(*x) + f64::from(BIAS);
        let g = 1.0 / (1.0 + (-w).exp());
        h = (1.0 - g) * h + g * f64::from(*x);
        h
    };
    x.iter().map(next).collect()
}

/// S6 over one channel with N = 1, A = -1, B = C = 1, D = 0 and Δ = softplus(SLOPE x + BIAS).
fn s6(x: &[f32], zero_order_hold: bool) -> NnResult<Vec<f64>> {
    let config = SelectiveSsmConfig {
        d_state: 1, // its A starts at -1
        dt_rank: DtRank::Fixed(1),
        selective_b: false,
        selective_c: false,
        zero_order_hold,
        ..SelectiveSsmConfig::default()
    };
    let mut layer = config.plan(1, 1)?;
    layer.fill(Device::cpu(), 0)?;
    layer.visit_mut("", &mut |name, param| {
        let value = match name {
            "x_proj.weight" => SLOPE,
            "dt_proj.bias" => BIAS,
            "dt_proj.weight" | "B" | "C" => 1.0,
            "D" => 0.0,
            _ => return Ok(()),
        };
        param.set(Tensor::full(param.shape(), value, Device::cpu())?)
    })?;
    let x = Tensor::from_slice([1, x.len(), 1], x, Device::cpu())?; // (batch, length, channels)
    let y = layer.forward(&x.into(), None, &Sequence::default(), None)?;
    let y = y.into_tensor()?.to_vec::<f32>()?;
    Ok(y.into_iter().map(f64::from).collect())
}
