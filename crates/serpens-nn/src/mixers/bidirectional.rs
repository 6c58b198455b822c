//! A mixer that reads whole sequences in both directions: for classification and tagging, where what follows a token is
//! known.

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};
use serpens_ops::elementwise::{add, scale};
use smart_default::SmartDefault;

use super::{MambaConfig, Mixer, MixerConfig, MixerSettings, MixerState};
use crate::layers::{Linear, Sequence};
use crate::ssm::SsmConfig;
use crate::{Error, Recompute, Result, module};

/// What becomes of the outputs of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Merge {
    /// Their sum.
    #[default]
    Sum,
    /// Their mean.
    Mean,
    /// A projection of both side by side to the model's width.
    Concat,
}

/// Configures a bidirectional mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct BidirectionalConfig {
    /// The mixer of each direction.
    #[default(Box::new(MambaConfig::default().into()))]
    pub of: Box<MixerConfig>,
    /// Whether both directions have the same parameters.
    pub shared: bool,
    /// How their outputs become one.
    pub merge: Merge,
}

impl MixerSettings for BidirectionalConfig {
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>> {
        if !self.of.is_causal() || !self.of.reverses() {
            let what = "a bidirectional layer is of mixers that are read in either direction: Mamba, H3 and plain ones around S6, minGRU";
            return Err(Error::Unsupported(what));
        }
        let one = || {
            let mixer = self.of.plan(d_model, output_divisor);
            mixer.map_err(|error| error.within("of"))
        };
        let part = || Linear::plan_with([d_model, d_model], false, output_divisor);
        Ok(Box::new(Bidirectional {
            forward: one()?,
            reverse: (!self.shared).then(one).transpose()?,
            projections: (self.merge == Merge::Concat).then(|| [part(), part()].into()),
            mean: self.merge == Merge::Mean,
        }))
    }

    fn ssm(&mut self) -> Option<&mut SsmConfig> {
        self.of.ssm()
    }

    fn is_causal(&self) -> bool {
        false
    }
}

#[derive(Clone, Debug)]
struct Bidirectional {
    forward: Box<dyn Mixer>,
    /// That of the other direction, where it has parameters of its own.
    reverse: Option<Box<dyn Mixer>>,
    /// Of each direction, if any: the two halves of one matrix, (d_model, d_model) each.
    projections: Option<Vec<Linear>>,
    mean: bool,
}

module!(Bidirectional { forward => "forward", reverse => "reverse", projections => "projections" });

impl Mixer for Bidirectional {
    /// None: there is nothing to go on from.
    fn initial_state(&self, _batch: usize, _device: Device) -> Result<MixerState> {
        Ok(MixerState::new())
    }

    fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        if state.is_some() {
            let what = "a bidirectional layer reads whole sequences, which cannot be gone on with";
            return Err(Error::Unsupported(what));
        }
        let turned = Sequence {
            reverse: !sequence.reverse,
            ..*sequence
        };
        let reverse = self.reverse.as_ref().unwrap_or(&self.forward);
        let mut both = [
            self.forward.forward(x, sequence, None)?,
            reverse.forward(x, &turned, None)?,
        ];
        if let Some(projections) = &self.projections {
            for (y, projection) in both.iter_mut().zip(projections) {
                *y = projection.forward(y)?;
            }
        }
        let sum = add(&both[0], &both[1])?;
        match self.mean {
            true => Ok(scale(&sum, 0.5)?),
            false => Ok(sum),
        }
    }

    fn kept_per_token(&self, recompute: Recompute) -> usize {
        let reverse = self.reverse.as_ref().unwrap_or(&self.forward);
        let both = [&self.forward, reverse];
        both.iter().map(|one| one.kept_per_token(recompute)).sum()
    }
}
