//! The layout of the original program (`state-spaces/mamba-*`).

use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_formats::json;
use smart_default::SmartDefault;

use super::hf::HfConfig;
use super::layout::Layout;
use crate::ssm::DtRank;
use crate::{Error, MambaLmConfig, Result};

pub(super) static LAYOUT: Layout = Layout {
    names: &[("backbone.embeddings.", "backbone.embedding.")],
    forms: &[],
};

/// eps of its normalisations, which no configuration says.
const NORM_EPS: f32 = 1e-5;

/// Its `config.json`; what is left out is as in the program.
#[derive(Serialize, Deserialize, SmartDefault)]
#[serde(default)]
pub(super) struct Config {
    #[default = 2560]
    d_model: usize,
    /// Width of an MLP in each layer.
    d_intermediate: usize,
    #[default = 64]
    n_layer: usize,
    #[default = 50_277]
    vocab_size: usize,
    ssm_cfg: SsmCfg,
    attn_layer_idx: Vec<usize>,
    #[default = true]
    rms_norm: bool,
    #[default = 8]
    pad_vocab_size_multiple: usize,
    #[default = true]
    tie_embeddings: bool,
}

#[derive(Serialize, Deserialize, SmartDefault)]
#[serde(default)]
struct SsmCfg {
    #[default = "Mamba1"]
    #[serde(skip_serializing)]
    layer: String,
    #[default = 16]
    d_state: usize,
    #[default = 4]
    d_conv: usize,
    #[default = 2]
    expand: usize,
    dt_rank: DtRank,
    #[default = true]
    conv_bias: bool,
    bias: bool,
}

/// # Errors
/// [`Error::OtherModel`] for what is not computed here.
pub(super) fn read(path: &Path) -> Result<MambaLmConfig> {
    let config: Config = json::read(path, "model configuration")?;
    let (ssm, attention) = (&config.ssm_cfg, &config.attn_layer_idx);
    let inner = config.d_intermediate;
    Error::refuse(
        path,
        [
            ("ssm_cfg.layer", ssm.layer != "Mamba1", &ssm.layer),
            ("attn_layer_idx", !attention.is_empty(), attention),
            ("d_intermediate", inner > 0, &inner),
            ("rms_norm", !config.rms_norm, &false),
        ],
    )?;
    let multiple = config.pad_vocab_size_multiple.max(1);
    let vocab_size = config.vocab_size.checked_next_multiple_of(multiple);
    Ok(HfConfig {
        hidden_size: config.d_model,
        num_hidden_layers: config.n_layer,
        vocab_size: vocab_size.unwrap_or(usize::MAX),
        state_size: ssm.d_state,
        conv_kernel: ssm.d_conv,
        expand: ssm.expand,
        time_step_rank: ssm.dt_rank,
        use_bias: ssm.bias,
        use_conv_bias: ssm.conv_bias,
        layer_norm_epsilon: NORM_EPS,
        tie_word_embeddings: config.tie_embeddings,
        ..HfConfig::default()
    }
    .into())
}

/// # Errors
/// [`Error::Inexpressible`].
pub(super) fn describe(hf: &HfConfig) -> Result<Config> {
    if hf.mixer_rms_eps.is_some() || hf.layer_norm_epsilon != NORM_EPS {
        let what = "norms on Δ, B and C, or a norm_eps other than 1e-5";
        return Err(Error::Inexpressible(what));
    }
    Ok(Config {
        d_model: hf.hidden_size,
        n_layer: hf.num_hidden_layers,
        vocab_size: hf.vocab_size,
        ssm_cfg: SsmCfg {
            d_state: hf.state_size,
            d_conv: hf.conv_kernel,
            expand: hf.expand,
            dt_rank: hf.time_step_rank,
            conv_bias: hf.use_conv_bias,
            bias: hf.use_bias,
            ..SsmCfg::default()
        },
        // The tensors have as many rows as the configuration says.
        pad_vocab_size_multiple: 1,
        tie_embeddings: hf.tie_word_embeddings,
        ..Config::default()
    })
}
