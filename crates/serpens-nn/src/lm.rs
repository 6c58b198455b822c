//! The language model: embedding, residual blocks, normalisation, head.

use serde::{Deserialize, Serialize};
use serpens_core::tape::recompute;
use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::embedding::check_ids;

use crate::blocks::{Block, BlockConfig, BlockState, MambaBlockConfig};
use crate::layers::{
    Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig, Sequence,
};
use crate::{Error, Module, Param, Precision, Recompute, Result, module};

/// More layers than any model has: their plan alone would take memory.
const MOST_LAYERS: usize = 1 << 14;

/// Configures a [`MambaLm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MambaLmConfig {
    /// Width D of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Number of tokens V.
    pub vocab_size: usize,
    /// Whether the head is the embedding's table.
    #[serde(default = "yes")]
    pub tie_embeddings: bool,
    /// eps of the normalisations.
    #[serde(default = "default_eps")]
    pub norm_eps: f32,
    /// Standard deviation of the initial embedding.
    #[serde(default = "default_embedding_std")]
    pub embedding_std: f32,
    /// The blocks.
    #[serde(default = "default_block")]
    pub block: BlockConfig,
}

fn yes() -> bool {
    true
}

fn default_eps() -> f32 {
    1e-5
}

fn default_embedding_std() -> f32 {
    0.02
}

fn default_block() -> BlockConfig {
    BlockConfig::Mamba(MambaBlockConfig::default())
}

impl MambaLmConfig {
    /// `n_layer` Mamba blocks of width `d_model` over `vocab_size` tokens, with a tied head.
    pub fn new(d_model: usize, n_layer: usize, vocab_size: usize) -> Self {
        Self {
            d_model,
            n_layer,
            vocab_size,
            tie_embeddings: yes(),
            norm_eps: default_eps(),
            embedding_std: default_embedding_std(),
            block: default_block(),
        }
    }

    /// With these blocks.
    pub fn with_block(mut self, block: BlockConfig) -> Self {
        self.block = block;
        self
    }

    /// The model without values; every block's output projection starts divided by √n_layer.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that no model can have.
    pub fn plan(&self) -> Result<MambaLm> {
        let refuse = |field, value: usize, reason| {
            let value = value.to_string();
            Err(Error::Config {
                field,
                value,
                reason,
            })
        };
        for (field, value) in [("d_model", self.d_model), ("vocab_size", self.vocab_size)] {
            if value == 0 {
                return refuse(field, value, "it must be at least 1");
            }
        }
        if self.n_layer > MOST_LAYERS {
            return refuse("n_layer", self.n_layer, "no memory holds as many layers");
        }
        let divisor = (self.n_layer.max(1) as f32).sqrt();
        let norm = RmsNormConfig::new(self.d_model).with_eps(self.norm_eps);
        let embeddings = EmbeddingConfig::new(self.vocab_size, self.d_model)
            .with_std(self.embedding_std)
            .with_tied_head(self.tie_embeddings);
        let head = LinearConfig::new(self.d_model, self.vocab_size).with_bias(false);
        let layer = |_| {
            Ok(Layer {
                norm: norm.plan(),
                mixer: self.block.plan(self.d_model, divisor)?,
            })
        };
        Ok(MambaLm {
            backbone: Backbone {
                embeddings: embeddings.plan(),
                layers: (0..self.n_layer).map(layer).collect::<Result<_>>()?,
                norm_f: norm.plan(),
            },
            lm_head: (!self.tie_embeddings).then(|| head.plan()),
            config: self.clone(),
            precision: Precision::F32,
        })
    }

    /// The model with the random values it starts with; see [`Module::fill`].
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that no model can have; memory.
    pub fn init(&self, device: Device, seed: u64) -> Result<MambaLm> {
        self.plan()?.init(device, seed)
    }
}

#[derive(Clone, Debug)]
struct Layer {
    norm: RmsNorm,
    mixer: Block,
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
        state: Option<&mut BlockState>,
    ) -> Result<[Var; 2]> {
        let sum = self.norm.forward(x, residual, activations)?;
        let y = self.mixer.forward(&sum.y, sequence, state)?;
        Ok([y, sum.h])
    }

    /// As [`Layer::forward`], keeping the inputs only for the gradients.
    fn forward_again(
        &self,
        x: &Var,
        residual: Option<&Var>,
        activations: DType,
        sequence: &Sequence<'_>,
    ) -> Result<[Var; 2]> {
        let (layer, plan) = (self.clone(), sequence.owned());
        let inputs: Vec<&Var> = [Some(x), residual].into_iter().flatten().collect();
        Ok(recompute("block", &inputs, move |inputs| {
            Ok(layer.forward(&inputs[0], inputs.get(1), activations, &plan.borrow(), None)?)
        })?)
    }
}

#[derive(Clone, Debug)]
struct Backbone {
    embeddings: Embedding,
    layers: Vec<Layer>,
    norm_f: RmsNorm,
}

module!(Backbone { embeddings => "embeddings", layers => "layers", norm_f => "norm_f" });

/// What a model remembers of the tokens it has read; its size does not depend on how many they were.
#[derive(Clone)]
pub struct LmState {
    blocks: Vec<BlockState>,
}

impl LmState {
    /// The same state without the record of how it came about: gradients stop here.
    pub fn detach(&self) -> LmState {
        let blocks = self.blocks.iter();
        LmState {
            blocks: blocks
                .map(|state| state.iter().map(Var::detach).collect())
                .collect(),
        }
    }
}

/// Embedding → (RMSNorm → block, added to the residual stream) × n_layer → RMSNorm → head.
#[derive(Clone, Debug)]
pub struct MambaLm {
    backbone: Backbone,
    lm_head: Option<Linear>,
    config: MambaLmConfig,
    precision: Precision,
}

module!(MambaLm { backbone => "backbone", lm_head => "lm_head" });

impl MambaLm {
    /// The configuration.
    pub fn config(&self) -> &MambaLmConfig {
        &self.config
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.backbone.norm_f.weight.device()
    }

    /// In which types the model computes.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Operations (multiplications and additions) of a forward pass in matrix products, for each token: twice the number of their
    /// weights, the head's among them.
    pub fn flops_per_token(&self) -> Result<f64> {
        Ok(2.0 * self.count(Param::is_matrix)? as f64)
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
        let layers = self.backbone.layers.iter();
        Ok(LmState {
            blocks: layers
                .map(|layer| layer.mixer.initial_state(batch, self.device()))
                .collect::<Result<_>>()?,
        })
    }

    /// The normalised output of the last block. With `state`, the sequence continues the one that left it, and it is replaced.
    ///
    /// # Shapes
    /// ids (batch, length) of u32 → (batch, length, d_model)
    pub fn hidden(
        &self,
        ids: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut LmState>,
    ) -> Result<Var> {
        let mut states = self.block_states(state)?;
        let mut residual: Option<Var> = None;
        let mut x = self.backbone.embeddings.forward(ids)?;
        let activations = self.precision.activations();
        for (i, layer) in self.backbone.layers.iter().enumerate() {
            let state = states.as_mut().map(|states| &mut states[i]);
            let before = residual.as_ref();
            let [y, h] = match (sequence.recompute, state) {
                (Recompute::Block, None) if sequence.trace.is_none() => {
                    layer.forward_again(&x, before, activations, sequence)?
                }
                (_, state) => layer.forward(&x, before, activations, sequence, state)?,
            };
            (x, residual) = (y, Some(h));
        }
        let norm = &self.backbone.norm_f;
        Ok(norm.forward(&x, residual.as_ref(), activations)?.y)
    }

    fn block_states<'s>(
        &self,
        state: Option<&'s mut LmState>,
    ) -> Result<Option<&'s mut Vec<BlockState>>> {
        match state {
            Some(state) if state.blocks.len() != self.backbone.layers.len() => Err(Error::State {
                what: "layers",
                expected: self.backbone.layers.len(),
                found: state.blocks.len(),
            }),
            state => Ok(state.map(|state| &mut state.blocks)),
        }
    }

    /// Logits of the next token: (…, d_model) → (…, vocab_size).
    pub fn logits(&self, hidden: &Var) -> Result<Var> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => self.backbone.embeddings.weight.linear(hidden, None),
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

    /// Reads a prompt, or a piece of one, and gives the logits of the token after it only.
    ///
    /// # Shapes
    /// ids (batch, length) of u32 → (batch, vocab_size)
    pub fn read(&self, ids: &Tensor, state: &mut LmState) -> Result<Tensor> {
        // A GPU does not look at ids; the processor's embedding does.
        if self.device() != Device::Cpu && ids.device() == Device::Cpu {
            check_ids(ids.as_slice()?, self.config.vocab_size)?;
        }
        let ids: Var = ids.to(self.device())?.into();
        let hidden = self.hidden(&ids, &Sequence::default(), Some(state))?;
        let [batch, length, width] = *hidden.shape() else {
            return Err(
                serpens_core::Error::shape("read", "ids", "(batch, length)", ids.shape()).into(),
            );
        };
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
