//! A gated recurrence as a selective scan.

use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::elementwise::cast;
use serpens_ops::selective_scan::{ScanOperands, ScanOptions, selective_scan};

use super::selective::trace;
use super::{Ssm, SsmSettings};
use crate::layers::Sequence;
use crate::{Param, Result, Start, StepSize, module};

/// Configures a [`GatedRecurrence`] by the step sizes of which its gates start.
pub(crate) struct GateStart(pub(crate) StepSize);

impl SsmSettings for GateStart {
    fn name(&self) -> &'static str {
        "gated recurrence"
    }

    fn plan(&self, _d_model: usize, d_inner: usize) -> Result<Box<dyn Ssm>> {
        let bias = Param::new([d_inner], Start::StepBias(self.0)).without_decay();
        Ok(Box::new(GatedRecurrence { bias }))
    }
}

/// h_t = (1 - g_t) ⊙ h_(t-1) + g_t ⊙ x_t with g = σ(w + b), of (x, w) beside each other. It is the scan under zero-order
/// hold with one number as state, A = -1, B = C = 1 and Δ = softplus(w + b), as exp(-Δ) is 1 - g then: theorem 1 of
/// arXiv 2312.00752.
#[derive(Clone, Debug)]
struct GatedRecurrence {
    bias: Param, // (d_inner)
}

module!(GatedRecurrence { bias => "gate.bias" });

impl Ssm for GatedRecurrence {
    fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        Ok(Tensor::zeros([batch, self.bias.count(), 1], DType::F32, device)?.into())
    }

    fn forward(
        &self,
        x: &Var,
        gate: Option<&Var>,
        sequence: &Sequence<'_>,
        state: Option<&mut Var>,
    ) -> Result<Var> {
        let (d_inner, device) = (self.bias.count(), x.device());
        let (u, delta) = (x.columns(0..d_inner)?, x.columns(d_inner..2 * d_inner)?);
        let constant =
            |shape, value: f32| Ok::<Var, crate::Error>(Tensor::full(shape, value, device)?.into());
        let a = constant([d_inner, 1].into(), -1.0)?;
        let ones = cast(&constant(x.shape().with_cols(1), 1.0)?, x.dtype())?;
        sequence.tell(|| trace(&delta, &self.bias, vec![-1.0; d_inner]))?;
        let output = selective_scan(
            &ScanOperands {
                u: &u,
                delta: &delta,
                a: &a,
                a_im: None,
                b: &ones,
                c: &ones,
                d: None,
                z: gate,
                delta_bias: Some(&self.bias.var()?),
                initial_state: state.as_deref(),
            },
            &ScanOptions {
                zero_order_hold: true,
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
}
