//! S6: the selective state space model.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Tensor, Var};
use serpens_ops::elementwise::{broadcast_rows, cast, neg_exp};
use serpens_ops::selective_scan::{ScanOperands, ScanOptions, selective_scan};
use serpens_ops::simd;
use smart_default::SmartDefault;

use super::diagonal::{AInit, plan_a, zero_state};
use super::{SelectiveStep, Ssm, SsmSettings};
use crate::layers::{Linear, RmsNorm, Sequence, Trace};
use crate::setting::check;
use crate::{Error, Param, Result, Start, StepSize, module};

/// The rank R of the projection that makes Δ from the token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "a number or \"auto\"")]
pub enum DtRank {
    /// ceil(d_model / 16).
    #[default]
    Auto,
    /// This rank; 0 makes Δ independent of the token.
    #[serde(untagged)]
    Fixed(usize),
}

/// Configures a [`SelectiveSsm`]. The defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct SelectiveSsmConfig {
    /// State size N.
    #[default = 16]
    pub d_state: usize,
    /// Rank R of the projection of Δ.
    pub dt_rank: DtRank,
    /// Initial step sizes.
    pub dt: StepSize,
    /// Initial A.
    pub a_init: AInit,
    /// Whether Δ depends on the token.
    #[default = true]
    pub selective_dt: bool,
    /// Whether B does.
    #[default = true]
    pub selective_b: bool,
    /// Whether C does.
    #[default = true]
    pub selective_c: bool,
    /// Whether inputs are exact for tokens that stay between two positions, as in gated recurrences, and A is real;
    /// otherwise they are by Euler's rule, as in every published model.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub zero_order_hold: bool,
    /// eps of RMS norms without weights on δ, B and C where they depend on the token, as in FalconMamba; no norms
    /// without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dt_b_c_rms_eps: Option<f32>,
}

impl SsmSettings for SelectiveSsmConfig {
    fn name(&self) -> &'static str {
        "S6"
    }

    /// W_Δ starts uniform in ±R^-1/2, its bias so that softplus gives the wanted step sizes.
    fn plan(&self, d_model: usize, d_inner: usize) -> Result<Box<dyn Ssm>> {
        self.dt.check()?;
        if let Some(eps) = self.dt_b_c_rms_eps {
            check("dt_b_c_rms_eps", eps.into(), 0.0..=1.0)?;
        }
        let shape = [d_inner, self.d_state];
        let (a_log, a_imag) = plan_a(shape, self.a_init, Param::without_decay)?;
        if self.zero_order_hold && a_imag.is_some() {
            let what = "zero_order_hold is for a real A, but a_init is complex";
            return Err(Error::Unsupported(what));
        }
        let width = if a_imag.is_some() { 2 } else { 1 } * self.d_state;
        let rank = match self.dt_rank {
            _ if !self.selective_dt => 0,
            DtRank::Auto => d_model.div_ceil(16),
            DtRank::Fixed(rank) => rank,
        };
        let constant =
            |selective: bool| (!selective).then(|| Param::new([width], Start::Normal { std: 1.0 }));
        let (b, c) = (constant(self.selective_b), constant(self.selective_c));
        let selected = usize::from(b.is_none()) + usize::from(c.is_none());
        let projected = rank.saturating_add(width * selected);
        let bound = (rank.max(1) as f32).sqrt().recip();
        let dt = Param::new([d_inner, rank], Start::Uniform { bound }).as_matrix();
        let norm = |width| {
            self.dt_b_c_rms_eps
                .map(|eps| RmsNorm::weightless(width, eps))
        };
        Ok(Box::new(SelectiveSsm {
            x_proj: (projected > 0).then(|| Linear::plan(d_inner, projected)),
            dt: (rank > 0).then_some(dt),
            dt_norm: norm(rank).filter(|_| rank > 0),
            dt_bias: Param::new([d_inner], Start::StepBias(self.dt)).without_decay(),
            a_log,
            a_imag,
            d: Param::new([d_inner], Start::Constant(1.0)).without_decay(),
            b_norm: norm(width).filter(|_| b.is_none()),
            c_norm: norm(width).filter(|_| c.is_none()),
            b,
            c,
            rank,
            width,
            zero_order_hold: self.zero_order_hold,
        }))
    }
}

/// B_t = W_B x_t, C_t = W_C x_t, Δ_t = softplus(W_Δ W_δ x_t + b_Δ);
/// h_t = exp(Δ_t A) ⊙ h_(t-1) + Δ_t B_t x_t, y_t = C_t h_t + D ⊙ x_t; under zero-order hold (exp(Δ_t A) - 1) / A stands
/// for the second Δ_t. Any of Δ, B and C may be made constant in time; W_δ x_t, B_t and C_t may be normalised first.
#[derive(Clone, Debug)]
pub struct SelectiveSsm {
    x_proj: Option<Linear>, // W_δ, W_B and W_C over each other: (rank + 2 N, d_inner)
    dt: Option<Param>,      // W_Δ: (d_inner, rank)
    dt_norm: Option<RmsNorm>,
    b_norm: Option<RmsNorm>,
    c_norm: Option<RmsNorm>,
    dt_bias: Param,        // (d_inner), goes into the scan, which applies softplus
    a_log: Param,          // (d_inner, N): A = -exp(A_log)
    a_imag: Option<Param>, // (d_inner, N)
    d: Param,              // (d_inner)
    b: Option<Param>,      // (N) where B is constant
    c: Option<Param>,      // (N) where C is constant
    rank: usize,
    width: usize, // of B and of C: N, or 2 N where A is complex
    zero_order_hold: bool,
}

module!(SelectiveSsm {
    x_proj => "x_proj",
    dt => "dt_proj.weight",
    dt_norm => "dt_norm",
    b_norm => "b_norm",
    c_norm => "c_norm",
    dt_bias => "dt_proj.bias",
    a_log => "A_log",
    a_imag => "A_imag",
    d => "D",
    b => "B",
    c => "C",
});

impl Ssm for SelectiveSsm {
    fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        zero_state(&self.a_log, self.a_imag.is_some(), batch, device)
    }

    fn forward(
        &self,
        x: &Var,
        gate: Option<&Var>,
        sequence: &Sequence<'_>,
        state: Option<&mut Var>,
    ) -> Result<Var> {
        let projected = self.x_proj.as_ref().map(|proj| proj.forward(x));
        let projected = projected.transpose()?;
        let delta = self.delta(x, projected.as_ref())?;
        let mut next = self.rank;
        let mut operand = |constant: &Option<Param>, norm: &Option<RmsNorm>| -> Result<Var> {
            match (constant, &projected) {
                (None, Some(projected)) => {
                    next += self.width;
                    selected(projected, next - self.width..next, norm)
                }
                (Some(param), _) => {
                    let shape = x.shape().with_cols(self.width);
                    let rows = broadcast_rows(&param.var()?.on(x), shape)?;
                    Ok(cast(&rows, x.dtype())?)
                }
                (None, None) => unreachable!("x_proj exists where B or C is selective"),
            }
        };
        let b = operand(&self.b, &self.b_norm)?;
        let c = operand(&self.c, &self.c_norm)?;
        let a = neg_exp(&self.a_log.var()?.on(x))?;
        let a_imag = self.a_imag.as_ref().map(Param::var).transpose()?;
        let (d, bias) = (self.d.var()?, self.dt_bias.var()?);
        sequence.tell(|| {
            let a_log = self.a_log.value()?.as_slice::<f32>()?;
            let a = a_log.iter().map(|log| -log.exp()).collect();
            trace(&delta, &self.dt_bias, a)
        })?;
        let output = selective_scan(
            &ScanOperands {
                u: x,
                delta: &delta,
                a: &a,
                a_im: a_imag.as_ref(),
                b: &b,
                c: &c,
                d: Some(&d),
                z: gate,
                delta_bias: Some(&bias),
                initial_state: state.as_deref(),
            },
            &ScanOptions {
                zero_order_hold: self.zero_order_hold,
                reverse: sequence.reverse,
                starts: sequence.starts,
                ..ScanOptions::default()
            },
        )?;
        if let Some(state) = state {
            *state = output.last_state;
        }
        Ok(output.y)
    }

    fn selective_step(&self) -> Result<Option<SelectiveStep>> {
        let (Some(x_proj), Some(dt)) = (&self.x_proj, &self.dt) else {
            return Ok(None);
        };
        if self.a_imag.is_some() || self.b.is_some() || self.c.is_some() {
            return Ok(None);
        }
        Ok(Some(SelectiveStep {
            x_proj: x_proj.clone(),
            dt: dt.clone(),
            norms: [&self.dt_norm, &self.b_norm, &self.c_norm].map(Clone::clone),
            dt_bias: self.dt_bias.clone(),
            a: neg_exp(&self.a_log.value()?.clone().into())?.into_tensor()?,
            d: self.d.clone(),
            zero_order_hold: self.zero_order_hold,
        }))
    }
}

impl SelectiveSsm {
    /// Δ before its bias and softplus: (batch, length, d_inner).
    fn delta(&self, x: &Var, projected: Option<&Var>) -> Result<Var> {
        match (&self.dt, projected) {
            (Some(weight), Some(projected)) => {
                let rank = selected(projected, 0..self.rank, &self.dt_norm)?;
                weight.linear(&rank, None)
            }
            _ => Ok(Tensor::zeros(x.shape(), x.dtype(), x.device())?.into()),
        }
    }
}

/// What step sizes softplus(delta + bias) do with the Re A of every channel, row by row.
pub(super) fn trace(delta: &Var, bias: &Param, a: Vec<f32>) -> Result<Trace> {
    let bias = bias.value()?.as_slice::<f32>()?;
    let mat = delta.mat()?;
    let row = |i| mat.row(i).iter().zip(bias).map(|(raw, bias)| raw + bias);
    let steps: Vec<f32> = (0..mat.rows()).flat_map(row).collect();
    let mut delta = vec![0.0; steps.len()];
    simd::map(Softplus, &steps, &mut delta);
    Ok(Trace::Selection(SelectionTrace {
        delta,
        channels: bias.len(),
        d_state: a.len() / bias.len(),
        a,
    }))
}

/// One of the vectors that x_proj makes of each token, normalised where there is a norm for it.
fn selected(projected: &Var, columns: Range<usize>, norm: &Option<RmsNorm>) -> Result<Var> {
    let vector = projected.columns(columns)?;
    match norm {
        Some(norm) => Ok(norm.forward(&vector, None, vector.dtype())?.y),
        None => Ok(vector),
    }
}

#[derive(Clone, Copy)]
struct Softplus;

impl simd::Elementwise for Softplus {
    #[inline(always)]
    fn apply<S: simd::Simd>(self, s: S, x: S::f32s) -> S::f32s {
        simd::softplus(s, x).0
    }
}

/// What a selective layer did with each token of a batch.
#[derive(Clone, Debug)]
pub struct SelectionTrace {
    /// Step sizes Δ after softplus: (batch · length, channels).
    pub delta: Vec<f32>,
    /// Re A: (channels, N).
    pub a: Vec<f32>,
    /// Number of channels.
    pub channels: usize,
    /// State size N.
    pub d_state: usize,
}
