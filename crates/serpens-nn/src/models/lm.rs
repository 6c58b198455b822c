//! The language model: embedding, layers of a normalisation and a mixer, normalisation, head.

use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::embedding::check_ids;

use super::MambaLmConfig;
use crate::layers::{Embedding, Linear, RmsNorm, Sequence};
use crate::mixers::{Mixer, MixerState};
use crate::{Error, Module, Precision, Recompute, Result, module};

#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) norm: RmsNorm,
    pub(super) mixer: Box<dyn Mixer>,
}

module!(Layer { norm => "norm", mixer => "mixer" });

impl Layer {
    /// x and the residual before it (absent in the first layer) to the mixer's output and the new residual.
    fn forward(
        &self,
        x: &Var,
        residual: Option<&Var>,
        activations: DType,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<[Var; 2]> {
        if sequence.recompute == Recompute::Layer && state.is_none() && sequence.trace.is_none() {
            let layer = self.clone();
            let inputs: Vec<&Var> = [Some(x), residual].into_iter().flatten().collect();
            return sequence.read_twice("layer", &inputs, move |inputs, sequence| {
                layer.forward(&inputs[0], inputs.get(1), activations, sequence, None)
            });
        }
        let sum = self.norm.forward(x, residual, activations)?;
        let y = self.mixer.forward(&sum.y, sequence, state)?;
        Ok([y, sum.h])
    }
}

/// What a model remembers of the tokens it has read; its size does not depend on how many they were.
#[derive(Clone)]
pub struct LmState {
    layers: Vec<MixerState>,
}

impl LmState {
    /// The same state without the record of how it came about: gradients stop here.
    pub fn detach(&self) -> LmState {
        let detach = |state: &MixerState| state.iter().map(Var::detach).collect();
        let layers = self.layers.iter().map(detach).collect();
        LmState { layers }
    }
}

/// Embedding → (RMSNorm → mixer, added to the residual stream) × n_layer → RMSNorm → head.
#[derive(Clone, Debug)]
pub struct MambaLm {
    pub(super) embeddings: Embedding,
    pub(super) layers: Vec<Layer>,
    pub(super) norm_f: RmsNorm,
    pub(super) lm_head: Option<Linear>,
    pub(super) config: MambaLmConfig,
    pub(super) precision: Precision,
}

module!(MambaLm {
    embeddings => "backbone.embeddings",
    layers => "backbone.layers",
    norm_f => "backbone.norm_f",
    lm_head => "lm_head",
});

impl MambaLm {
    /// The configuration.
    pub fn config(&self) -> &MambaLmConfig {
        &self.config
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.norm_f.weight.device()
    }

    /// In which types the model computes.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Operations (multiplications and additions) of a forward pass in matrix products, for each token, the head's
    /// among them.
    pub fn flops_per_token(&self) -> Result<f64> {
        let table = self.embeddings.count(|param| param.matrix)?;
        let head = table + self.lm_head.count(|param| param.matrix)?;
        let sum = |sum, layer: &Layer| Ok(sum + layer.mixer.flops_per_token()?);
        self.layers.iter().try_fold(2.0 * head as f64, sum)
    }

    /// Values that a training step keeps of each token for the gradients, or fewer: what does not fit a memory could
    /// never have.
    pub fn kept_per_token(&self, recompute: Recompute) -> f64 {
        let (inputs, logits) = (self.config.d_model as f64, self.config.vocab_size as f64);
        let kept = |layer: &Layer| inputs + layer.mixer.kept_per_token(recompute) as f64;
        logits + self.layers.iter().map(kept).sum::<f64>()
    }

    /// Moves the model to `device`, to compute there in this precision.
    ///
    /// # Errors
    /// [`Error::Precision`] for one that the device does not have; [`Error::NoValue`] of a plan; memory.
    pub fn to(&mut self, device: Device, precision: Precision) -> Result<()> {
        self.visit_mut("", &mut |_, param| param.to(device, precision))?;
        self.precision = precision;
        Ok(())
    }

    /// The state before the first token of each of `batch` sequences.
    pub fn initial_state(&self, batch: usize) -> Result<LmState> {
        let state = |layer: &Layer| layer.mixer.initial_state(batch, self.device());
        let layers = self.layers.iter().map(state).collect::<Result<_>>()?;
        Ok(LmState { layers })
    }

    /// The normalised output of the last layer. With `state`, the sequence continues the one that left it, and it is
    /// replaced.
    ///
    /// # Shapes
    /// ids (batch, length) of u32 → (batch, length, d_model)
    pub fn hidden(
        &self,
        ids: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut LmState>,
    ) -> Result<Var> {
        let mut states = state.map(|state| &mut state.layers[..]);
        if let Some(states) = &states
            && states.len() != self.layers.len()
        {
            return Err(Error::State {
                what: "layers",
                expected: self.layers.len(),
                found: states.len(),
            });
        }
        let mut residual: Option<Var> = None;
        let mut x = self.embeddings.forward(ids)?;
        let activations = self.precision.activations();
        for (i, layer) in self.layers.iter().enumerate() {
            let state = states.as_mut().map(|states| &mut states[i]);
            let [y, h] = layer.forward(&x, residual.as_ref(), activations, sequence, state)?;
            (x, residual) = (y, Some(h));
        }
        let last = self.norm_f.forward(&x, residual.as_ref(), activations)?;
        Ok(last.y)
    }

    /// Logits of the next token: (…, d_model) → (…, vocab_size).
    pub fn logits(&self, hidden: &Var) -> Result<Var> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => self.embeddings.weight.linear(hidden, None),
        }
    }

    /// Logits of the next token at every position.
    ///
    /// # Shapes
    /// ids (batch, length) of u32 → (batch, length, vocab_size)
    pub fn forward(
        &self,
        ids: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut LmState>,
    ) -> Result<Var> {
        self.logits(&self.hidden(ids, sequence, state)?)
    }

    /// Reads a prompt, or a chunk of one, and gives the logits of the token after it only.
    ///
    /// # Shapes
    /// ids (batch, length) of u32 → (batch, vocab_size)
    pub fn read(&self, ids: &Tensor, state: &mut LmState) -> Result<Tensor> {
        // A GPU does not look at ids; the processor's embedding does.
        if self.device() != Device::Cpu && ids.device() == Device::Cpu {
            check_ids(ids.as_slice()?, self.config.vocab_size)?;
        }
        let [batch, length] = Error::check_axes("read", "ids", "(batch, length)", ids.shape())?;
        let ids: Var = ids.to(self.device())?.into();
        let hidden = self.hidden(&ids, &Sequence::default(), Some(state))?;
        let width = self.config.d_model;
        let rows = hidden.reshape([batch, length * width])?;
        let last = rows.columns((length.max(1) - 1) * width..length * width)?;
        Ok(self.logits(&last)?.into_tensor()?)
    }

    /// Reads one token of each sequence and gives the logits of the next.
    ///
    /// # Shapes
    /// ids (batch) of u32 → (batch, vocab_size)
    pub fn step(&self, ids: &Tensor, state: &mut LmState) -> Result<Tensor> {
        self.read(&ids.reshape([ids.len(), 1])?, state)
    }
}
