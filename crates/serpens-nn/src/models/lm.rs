//! The language model: embedding, backbone, head.

use serpens_core::{Device, Tensor, Var};
use serpens_ops::embedding::check_ids;

use super::{Backbone, LmState, MambaLmConfig};
use crate::layers::{Embedding, Linear, Sequence, Trace};
use crate::lora::is_added;
use crate::{LoraConfig, Module, Precision, Recompute, Result, module};

/// Embedding → [`Backbone`] → head.
#[derive(Clone, Debug)]
pub struct MambaLm {
    pub(super) embeddings: Embedding,
    pub(super) backbone: Backbone,
    pub(super) lm_head: Option<Linear>,
    pub(super) config: MambaLmConfig,
}

module!(MambaLm {
    embeddings => "backbone.embeddings",
    backbone => "backbone",
    lm_head => "lm_head",
});

impl MambaLm {
    /// The configuration.
    pub fn config(&self) -> &MambaLmConfig {
        &self.config
    }

    /// The table of the tokens.
    pub fn embeddings(&self) -> &Embedding {
        &self.embeddings
    }

    /// What is between the embedding and the head, to be given vectors that no table holds.
    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.backbone.device()
    }

    /// In which types the model computes.
    pub fn precision(&self) -> Precision {
        self.backbone.precision()
    }

    /// Has only what is added to some matrices trained from now on, W + alpha / r · B A in place of each W; nothing at
    /// first, as B starts at zero. All other parameters are frozen. What was there before of that kind is merged.
    ///
    /// # Errors
    /// [`crate::Error::Config`]; [`crate::Error::NoTarget`] for a target that no matrix of the model has;
    /// [`crate::Error::NoValue`] for parameters that are not held in f32; memory.
    pub fn adapt(&mut self, lora: LoraConfig, seed: u64) -> Result<()> {
        self.merge()?;
        lora.attach(self)?;
        let (device, precision) = (self.device(), self.precision());
        self.visit_mut("", &mut |name, param| match is_added(name) {
            true => param
                .fill(name, device, seed)
                .and_then(|()| param.to(device, precision)),
            false => Ok(()),
        })?;
        self.config.lora = Some(lora);
        Ok(())
    }

    /// Adds to the matrices what [`MambaLm::adapt`] had trained: the same model, without parameters of that kind, and
    /// with nothing frozen.
    ///
    /// # Errors
    /// [`crate::Error::NoValue`]; memory.
    pub fn merge(&mut self) -> Result<()> {
        self.visit_mut("", &mut |_, param| {
            let merged = param.merged()?;
            (param.lora, param.frozen) = (None, false);
            param.set(merged.to(param.device())?)
        })?;
        self.config.lora = None;
        Ok(())
    }

    /// Values that a training step keeps of each token for the gradients, or fewer: what does not fit a memory could
    /// never have.
    pub fn kept_per_token(&self, recompute: Recompute) -> f64 {
        self.config.vocab_size as f64 + self.backbone.kept_per_token(recompute)
    }

    /// Positions that are read in one pass at most: as many tokens of all sequences together as keep the device busy.
    pub fn longest_pass(&self, batch: usize) -> usize {
        let tokens: usize = match self.device() {
            Device::Cpu => 1 << 12,
            Device::Cuda(_) => 1 << 15,
        };
        (tokens / batch.max(1)).max(64)
    }

    /// The state before the first token of each of `batch` sequences.
    pub fn initial_state(&self, batch: usize) -> Result<LmState> {
        self.backbone.initial_state(batch)
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
        let x = self.embeddings.forward(ids)?;
        self.backbone.forward(x, sequence, state)
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

    /// Reads a prompt, or a chunk of one, and gives the logits of the token after it only. What is long is read in
    /// passes, so that the memory does not depend on the length.
    ///
    /// # Shapes
    /// ids (batch, length) of u32 → (batch, vocab_size)
    ///
    /// # Errors
    /// Tokens that the model does not know, [`crate::Error::State`], memory.
    pub fn read(&self, ids: &Tensor, state: &mut LmState) -> Result<Tensor> {
        let [batch, length] = ids.shape().axes("read", "ids", "(batch, length)")?;
        let (ids, width) = (ids.to(Device::Cpu)?, self.config.d_model);
        let ids = ids.as_slice()?;
        check_ids(ids, self.config.vocab_size)?; // before the state has gone on
        // Of one length, as a product of a few rows may be summed in another order.
        let passes = length.div_ceil(self.longest_pass(batch)).max(1);
        let mut read = |pass: usize| {
            let [from, to] = [pass, pass + 1].map(|pass| length * pass / passes);
            let rows = ids.chunks(length.max(1)).flat_map(|row| &row[from..to]);
            let rows: Vec<u32> = rows.copied().collect();
            let ids = Tensor::from_slice([batch, to - from], &rows, self.device())?;
            let hidden = self.hidden(&ids.into(), &Sequence::default(), Some(state))?;
            let rows = hidden.reshape([batch, (to - from) * width])?;
            let last = rows.columns((to.max(1) - 1 - from) * width..(to - from) * width)?;
            Ok(self.logits(&last)?.into_tensor()?)
        };
        (1..passes).try_fold(read(0)?, |_, pass| read(pass))
    }

    /// What layers do with the tokens of one sequence, or of a chunk of one that goes on from `state`, with their
    /// numbers from 0.
    ///
    /// # Errors
    /// A model that is not on the processor, where traces are taken; tokens that it does not know,
    /// [`crate::Error::State`], memory.
    pub fn trace(&self, ids: &[u32], state: &mut LmState) -> Result<Vec<(usize, Trace)>> {
        let ids = Tensor::from_slice([1, ids.len()], ids, Device::Cpu)?;
        let x = self.embeddings.forward(&ids.to(self.device())?.into())?;
        self.backbone.trace(x, Some(state))
    }

    /// Reads one token of each sequence and gives the logits of the next.
    ///
    /// # Shapes
    /// ids (batch) of u32 → (batch, vocab_size)
    pub fn step(&self, ids: &Tensor, state: &mut LmState) -> Result<Tensor> {
        self.read(&ids.reshape([ids.len(), 1])?, state)
    }
}
