//! `config.json`, in Hugging Face's words where they suffice.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serpens_formats::json;

use crate::mixers::{MambaConfig, MixerConfig};
use crate::ssm::{AInit, DtRank, SelectiveSsmConfig, SsmConfig};
use crate::{MambaLmConfig, Result};

/// What a file says, by its `model_type`.
#[derive(Serialize, Deserialize)]
#[serde(
    tag = "model_type",
    rename_all = "lowercase",
    expecting = "a model's configuration"
)]
enum ConfigFile {
    /// Hugging Face's.
    Mamba(HfConfig),
    /// Our own, for models that the former cannot describe.
    Serpens { serpens: MambaLmConfig },
}

/// The fields of a Hugging Face Mamba configuration that say something about the model; the rest is ignored.
#[derive(Serialize, Deserialize)]
struct HfConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    vocab_size: usize,
    #[serde(default, deserialize_with = "stated")]
    state_size: Option<usize>,
    #[serde(default, deserialize_with = "stated")]
    conv_kernel: Option<usize>,
    #[serde(default, deserialize_with = "stated")]
    expand: Option<usize>,
    #[serde(default)]
    time_step_rank: DtRank,
    #[serde(default, deserialize_with = "stated")]
    use_bias: Option<bool>,
    #[serde(default, deserialize_with = "stated")]
    use_conv_bias: Option<bool>,
    #[serde(default, deserialize_with = "stated")]
    layer_norm_epsilon: Option<f32>,
    #[serde(default, deserialize_with = "stated")]
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    hidden_act: Activation,
}

/// What may be left out has a value where it stands: null is none.
fn stated<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    value: D,
) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// The activations that the kernels have.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Activation {
    #[default]
    Silu,
}

pub(super) fn read(path: &Path) -> Result<MambaLmConfig> {
    Ok(match json::read(path, "model configuration")? {
        ConfigFile::Mamba(hf) => hf.into(),
        ConfigFile::Serpens { serpens } => serpens,
    })
}

pub(super) fn write(config: &MambaLmConfig, path: &Path) -> Result<()> {
    let serpens = config.clone();
    let own = ConfigFile::Serpens { serpens };
    let file = HfConfig::describe(config).map_or(own, ConfigFile::Mamba);
    Ok(json::write(path, &file)?)
}

impl From<HfConfig> for MambaLmConfig {
    /// What the file leaves out is as in the paper, which is what the library does.
    fn from(hf: HfConfig) -> Self {
        let paper = SelectiveSsmConfig::default();
        let mamba = MambaConfig::new(SelectiveSsmConfig {
            d_state: hf.state_size.unwrap_or(paper.d_state),
            dt_rank: hf.time_step_rank,
            ..paper
        });
        let mamba = MambaConfig {
            expand: hf.expand.unwrap_or(mamba.expand),
            d_conv: hf.conv_kernel.unwrap_or(mamba.d_conv),
            conv_bias: hf.use_conv_bias.unwrap_or(mamba.conv_bias),
            proj_bias: hf.use_bias.unwrap_or(mamba.proj_bias),
            ..mamba
        };
        let model = MambaLmConfig::new(hf.hidden_size, hf.num_hidden_layers, hf.vocab_size);
        MambaLmConfig {
            tie_embeddings: hf.tie_word_embeddings.unwrap_or(model.tie_embeddings),
            norm_eps: hf.layer_norm_epsilon.unwrap_or(model.norm_eps),
            ..model.with_mixer(mamba)
        }
    }
}

impl HfConfig {
    /// The same model in Hugging Face's words; `None` where they do not suffice.
    fn describe(config: &MambaLmConfig) -> Option<HfConfig> {
        let [MixerConfig::Mamba(mamba)] = &config.mixers[..] else {
            return None;
        };
        let SsmConfig::S6(ssm) = &mamba.ssm else {
            return None;
        };
        // How the weights began is no matter to a trained model; which parameters there are is.
        let all_selective = ssm.selective_dt && ssm.selective_b && ssm.selective_c;
        let extras = ssm.a_init == AInit::Complex || config.lora.is_some();
        if !all_selective || extras || ssm.dt_rank == DtRank::Fixed(0) {
            return None;
        }
        Some(HfConfig {
            hidden_size: config.d_model,
            num_hidden_layers: config.n_layer,
            vocab_size: config.vocab_size,
            state_size: Some(ssm.d_state),
            conv_kernel: Some(mamba.d_conv),
            expand: Some(mamba.expand),
            time_step_rank: ssm.dt_rank,
            use_bias: Some(mamba.proj_bias),
            use_conv_bias: Some(mamba.conv_bias),
            layer_norm_epsilon: Some(config.norm_eps),
            tie_word_embeddings: Some(config.tie_embeddings),
            hidden_act: Activation::Silu,
        })
    }
}
