//! What was learnt by low-rank adaptation alone, in the layout of the PEFT library.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serpens_formats::{Encoding, json, safetensors};
use smart_default::SmartDefault;

use super::Verify;
use super::layout::HUGGING_FACE;
use super::weights::{Incoming, Names, Outgoing};
use crate::lora::is_added;
use crate::{Error, LoraConfig, MambaLm, Module, Param, Result};

const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

fn names() -> Names {
    Names(&HUGGING_FACE, "base_model.model.".to_owned())
}

/// The fields of PEFT's configuration that say something about what is computed, and those that it wants.
#[derive(Serialize, Deserialize, SmartDefault)]
#[serde(default)]
struct Config {
    #[default = "LORA"]
    peft_type: String,
    #[default = "CAUSAL_LM"]
    task_type: String,
    base_model_name_or_path: Option<String>,
    #[default = 8]
    r: usize,
    #[default = 8.0]
    lora_alpha: f32,
    lora_dropout: f32,
    target_modules: Vec<String>,
    modules_to_save: Option<Vec<String>>,
    #[default = "none"]
    bias: String,
    alpha_pattern: BTreeMap<String, f32>,
    use_rslora: bool,
    use_dora: bool,
    #[default = true]
    inference_mode: bool,
    #[serde(flatten, skip_serializing)]
    others: BTreeMap<String, Value>,
}

/// Fields that say that something else is computed, unless they are empty.
const OTHER_KINDS: [&str; 11] = [
    "alora_invocation_tokens",
    "exclude_modules",
    "fan_in_fan_out",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_bias",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
];

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => false,
    }
}

/// Writes what [`MambaLm::adapt`] had trained to the folder `dir`, made where it is missing, as the PEFT library does,
/// with the name of the model that it is added to, where that is known.
///
/// # Errors
/// [`Error::NotAdapted`]; what the file system says.
pub fn save_adapter(model: &MambaLm, dir: &Path, base: Option<String>) -> Result<()> {
    let lora = model.config().lora.as_ref().ok_or(Error::NotAdapted)?;
    let config = Config {
        base_model_name_or_path: base,
        r: lora.rank,
        lora_alpha: lora.alpha,
        target_modules: lora.targets.clone(),
        ..Config::default()
    };
    let wanted = |name: &str, _: &Param| is_added(name);
    let outgoing = Outgoing::new(model, wanted, &names(), |_| Encoding::F32, Param::merged)?;
    outgoing.write(dir, &config, FILES)
}

/// Reads what the PEFT library, or [`save_adapter`], wrote to a folder, and adds it to the model, which is the one that
/// it was trained with; see [`MambaLm::adapt`].
///
/// # Errors
/// [`Error::OtherModel`] for another kind of adapter; [`Error::NoValue`] for a model that is not held in f32; files and
/// parameters as in [`super::load`].
pub fn load_adapter(model: &mut MambaLm, dir: &Path, verify: Verify) -> Result<()> {
    let [path, weights] = FILES.map(|file| dir.join(file));
    let config: Config = json::read(&path, "configuration of an adapter")?;
    for field in OTHER_KINDS {
        let found = config.others.get(field).unwrap_or(&Value::Null);
        Error::refuse(&path, [(field, !is_empty(found), found)])?;
    }
    let alphas = &config.alpha_pattern;
    let whole = config.modules_to_save.unwrap_or_default();
    Error::refuse(
        &path,
        [
            ("peft_type", config.peft_type != "LORA", &config.peft_type),
            ("bias", config.bias != "none", &config.bias),
            ("alpha_pattern", !alphas.is_empty(), alphas),
            ("modules_to_save", !whole.is_empty(), &whole),
            ("use_rslora", config.use_rslora, &true),
            ("use_dora", config.use_dora, &true),
        ],
    )?;
    let weights = Incoming {
        files: vec![safetensors::open(&weights, verify)?],
        path: weights,
        names: names(),
    };
    let lora = LoraConfig {
        rank: config.r,
        alpha: config.lora_alpha,
        targets: config.target_modules,
    };
    model.adapt(lora, 0)?;
    weights.check(model, |name, _| is_added(name))?;
    let device = model.device();
    model.visit_mut("", &mut |name, param| match weights.value(name, param)? {
        Some(value) => param.set(value.to(device)?),
        None => Ok(()),
    })
}
