//! Token maps: what a model does with each token, layer by layer.
//!
//! A selective SSM keeps `h_t = exp(Δ_t A) ⊙ h_(t-1) + Δ_t B_t x_t`: a large step Δ_t lets token t in and the past go,
//! a small one passes the token by. The map shows Δ over tokens and channels, and how much of what was written at t
//! is still in the state at the end. Attention has each token share 1 among itself and those before it: the map shows
//! these weights, and what each token gets of them.

mod attention;
mod bands;
mod figure;
mod layer;
mod terminal;

use serde::Serialize;

use crate::groups::mean;

pub use attention::LayerAttention;
pub use figure::TokenFigure;

/// What the bars of selective layers are, and those of attention.
const STEP_SIZE: &str = "mean Δ";
const WEIGHT: &str = "weight in all";

/// What the layers do with one sequence of L tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TokenMap {
    /// Heading.
    pub title: String,
    /// The text of each token, as it is: white space is made visible here. // (length)
    pub tokens: Vec<String>,
    /// Tokens that carry data, marked in the figure; may be empty. // (length)
    pub highlight: Vec<bool>,
    /// The layers, first to last.
    pub layers: Vec<LayerMap>,
    /// What the reader should see in it.
    pub caption: String,
}

/// What one layer does; as JSON the fields of either kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum LayerMap {
    /// A layer that selects by step sizes.
    Selection(LayerSelection),
    /// A layer of attention.
    Attention(LayerAttention),
}

/// The steps of one layer. Values that are missing or not finite are drawn as gaps.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LayerSelection {
    /// Name of the layer.
    pub name: String,
    /// Step sizes Δ after softplus. // (length, channels)
    pub delta: Vec<f32>,
    /// Channels, the inner width E of the layer.
    pub channels: usize,
    /// What is left at the end of what was written at t: `exp(Σ_(s>t) Δ_s A)`, 0..=1, for the state that the caller
    /// chose (the slowest one, or a mean over states). Empty: the panel is left out. // (length, channels)
    pub retention: Vec<f32>,
}

impl TokenMap {
    /// What a figure shows of the map. Channels stand in order of how much they select, the standard deviation of ln Δ
    /// over the tokens, in at most 48 bands of as many channels each; more than 256 tokens are taken in groups. Bands
    /// and groups show means; of attention the groups of [`LayerAttention`].
    pub fn figure(&self) -> TokenFigure {
        let tokens = self.tokens.len();
        let layers = self.layers.iter();
        TokenFigure {
            title: self.title.clone(),
            caption: self.caption.clone(),
            tokens: self.tokens.clone(),
            highlight: self.highlight.clone(),
            layers: layers.map(|layer| bands::pooled(layer, tokens)).collect(),
        }
    }

    fn is_highlighted(&self, token: usize) -> bool {
        self.highlight.get(token).copied().unwrap_or(false)
    }
}

impl LayerMap {
    /// Name of the layer.
    pub fn name(&self) -> &str {
        match self {
            Self::Selection(layer) => &layer.name,
            Self::Attention(layer) => &layer.name,
        }
    }

    /// What the bars of its tokens are.
    fn unit(&self) -> &'static str {
        match self {
            Self::Selection(_) => STEP_SIZE,
            Self::Attention(_) => WEIGHT,
        }
    }

    /// The bar of each token; none where no finite value is known.
    fn bars(&self, tokens: usize) -> Vec<Option<f64>> {
        match self {
            Self::Selection(layer) => layer.mean_deltas(tokens),
            Self::Attention(layer) => {
                let bar = |token| [bands::value(&layer.received, 1, token, 0)].into_iter();
                (0..tokens).map(|token| mean(bar(token))).collect()
            }
        }
    }
}

impl LayerSelection {
    /// Channels that have a value at all.
    fn known_channels(&self, tokens: usize) -> usize {
        self.channels.min(self.delta.len().div_ceil(tokens.max(1)))
    }

    /// Mean of Δ over the channels at each token; none where no channel has a finite value.
    fn mean_deltas(&self, tokens: usize) -> Vec<Option<f64>> {
        let channels = 0..self.known_channels(tokens);
        let at = |token| {
            let steps = channels.clone();
            mean(steps.map(|c| bands::value(&self.delta, self.channels, token, c)))
        };
        (0..tokens).map(at).collect()
    }
}
