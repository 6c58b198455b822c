//! The skeleton of mixers around a state space model: a projection in, a convolution, the model, a gate, a projection
//! out.

use serpens_core::{Device, Var};
use serpens_ops::elementwise::{mul, silu};

use super::each::each_sequence;
use super::fused::FusedMamba;
use super::{Mixer, MixerState, Stepper};
use crate::layers::{CausalConv1d, Linear, Sequence};
use crate::lora::is_adapted;
use crate::setting::{SIZE, check};
use crate::ssm::{Ssm, SsmSettings};
use crate::{Error, Module, Recompute, Result, module};

/// What a kind of mixer makes of the skeleton. The projection in gives `inputs` vectors of the inner width for each
/// token; the others are told by their numbers among these.
#[derive(Debug)]
pub(super) struct Form {
    /// The projection's name in checkpoints.
    pub(super) in_proj: &'static str,
    /// The convolution's.
    pub(super) conv: &'static str,
    /// Whether that ends in SiLU.
    pub(super) silu: bool,
    pub(super) inputs: usize,
    /// What is convolved: from this input up to that.
    pub(super) x: [usize; 2],
    /// What the state space model's input is multiplied with after that.
    pub(super) factor: Option<usize>,
    pub(super) gate: Gate,
}

/// What becomes of the state space model's output y.
#[derive(Debug)]
pub(super) enum Gate {
    /// y ⊙ silu(z), with this input as z.
    SiluOf(usize),
    /// y ⊙ q, with this input as q.
    Product(usize),
    /// silu(y).
    SiluOfOutput,
    /// y.
    None,
}

impl Form {
    /// The mixer of this form for a model's width and the inner width over it, with a convolution of this width that
    /// has a bias or not.
    pub(super) fn plan(
        &'static self,
        [d_model, expand]: [usize; 2],
        conv: Option<(usize, bool)>,
        ssm: &dyn SsmSettings,
        proj_bias: bool,
        output_divisor: f32,
    ) -> Result<Box<dyn Mixer>> {
        check("d_model", d_model as f64, SIZE)?;
        check("expand", expand as f64, SIZE)?;
        // What exceeds the address space is told when memory is asked for.
        let d_inner = d_model.saturating_mul(expand);
        let conv = conv.map(|(width, bias)| CausalConv1d::plan([d_inner, width], bias, self.silu));
        let ssm = ssm.plan(d_model, d_inner);
        let inputs = d_inner.saturating_mul(self.inputs);
        Ok(Box::new(Gated {
            in_proj: Linear::plan_with([d_model, inputs], proj_bias, 1.0),
            conv: conv.transpose()?,
            ssm: ssm.map_err(|error| error.within("inner"))?,
            out_proj: Linear::plan_with([d_inner, d_model], proj_bias, output_divisor),
            form: self,
            d_inner,
        }))
    }
}

#[derive(Clone, Debug)]
struct Gated {
    in_proj: Linear, // (inputs · d_inner, d_model)
    conv: Option<CausalConv1d>,
    ssm: Box<dyn Ssm>,
    out_proj: Linear, // (d_model, d_inner)
    form: &'static Form,
    d_inner: usize,
}

module!(Gated as gated {
    in_proj => gated.form.in_proj,
    conv => gated.form.conv,
    ssm => "",
    out_proj => "out_proj",
});

impl Mixer for Gated {
    /// Zeros: the last inputs of the convolution, and the state of the state space model.
    fn initial_state(&self, batch: usize, device: Device) -> Result<MixerState> {
        let conv = self.conv.as_ref();
        let conv = conv.map(|conv| conv.initial_state(batch, device));
        let ssm = self.ssm.initial_state(batch, device);
        conv.into_iter().chain([ssm]).collect()
    }

    fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        let inputs = self.in_proj.forward(x)?; // (batch, length, inputs · d_inner)
        let y = match sequence.recompute {
            Recompute::Scan if state.is_none() && sequence.trace.is_none() => {
                let mixer = self.handle()?;
                let [y] = sequence.read_twice("mixer", &[&inputs], move |inputs, sequence| {
                    Ok([mixer.mix(&inputs[0], sequence, None)?])
                })?;
                y
            }
            _ => each_sequence(&inputs, sequence, state, |inputs, sequence, state| {
                self.mix(inputs, sequence, state)
            })?,
        };
        self.out_proj.forward(&y)
    }

    fn kept_per_token(&self, recompute: Recompute) -> usize {
        match recompute {
            Recompute::Layer => 0,
            Recompute::None | Recompute::Scan => self.form.inputs.saturating_mul(self.d_inner),
        }
    }

    fn fused(&self) -> Result<Option<Box<dyn Stepper>>> {
        let adapted = is_adapted(self)?;
        let form = self.form;
        let is_mamba = matches!(form.gate, Gate::SiluOf(1))
            && (form.inputs, form.x, form.factor) == (2, [0, 1], None);
        let (Some(conv), Some(ssm)) = (&self.conv, self.ssm.selective_step()?) else {
            return Ok(None);
        };
        let on_cpu = self.in_proj.weight.device() == Device::Cpu;
        if !is_mamba || adapted || !(on_cpu || ssm.is_plain()) {
            return Ok(None);
        }
        Ok(Some(Box::new(FusedMamba {
            in_proj: self.in_proj.clone(),
            conv: conv.clone(),
            ssm,
            out_proj: self.out_proj.clone(),
            d_inner: self.d_inner,
        })))
    }
}

impl Gated {
    /// What lies between the two projections.
    ///
    /// # Shapes
    /// (batch, length, inputs · d_inner) → (batch, length, d_inner)
    fn mix(
        &self,
        inputs: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        let [conv_state, ssm_state] = self.split(state)?;
        let part = |[from, to]: [usize; 2]| match to - from == self.form.inputs {
            true => Ok(inputs.clone()),
            false => inputs.columns(from * self.d_inner..to * self.d_inner),
        };
        let input = |i: usize| part([i, i + 1]);
        let mut x = part(self.form.x)?;
        if let Some(conv) = &self.conv {
            x = conv.forward(&x, sequence, conv_state)?;
        }
        if let Some(factor) = self.form.factor {
            x = mul(&x, &input(factor)?)?;
        }
        let ssm = |z: Option<Var>| self.ssm.forward(&x, z.as_ref(), sequence, ssm_state);
        match self.form.gate {
            Gate::SiluOf(z) => ssm(Some(input(z)?)),
            Gate::Product(q) => Ok(mul(&ssm(None)?, &input(q)?)?),
            Gate::SiluOfOutput => Ok(silu(&ssm(None)?)?),
            Gate::None => ssm(None),
        }
    }

    /// The tensors of a state: the convolution's and the state space model's.
    fn split<'s>(&self, state: Option<&'s mut MixerState>) -> Result<[Option<&'s mut Var>; 2]> {
        match (state.map(Vec::as_mut_slice), &self.conv) {
            (None, _) => Ok([None, None]),
            (Some([conv, ssm]), Some(_)) => Ok([Some(conv), Some(ssm)]),
            (Some([ssm]), None) => Ok([None, Some(ssm)]),
            (Some(other), conv) => Err(Error::state(
                "tensors",
                1 + usize::from(conv.is_some()),
                other.len(),
            )),
        }
    }
}
