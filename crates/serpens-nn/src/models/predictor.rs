//! Models that answer instead of writing: a class, labels or values, of a whole sequence or of each position.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::elementwise::{add, cast, scale};
use serpens_ops::embedding::embedding;
use serpens_ops::pooling::{self, PoolingOptions, pooling};

use super::{Backbone, LmState, MambaLm, MambaLmConfig};
use crate::layers::{Embedding, Linear, Sequence, Trace};
use crate::mixers::MixerSettings;
use crate::setting::{SIZE, check};
use crate::{Error, Module, Result, Visit, VisitMut, join, module};

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// One of the classes: their probabilities are the softmax of the outputs.
    Class,
    /// Any of the labels: the probability of each is σ(output).
    Labels,
    /// Values: the outputs themselves.
    Values,
}

/// What a sequence is answered from. See [`serpens_ops::pooling`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Its last position, which has read all before it.
    Last,
    /// The mean of its positions.
    Mean,
    /// Their sum, weighted by the softmax of scores that a projection gives.
    Attention,
}

impl From<Pooling> for pooling::Pooling {
    fn from(kind: Pooling) -> Self {
        match kind {
            Pooling::Last => Self::Last,
            Pooling::Mean => Self::Mean,
            Pooling::Attention => Self::Attention,
        }
    }
}

/// Configures the head of a [`Predictor`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// What is answered.
    pub answer: Answer,
    /// Number of classes, labels or values.
    pub outputs: usize,
    /// What a sequence is answered from; each position is by itself where this is left out: tags, or next values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// For each token its complement, as T is A's, where sequences are read on both strands: what is pooled, or each
    /// position's output, is then the mean over a sequence and its reverse complement. Without numbers one is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub complement: Vec<u32>,
}

/// Configures a [`Predictor`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictorConfig {
    /// The table of tokens, and the layers, which may be bidirectional here. Its tie_embeddings is of no matter, and its
    /// vocab_size where values are read.
    pub model: MambaLmConfig,
    /// Values of each position that are read in place of tokens; 0 where tokens are.
    #[serde(default)]
    pub channels: usize,
    /// The head.
    pub head: HeadConfig,
}

impl PredictorConfig {
    /// The model without values.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that no model can have; [`Error::Unsupported`] for a complement that is none, or
    /// that goes with layers that are not read in reverse.
    pub fn plan(&self) -> Result<Predictor> {
        let model = &self.model;
        let backbone = model.planned_backbone();
        let backbone = backbone.map_err(|error| error.within("model"))?;
        let input = match self.channels {
            0 => {
                let table = model.planned_embedding();
                Input::Tokens(table.map_err(|error| error.within("model"))?.into())
            }
            channels => {
                check("channels", channels as f64, SIZE)?;
                let projection = Linear::plan_with([channels, model.d_model], true, 1.0);
                Input::Values(projection.into())
            }
        };
        let mut planned = Predictor::plan_around(input, backbone, self.clone())?;
        if let Some(lora) = &model.lora {
            lora.attach(&mut planned)?;
            planned.set_frozen("head", false)?;
        }
        Ok(planned)
    }

    /// The model with the random values it starts with; see [`Module::fill`].
    ///
    /// # Errors
    /// Those of [`PredictorConfig::plan`]; memory.
    pub fn init(&self, device: Device, seed: u64) -> Result<Predictor> {
        self.plan()?.init(device, seed)
    }
}

/// What each position is read by.
#[derive(Clone, Debug)]
enum Input {
    Tokens(Box<Embedding>),
    Values(Box<Linear>),
}

impl Module for Input {
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()> {
        match self {
            Self::Tokens(table) => table.visit(&join(path, "embeddings"), f),
            Self::Values(projection) => projection.visit(&join(path, "values"), f),
        }
    }

    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()> {
        match self {
            Self::Tokens(table) => table.visit_mut(&join(path, "embeddings"), f),
            Self::Values(projection) => projection.visit_mut(&join(path, "values"), f),
        }
    }
}

/// Embedding, or projection of values → [`Backbone`] → pooling, if any → projection to outputs.
#[derive(Debug)]
pub struct Predictor {
    input: Input,
    backbone: Backbone,
    scores: Option<Linear>,
    head: Linear,
    config: PredictorConfig,
    /// The complements, where they were last needed.
    complement: Mutex<Option<Tensor>>,
}

module!(Predictor {
    input => "backbone",
    backbone => "backbone",
    scores => "head.scores",
    head => "head",
});

impl Clone for Predictor {
    fn clone(&self) -> Self {
        Self {
            input: self.input.clone(),
            backbone: self.backbone.clone(),
            scores: self.scores.clone(),
            head: self.head.clone(),
            config: self.config.clone(),
            complement: Mutex::default(),
        }
    }
}

impl Predictor {
    fn plan_around(input: Input, backbone: Backbone, config: PredictorConfig) -> Result<Self> {
        let (width, head) = (config.model.d_model, &config.head);
        check("head.outputs", head.outputs as f64, SIZE)?;
        if !head.complement.is_empty() {
            config.check_complement()?;
        }
        let attends = head.pooling == Some(Pooling::Attention);
        Ok(Self {
            input,
            backbone,
            scores: attends.then(|| Linear::plan(width, 1)),
            head: Linear::plan_with([width, head.outputs], true, 1.0),
            config,
            complement: Mutex::default(),
        })
    }

    /// A language model's table and layers as they are, under a head with the values it starts with.
    ///
    /// # Errors
    /// Those of [`PredictorConfig::plan`]; memory.
    pub fn of(mut model: MambaLm, head: HeadConfig, seed: u64) -> Result<Self> {
        model.embeddings.weight.matrix = false; // of a tied head
        let (device, precision) = (model.device(), model.precision());
        let config = PredictorConfig {
            model: model.config,
            channels: 0,
            head,
        };
        let input = Input::Tokens(model.embeddings.into());
        let mut predictor = Self::plan_around(input, model.backbone, config)?;
        let begin = |module: &mut dyn Module, path: &str| {
            module.visit_mut(path, &mut |name, param| {
                param.fill(name, device, seed)?;
                param.to(device, precision)
            })
        };
        begin(&mut predictor.scores, "head.scores")?;
        begin(&mut predictor.head, "head")?;
        Ok(predictor)
    }

    /// The configuration.
    pub fn config(&self) -> &PredictorConfig {
        &self.config
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.backbone.device()
    }

    /// What is between the input and the head.
    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// The state before the first position of each of `batch` sequences.
    ///
    /// # Errors
    /// Memory.
    pub fn initial_state(&self, batch: usize) -> Result<LmState> {
        self.backbone.initial_state(batch)
    }

    /// What layers do with a sequence in its own order; see [`Backbone::trace`].
    ///
    /// # Shapes
    /// x (1, length) of u32, or (1, length, channels) of f32
    ///
    /// # Errors
    /// Those of [`Backbone::trace`].
    pub fn trace(&self, x: &Var, state: Option<&mut LmState>) -> Result<Vec<(usize, Trace)>> {
        self.backbone.trace(self.read(x)?, state)
    }

    /// The outputs: logits of classes or labels, or values. With `state`, where each position is answered, the sequence
    /// continues the one that left it, and it is replaced.
    ///
    /// # Shapes
    /// x (batch, length) of u32, or (batch, length, channels) of f32 → (sequences, outputs) of f32 where sequences are
    /// pooled, packed ones in the order they stand; otherwise (batch, length, outputs)
    ///
    /// # Errors
    /// Another input than the model's; a state, or reverse order, where what is answered needs the whole sequence in
    /// its own; memory. The complements' numbers are brought to the device when it is asked there for the first time.
    pub fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut LmState>,
    ) -> Result<Var> {
        let HeadConfig {
            pooling: kind,
            complement,
            ..
        } = &self.config.head;
        let by_position = kind.is_none() && complement.is_empty();
        let is_plain = !sequence.reverse && sequence.lengths.is_none();
        if !by_position && (state.is_some() || !is_plain) {
            let what = "what is pooled, or read on both strands, is a whole sequence in its own order, without a state";
            return Err(Error::Unsupported(what));
        }
        let mut rows = self.backbone.forward(self.read(x)?, sequence, state)?;
        if !complement.is_empty() {
            // From its end on, the complements are the other strand.
            let turned = Sequence {
                reverse: true,
                ..*sequence
            };
            let other = self.backbone.forward(self.paired(x)?, &turned, None)?;
            rows = scale(&add(&rows, &other)?, 0.5)?;
        }
        if let Some(kind) = *kind {
            let scores = self.scores.as_ref();
            let scores = scores.map(|scores| scores.forward(&rows)).transpose()?;
            let options = PoolingOptions {
                kind: kind.into(),
                starts: sequence.starts,
            };
            rows = pooling(&rows, scores.as_ref(), &options)?;
        }
        self.head.forward(&cast(&rows, DType::F32)?)
    }

    fn read(&self, x: &Var) -> Result<Var> {
        match &self.input {
            Input::Tokens(table) => table.forward(x),
            Input::Values(projection) => projection.forward(x),
        }
    }

    /// The rows of the tokens' complements.
    fn paired(&self, ids: &Var) -> Result<Var> {
        let Input::Tokens(table) = &self.input else {
            return Err(Error::Unsupported("values have no complements"));
        };
        let mut there = self
            .complement
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let complement = match there.take() {
            Some(complement) if complement.device() == ids.device() => complement,
            _ => {
                let complement = &self.config.head.complement;
                Tensor::from_slice([complement.len()], complement, ids.device())?
            }
        };
        let table = table.forward(&there.insert(complement).clone().into())?;
        Ok(embedding(ids, &table)?)
    }
}

impl PredictorConfig {
    fn check_complement(&self) -> Result<()> {
        let Self {
            model,
            channels,
            head,
        } = self;
        let (tokens, others) = (model.vocab_size, &head.complement);
        let back = |(token, &other): (usize, &u32)| {
            others
                .get(other as usize)
                .is_some_and(|&it| it as usize == token)
        };
        let pairs = others.len() == tokens && others.iter().enumerate().all(back);
        let what = match () {
            () if *channels > 0 => "head.complement is of tokens, and values are read",
            () if !pairs => {
                "head.complement has a number for each token, that of its complement, whose complement it is again"
            }
            () if head.pooling == Some(Pooling::Last) => {
                "the last position of one strand is the first of the other: pool their mean, or by attention"
            }
            () if model.positions > 0 => {
                "learnt positions are not read in reverse, as head.complement asks"
            }
            () if !model.layer_mixers()?.iter().all(|mixer| mixer.reverses()) => {
                "head.complement asks for layers that are read in either direction: Mamba, H3 and plain ones around S6, minGRU, mlp, or bidirectional ones of these"
            }
            () => return Ok(()),
        };
        Err(Error::Unsupported(what))
    }
}
