//! Mixers: what stands between two normalisations of a model. This file lists their kinds; nothing else asks which
//! one it has, but for Hugging Face's configuration, which has words for Mamba alone.

mod attention;
mod bidirectional;
mod each;
mod fused;
mod gated;
mod gau;
mod h3;
mod heads;
mod lstm;
mod mamba;
mod min_gru;
mod mlp;
mod plain;
mod pooled;
mod step;
mod trace;

use std::fmt::Debug;

use dyn_clone::DynClone;
use enum_dispatch::enum_dispatch;
use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};

pub use attention::AttentionConfig;
pub use bidirectional::{BidirectionalConfig, Merge};
pub(crate) use fused::aligned;
pub use gau::GauConfig;
pub use h3::H3Config;
pub use lstm::LstmConfig;
pub use mamba::MambaConfig;
pub use min_gru::MinGruConfig;
pub use mlp::{Activation, MlpConfig};
pub use plain::PlainConfig;
pub use pooled::PooledConfig;
pub(crate) use pooled::least_multiple;
pub use step::Stepper;
pub use trace::AttentionTrace;

use self::step::Whole;
use crate::layers::Sequence;
use crate::ssm::SsmConfig;
use crate::{Module, Recompute, Result};

/// A mixer and its sizes.
#[enum_dispatch(MixerSettings)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    expecting = "a table with a kind, as { kind = … }"
)]
pub enum MixerConfig {
    /// Mamba: a convolution and a state space model, gated.
    Mamba(MambaConfig),
    /// H3: a shift and a state space model between multiplicative gates.
    H3(H3Config),
    /// A state space model without gate and convolution.
    Plain(PlainConfig),
    /// A feed-forward network of each token by itself.
    Mlp(MlpConfig),
    /// A minimal gated recurrence.
    MinGru(MinGruConfig),
    /// Causal attention of several heads.
    Attention(AttentionConfig),
    /// A gated attention unit.
    Gau(GauConfig),
    /// An LSTM, on the processor.
    Lstm(LstmConfig),
    /// A stage of layers over fewer and wider steps.
    Pooled(PooledConfig),
    /// A mixer that reads whole sequences in both directions, which no language model may.
    Bidirectional(BidirectionalConfig),
}

impl MixerConfig {
    /// Every kind that a language model may have, with its defaults.
    pub fn all() -> [Self; 9] {
        [
            MambaConfig::default().into(),
            H3Config::default().into(),
            PlainConfig::default().into(),
            MlpConfig::default().into(),
            MinGruConfig::default().into(),
            AttentionConfig::default().into(),
            GauConfig::default().into(),
            LstmConfig::default().into(),
            PooledConfig::default().into(),
        ]
    }

    /// The letter that stands for it in a pattern of layers, and what it is called.
    pub fn kind(&self) -> (char, &'static str) {
        match self {
            Self::Mamba(_) => ('M', "mamba"),
            Self::H3(_) => ('H', "h3"),
            Self::Plain(_) => ('P', "plain"),
            Self::Mlp(_) => ('F', "mlp"),
            Self::MinGru(_) => ('G', "min-gru"),
            Self::Attention(_) => ('A', "attention"),
            Self::Gau(_) => ('U', "gau"),
            Self::Lstm(_) => ('L', "lstm"),
            Self::Pooled(_) => ('S', "pooled"),
            Self::Bidirectional(_) => ('B', "bidirectional"),
        }
    }
}

/// Settings of a mixer.
#[enum_dispatch]
pub trait MixerSettings {
    /// The mixer without values, for a model of width `d_model`; its projection out starts divided by `output_divisor`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for settings that no mixer can have.
    fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Box<dyn Mixer>>;

    /// The mixer with the random values it starts with, for a model of width `d_model`.
    ///
    /// # Errors
    /// Those of [`MixerSettings::plan`]; memory.
    fn init(&self, d_model: usize, device: Device, seed: u64) -> Result<Box<dyn Mixer>> {
        self.plan(d_model, 1.0)?.init(device, seed)
    }

    /// The state space models inside, to ask or to replace.
    fn ssms(&mut self) -> Vec<&mut SsmConfig> {
        Vec::new()
    }

    /// Whether anything of a token reaches later ones.
    fn remembers(&self) -> bool {
        true
    }

    /// Whether its state is a cache of tokens, which packed sequences cannot go on with.
    fn caches(&self) -> bool {
        false
    }

    /// Whether it reads sequences in reverse.
    fn reverses(&self) -> bool {
        true
    }

    /// Whether it runs on a GPU.
    fn on_gpu(&self) -> bool {
        true
    }

    /// Tokens that a sequence has at most where it is read from a state; none where there is no such number.
    fn context(&self) -> Option<usize> {
        None
    }

    /// Whether nothing of a token reaches earlier ones.
    fn is_causal(&self) -> bool {
        true
    }

    /// Layers that a plan of it makes, with those inside, be they more than can be counted.
    fn layers(&self) -> f64 {
        1.0
    }

    /// What the length of a whole sequence that is trained on is a multiple of.
    fn multiple(&self) -> usize {
        1
    }
}

/// What a mixer remembers of the tokens it has read: tensors whose first axis is the batch, in the mixer's order; none
/// where it looks at each token by itself.
pub type MixerState = Vec<Var>;

/// A layer that carries information from token to token, or makes more of each. Its clone has parameters of its own.
pub trait Mixer: Module + Debug + DynClone + Send + Sync {
    /// The state before the first token.
    fn initial_state(&self, batch: usize, device: Device) -> Result<MixerState>;

    /// Reads a sequence of normalised inputs. With `state`, it continues the sequence that left it, and it is replaced.
    ///
    /// # Shapes
    /// (batch, length, d_model) → the same
    fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var>;

    /// Values that a training step keeps of each token for the gradients, besides the input; or fewer.
    fn kept_per_token(&self, recompute: Recompute) -> usize;

    /// Operations (multiplications and additions) of a forward pass for each token in products without parameters, of
    /// queries with the keys that they see and of those weights with values; on average over a sequence of this length.
    fn attention_flops(&self, _length: usize) -> f64 {
        0.0
    }

    /// Reads one token of each sequence.
    ///
    /// # Shapes
    /// (batch, d_model) → the same
    fn step(&self, x: &Var, state: &mut MixerState) -> Result<Var> {
        let [batch, width] = x.shape().axes("step", "x", "(batch, d_model)")?;
        let x = x.reshape([batch, 1, width])?;
        let y = self.forward(&x, &Sequence::default(), Some(state))?;
        Ok(y.reshape([batch, width])?)
    }

    /// The same without a tape, in place and fused, where the mixer has that; `stepper` is what to ask.
    ///
    /// # Errors
    /// [`crate::Error::NoValue`]; memory.
    fn fused(&self) -> Result<Option<Box<dyn Stepper>>> {
        Ok(None)
    }
}

impl dyn Mixer {
    /// The mixer with its values of now, lowered to read one token of many sequences after another.
    ///
    /// # Errors
    /// [`crate::Error::NoValue`]; memory.
    pub fn stepper(&self) -> Result<Box<dyn Stepper>> {
        let whole = || Box::new(Whole::new(dyn_clone::clone_box(self))) as Box<dyn Stepper>;
        Ok(self.fused()?.unwrap_or_else(whole))
    }
}

dyn_clone::clone_trait_object!(Mixer);
