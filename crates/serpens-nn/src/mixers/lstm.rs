//! An LSTM between two projections: gates = W_in u + b, y = W_out lstm(gates). On the processor.

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::lstm::lstm;
use smart_default::SmartDefault;

use super::each::each_sequence;
use super::{Mixer, MixerSettings, MixerState};
use crate::layers::{Linear, Sequence};
use crate::setting::{SIZE, check};
use crate::{Error, Param, Recompute, Result, Start, module};

/// Configures an LSTM. See [`serpens_ops::lstm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct LstmConfig {
    /// Inner width over model width.
    #[default = 1]
    pub expand: usize,
}

impl MixerSettings for LstmConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        check("d_model", d_model as f64, SIZE)?;
        check("expand", self.expand as f64, SIZE)?;
        let width = d_model.saturating_mul(self.expand);
        let gates = width.saturating_mul(4);
        let bound = (width as f32).sqrt().recip();
        Ok(Box::new(Lstm {
            in_proj: Linear::plan_with([d_model, gates], true, 1.0),
            recurrence: Param::new([gates, width], Start::Uniform { bound }),
            out_proj: Linear::plan_with([width, d_model], false, output_divisor),
        }))
    }

    fn reverses(&self) -> bool {
        false
    }

    fn on_gpu(&self) -> bool {
        false
    }
}

#[derive(Clone, Debug)]
struct Lstm {
    in_proj: Linear,   // (4 · width, d_model)
    recurrence: Param, // (4 · width, width)
    out_proj: Linear,  // (d_model, width)
}

module!(Lstm { in_proj => "in_proj", recurrence => "recurrence", out_proj => "out_proj" });

impl Mixer for Lstm {
    /// h and c, each (batch, width).
    fn initial_state(&self, batch: usize, device: Device) -> Result<MixerState> {
        let width = self.recurrence.shape().cols();
        let zeros = || Tensor::zeros([batch, width], DType::F32, device);
        Ok(vec![zeros()?.into(), zeros()?.into()])
    }

    fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        if sequence.reverse {
            return Err(Error::Unsupported("an LSTM is not read in reverse"));
        }
        let gates = self.in_proj.forward(x)?;
        let y = each_sequence(&gates, sequence, state, |gates, sequence, state| {
            self.recur(gates, sequence, state)
        })?;
        self.out_proj.forward(&y)
    }

    fn kept_per_token(&self, recompute: Recompute) -> usize {
        match recompute {
            Recompute::Layer => 0,
            Recompute::None | Recompute::Scan => 2 * self.recurrence.shape().rows(),
        }
    }
}

impl Lstm {
    fn recur(
        &self,
        gates: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        let recurrence = self.recurrence.var()?;
        let Some(state) = state else {
            return Ok(lstm(gates, &recurrence, [None, None], sequence.starts)?.y);
        };
        let found = state.len();
        let [h, c] = &mut state[..] else {
            return Err(Error::state("tensors", 2, found));
        };
        let output = lstm(gates, &recurrence, [Some(h), Some(c)], sequence.starts)?;
        (*h, *c) = (output.h, output.c);
        Ok(output.y)
    }
}
