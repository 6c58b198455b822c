//! `config.json`, in Hugging Face's words where they suffice.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serpens_core::files::{Durability, write_atomically};

use crate::mixers::{MambaConfig, MixerConfig};
use crate::ssm::{AInit, DtRank, SelectiveSsmConfig, SsmConfig};
use crate::{Error, MambaLmConfig, Result};

/// The fields of a Hugging Face Mamba configuration that say something about the model; the rest is ignored.
#[derive(Debug, Serialize, Deserialize)]
struct HfConfig {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    vocab_size: usize,
    #[serde(default = "sixteen")]
    state_size: usize,
    #[serde(default = "four")]
    conv_kernel: usize,
    #[serde(default = "two")]
    expand: usize,
    #[serde(default)]
    time_step_rank: DtRank,
    #[serde(default)]
    use_bias: bool,
    #[serde(default = "yes")]
    use_conv_bias: bool,
    #[serde(default = "eps")]
    layer_norm_epsilon: f32,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    #[serde(default = "activation")]
    hidden_act: String,
}

fn sixteen() -> usize {
    16
}

fn four() -> usize {
    4
}

fn two() -> usize {
    2
}

fn yes() -> bool {
    true
}

fn eps() -> f32 {
    1e-5
}

fn activation() -> String {
    "silu".into()
}

/// Serpens's own: a [`MambaLmConfig`] with a mark.
#[derive(Serialize, Deserialize)]
struct OwnConfig {
    model_type: String,
    serpens: MambaLmConfig,
}

const HF_TYPE: &str = "mamba";
const OWN_TYPE: &str = "serpens";

pub(super) fn read(path: &Path) -> Result<MambaLmConfig> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let malformed = |reason: String| Error::Malformed {
        path: path.to_owned(),
        kind: "model configuration",
        reason,
    };
    let value: Value = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
    match value.get("model_type").and_then(Value::as_str) {
        Some(HF_TYPE) => {
            let config: HfConfig =
                serde_json::from_value(value).map_err(|e| malformed(e.to_string()))?;
            if config.hidden_act != activation() {
                return Err(malformed(format!(
                    "hidden_act is {:?}, only \"silu\" is known",
                    config.hidden_act
                )));
            }
            Ok(config.into())
        }
        Some(OWN_TYPE) => serde_json::from_value::<OwnConfig>(value)
            .map(|config| config.serpens)
            .map_err(|e| malformed(e.to_string())),
        Some(other) => Err(malformed(format!(
            "model_type is {other:?}; this program reads {HF_TYPE:?} and {OWN_TYPE:?}"
        ))),
        None => Err(malformed("it names no model_type".into())),
    }
}

pub(super) fn write(config: &MambaLmConfig, path: &Path) -> Result<()> {
    let text = match HfConfig::describe(config) {
        Some(config) => serde_json::to_string_pretty(&config),
        None => serde_json::to_string_pretty(&OwnConfig {
            model_type: OWN_TYPE.into(),
            serpens: config.clone(),
        }),
    }
    .expect("a configuration has string keys and finite numbers only");
    let written = write_atomically(path, Durability::OnDisk, |file| {
        file.write_all(text.as_bytes())
    });
    written.map_err(Error::io("write", path))
}

impl From<HfConfig> for MambaLmConfig {
    fn from(hf: HfConfig) -> Self {
        let ssm = SelectiveSsmConfig {
            dt_rank: hf.time_step_rank,
            ..SelectiveSsmConfig::new(hf.state_size)
        };
        let mamba = MambaConfig {
            expand: hf.expand,
            d_conv: hf.conv_kernel,
            conv_bias: hf.use_conv_bias,
            proj_bias: hf.use_bias,
            ..MambaConfig::new(ssm)
        };
        MambaLmConfig {
            tie_embeddings: hf.tie_word_embeddings,
            norm_eps: hf.layer_norm_epsilon,
            ..MambaLmConfig::new(hf.hidden_size, hf.num_hidden_layers, hf.vocab_size)
                .with_mixer(mamba)
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
        if !all_selective || ssm.a_init == AInit::Complex || ssm.dt_rank == DtRank::Fixed(0) {
            return None;
        }
        Some(HfConfig {
            model_type: HF_TYPE.into(),
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
            hidden_act: activation(),
        })
    }
}
