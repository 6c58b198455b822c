//! The sizes of a language model, and its plan.

use serde::{Deserialize, Serialize};
use serpens_core::Device;

use super::backbone::{LAYERS, place};
use super::{Backbone, MambaLm, pattern};
use crate::layers::{Embedding, Linear};
use crate::mixers::{MambaConfig, MixerConfig, MixerSettings, least_multiple};
use crate::setting::{SIZE, check, one_or_many};
use crate::ssm::{SsmConfig, SsmSettings};
use crate::{Error, LoraConfig, Module, Result, Start};

/// Configures a [`MambaLm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MambaLmConfig {
    /// Width D of the residual stream.
    pub d_model: usize,
    /// Number of layers: a normalisation and a mixer each.
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
    /// Rows of a table of learnt positions, which is what sequences have at most; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub positions: usize,
    /// The order of the layers, where `block` does not say it: a letter of each by its kind ([`MixerConfig::kind`]),
    /// again from the first until there are n_layer. Digits repeat the letter or the bracket before them: `MMAM`,
    /// `M5A`, `(MF)6`. A kind is then as `block` has it, or as it is by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<String>,
    /// The mixers, one after another and again from the first, as many as there are layers. One alone is written
    /// without a list.
    #[serde(rename = "block", with = "one_or_many", default = "default_mixers")]
    pub mixers: Vec<MixerConfig>,
    /// What is trained in place of the matrices, if anything is; see [`MambaLm::adapt`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
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

fn default_mixers() -> Vec<MixerConfig> {
    vec![MambaConfig::default().into()]
}

impl MambaLmConfig {
    /// `n_layer` Mamba layers of width `d_model` over `vocab_size` tokens, with a tied head.
    pub fn new(d_model: usize, n_layer: usize, vocab_size: usize) -> Self {
        Self {
            d_model,
            n_layer,
            vocab_size,
            tie_embeddings: yes(),
            norm_eps: default_eps(),
            embedding_std: default_embedding_std(),
            positions: 0,
            layers: None,
            mixers: default_mixers(),
            lora: None,
        }
    }

    /// With this mixer in every layer.
    pub fn with_mixer(self, mixer: impl Into<MixerConfig>) -> Self {
        self.with_mixers([mixer.into()])
    }

    /// With these mixers, repeated over the layers.
    pub fn with_mixers(mut self, mixers: impl IntoIterator<Item = MixerConfig>) -> Self {
        self.mixers = mixers.into_iter().collect();
        self
    }

    /// With layers in this order.
    pub fn with_layers(mut self, pattern: impl Into<String>) -> Self {
        self.layers = Some(pattern.into());
        self
    }

    /// The mixers of the layers, one after another and again from the first.
    ///
    /// # Errors
    /// Those of [`MambaLmConfig::plan`] for its order of layers.
    pub fn layer_mixers(&self) -> Result<Vec<MixerConfig>> {
        match &self.layers {
            Some(pattern) => pattern::read(pattern, &self.mixers, self.n_layer),
            None => Ok(self.mixers.clone()),
        }
    }

    /// The same model with this state space model in every mixer that has one.
    pub fn with_ssm(mut self, ssm: &SsmConfig) -> Self {
        if self.layers.is_some()
            && let Ok(layers) = self.layer_mixers()
        {
            // Those that are as by default too. What is wrong with the order is told of the plan.
            self.mixers.clear();
            for mixer in layers {
                if !self.mixers.contains(&mixer) {
                    self.mixers.push(mixer);
                }
            }
        }
        for place in self.mixers.iter_mut().flat_map(|mixer| mixer.ssms()) {
            place.clone_from(ssm);
        }
        self
    }

    /// Tokens that a sequence has at most where it is read from a state: as many as the smallest cache holds, or
    /// positions were learnt. None where sequences have no end.
    pub fn context(&self) -> Option<usize> {
        let mixers = self.layer_mixers().unwrap_or_default();
        let caches = mixers.iter().filter_map(|mixer| mixer.context());
        let learnt = (self.positions > 0).then_some(self.positions);
        caches.chain(learnt).min()
    }

    /// What is said of a sequence that is longer than that.
    pub fn full(&self) -> Error {
        let tokens = self.context().unwrap_or(usize::MAX);
        let learnt = tokens == self.positions;
        Error::Full { tokens, learnt }
    }

    /// What the lengths of whole sequences that it is trained on are multiples of, where they are not packed.
    pub fn multiple(&self) -> usize {
        least_multiple(&self.layer_mixers().unwrap_or_default())
    }

    /// Whether a state of it is a cache of tokens, in some layer.
    pub fn caches(&self) -> bool {
        let mixers = self.layer_mixers().unwrap_or_default();
        self.positions > 0 || mixers.iter().any(|mixer| mixer.caches())
    }

    /// Whether there is a state space model inside.
    pub fn has_ssm(&self) -> bool {
        let mut mixers = self.layer_mixers().unwrap_or_default();
        mixers.iter_mut().any(|mixer| !mixer.ssms().is_empty())
    }

    /// What the state space models inside are called; `mixed` where they are not all the same. Where there are none,
    /// the kind of the first mixer that carries something on.
    pub fn ssm_name(&self) -> &'static str {
        let mut mixers = self.layer_mixers().unwrap_or_default();
        let other = mixers.iter().find(|mixer| mixer.remembers());
        let other = other.map_or("none", |mixer| mixer.kind().1);
        let ssms = mixers.iter_mut().flat_map(|mixer| mixer.ssms());
        let mut names = ssms.map(|ssm| ssm.name());
        let first = names.next().unwrap_or(other);
        match names.all(|name| name == first) {
            true => first,
            false => "mixed",
        }
    }

    /// The model without values; every mixer's projection out starts divided by √n_layer.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for settings that no model can have, by their names in a recipe.
    pub fn plan(&self) -> Result<MambaLm> {
        let mut model = self.planned().map_err(|error| error.within("model"))?;
        if let Some(lora) = &self.lora {
            lora.attach(&mut model)?;
        }
        Ok(model)
    }

    fn planned(&self) -> Result<MambaLm> {
        let (mut embeddings, mut backbone) = (self.planned_embedding()?, self.planned_backbone()?);
        let mixers = self.layer_mixers()?;
        if !mixers.is_empty() && !mixers.iter().any(|mixer| mixer.remembers()) {
            let what = "block: layers of mlp alone see no token but the last: have a layer of another kind among them";
            return Err(Error::Uneven(what.to_owned()));
        }
        if !mixers.iter().all(|mixer| mixer.is_causal()) {
            let what = "block: a bidirectional layer sees what a language model is to predict: give it to a model with another head";
            return Err(Error::Uneven(what.to_owned()));
        }
        backbone.norm_f.weight.start = Start::Constant(self.norm_f_start());
        embeddings.weight.matrix = self.tie_embeddings;
        let head = || Linear::plan(self.d_model, self.vocab_size);
        Ok(MambaLm {
            embeddings,
            backbone,
            lm_head: (!self.tie_embeddings).then(head),
            config: self.clone(),
        })
    }

    pub(super) fn planned_embedding(&self) -> Result<Embedding> {
        check("vocab_size", self.vocab_size as f64, SIZE)?;
        check("embedding_std", self.embedding_std.into(), 0.0..=1e3)?;
        let (tokens, width) = (self.vocab_size, self.d_model);
        Ok(Embedding::plan(tokens, width, self.embedding_std))
    }

    pub(super) fn planned_backbone(&self) -> Result<Backbone> {
        check("n_layer", self.n_layer as f64, LAYERS)?;
        let (width, mixers) = (self.d_model, self.placed_mixers()?);
        let backbone = Backbone::plan_placed(width, self.n_layer, self.norm_eps, &mixers)?;
        Ok(match self.positions {
            0 => backbone,
            count => backbone.with_positions(count, self.embedding_std),
        })
    }

    /// [`MambaLmConfig::layer_mixers`], with where their settings stand.
    fn placed_mixers(&self) -> Result<Vec<(String, MixerConfig)>> {
        let placed = self.layer_mixers()?.into_iter().enumerate();
        let placed = placed.map(|(i, mixer)| {
            let of_kind = |one: &MixerConfig| one.kind() == mixer.kind();
            let i = match self.layers {
                Some(_) => self.mixers.iter().position(of_kind),
                None => Some(i),
            };
            let place = i.map_or("block".to_owned(), |i| place(&self.mixers, i));
            (place, mixer)
        });
        Ok(placed.collect())
    }

    /// Where the last normalisation's weights start: at one; lower where the head is the embedding's table and its rows
    /// are long. The residual stream holds a token's own row at first, whose product with itself would be the logit
    /// that outweighs all others: it is d_model · std² times this.
    fn norm_f_start(&self) -> f32 {
        let squared_length = self.d_model as f32 * self.embedding_std * self.embedding_std;
        match self.tie_embeddings {
            true => squared_length.max(1.0).recip(),
            false => 1.0,
        }
    }

    /// The model with the random values it starts with; see [`Module::fill`].
    ///
    /// # Errors
    /// Those of [`MambaLmConfig::plan`]; memory.
    pub fn init(&self, device: Device, seed: u64) -> Result<MambaLm> {
        self.plan()?.init(device, seed)
    }
}
