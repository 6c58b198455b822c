//! `config.json`, in Hugging Face's words where they suffice.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_formats::json;
use smart_default::SmartDefault;

use crate::mixers::{MambaConfig, MixerConfig};
use crate::ssm::{AInit, DtRank, SelectiveSsmConfig, SsmConfig};
use crate::{Error, MambaLmConfig, PredictorConfig, Result};

/// What a file says, by its `model_type`.
#[derive(Serialize, Deserialize)]
#[serde(
    tag = "model_type",
    rename_all = "snake_case",
    expecting = "a model's configuration"
)]
pub(super) enum ConfigFile {
    /// Hugging Face's.
    Mamba(HfConfig),
    /// The same with norms on Δ, B and C.
    FalconMamba(HfConfig),
    /// Our own, for models that the former cannot describe.
    Serpens { serpens: MambaLmConfig },
    /// The same of models that answer.
    SerpensPredictor { predictor: PredictorConfig },
}

/// The fields of a Hugging Face Mamba configuration that say something about the model; the rest is ignored, and what
/// is left out is as in the library. What other formats say is brought into these words too.
#[derive(Clone, Serialize, Deserialize, SmartDefault)]
#[serde(default)]
pub(super) struct HfConfig {
    #[serde(skip_deserializing)]
    pub(super) architectures: [&'static str; 1],
    #[default = 768]
    pub(super) hidden_size: usize,
    #[default = 32]
    pub(super) num_hidden_layers: usize,
    #[default = 50_280]
    pub(super) vocab_size: usize,
    #[default = 16]
    pub(super) state_size: usize,
    #[default = 4]
    pub(super) conv_kernel: usize,
    #[default = 2]
    pub(super) expand: usize,
    pub(super) time_step_rank: DtRank,
    pub(super) use_bias: bool,
    #[default = true]
    pub(super) use_conv_bias: bool,
    #[default = 1e-5]
    pub(super) layer_norm_epsilon: f32,
    #[default = true]
    pub(super) tie_word_embeddings: bool,
    /// FalconMamba's alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mixer_rms_eps: Option<f32>,
    pub(super) hidden_act: Activation,
}

/// The activations that the kernels have.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Activation {
    #[default]
    Silu,
}

pub(super) fn read(path: &Path) -> Result<MambaLmConfig> {
    Ok(match json::read(path, "model configuration")? {
        ConfigFile::Mamba(hf) => hf.into(),
        ConfigFile::FalconMamba(mut hf) => {
            hf.mixer_rms_eps.get_or_insert(1e-6);
            hf.into()
        }
        ConfigFile::Serpens { serpens } => serpens,
        ConfigFile::SerpensPredictor { .. } => return Err(Error::Answers(path.to_owned())),
    })
}

pub(super) fn read_predictor(path: &Path) -> Result<PredictorConfig> {
    match json::read(path, "model configuration")? {
        ConfigFile::SerpensPredictor { predictor } => Ok(predictor),
        _ => Err(Error::Writes(path.to_owned())),
    }
}

impl ConfigFile {
    pub(super) fn of(config: &MambaLmConfig) -> Self {
        let serpens = config.clone();
        match HfConfig::describe(config) {
            Some(hf) if hf.mixer_rms_eps.is_some() => ConfigFile::FalconMamba(hf),
            Some(hf) => ConfigFile::Mamba(hf),
            None => ConfigFile::Serpens { serpens },
        }
    }
}

impl From<HfConfig> for MambaLmConfig {
    fn from(hf: HfConfig) -> Self {
        let ssm = SelectiveSsmConfig {
            d_state: hf.state_size,
            dt_rank: hf.time_step_rank,
            dt_b_c_rms_eps: hf.mixer_rms_eps,
            ..SelectiveSsmConfig::default()
        };
        let mamba = MambaConfig {
            ssm: ssm.into(),
            expand: hf.expand,
            d_conv: hf.conv_kernel,
            conv_bias: hf.use_conv_bias,
            proj_bias: hf.use_bias,
        };
        let model = MambaLmConfig::new(hf.hidden_size, hf.num_hidden_layers, hf.vocab_size);
        MambaLmConfig {
            tie_embeddings: hf.tie_word_embeddings,
            norm_eps: hf.layer_norm_epsilon,
            ..model.with_mixer(mamba)
        }
    }
}

impl HfConfig {
    /// The same model in Hugging Face's words; `None` where they do not suffice.
    pub(super) fn describe(config: &MambaLmConfig) -> Option<HfConfig> {
        let mut mixers = config.layer_mixers().ok()?;
        mixers.dedup();
        let [MixerConfig::Mamba(mamba)] = &mixers[..] else {
            return None;
        };
        let SsmConfig::S6(ssm) = &mamba.ssm else {
            return None;
        };
        // How the weights began is no matter to a trained model; which parameters there are is.
        let all_selective = ssm.selective_dt && ssm.selective_b && ssm.selective_c;
        let of_ssm = ssm.a_init == AInit::Complex || ssm.zero_order_hold;
        let extras = of_ssm || config.lora.is_some() || config.positions > 0;
        if !all_selective || extras || ssm.dt_rank == DtRank::Fixed(0) {
            return None;
        }
        Some(HfConfig {
            architectures: [match ssm.dt_b_c_rms_eps {
                Some(_) => "FalconMambaForCausalLM",
                None => "MambaForCausalLM",
            }],
            hidden_size: config.d_model,
            num_hidden_layers: config.n_layer,
            vocab_size: config.vocab_size,
            state_size: ssm.d_state,
            conv_kernel: mamba.d_conv,
            expand: mamba.expand,
            time_step_rank: ssm.dt_rank,
            use_bias: mamba.proj_bias,
            use_conv_bias: mamba.conv_bias,
            layer_norm_epsilon: config.norm_eps,
            tie_word_embeddings: config.tie_embeddings,
            mixer_rms_eps: ssm.dt_b_c_rms_eps,
            hidden_act: Activation::Silu,
        })
    }
}
