//! Checkpoints that come back as they went, and those that must not load.

mod formats;

use std::fs;

use serpens_core::{Device, Tensor};
use serpens_formats::Fault;
use serpens_formats::safetensors::{read_tensors, write_tensors};
use tempfile::TempDir;

use super::*;
use crate::mixers::{H3Config, MambaConfig, MixerConfig, PlainConfig};
use crate::ssm::{AInit, DtRank, S4dConfig, SelectiveSsmConfig, SsmConfig};
use crate::{Error, LoraConfig, Module, ParameterFault, Precision};

fn model(config: &MambaLmConfig) -> MambaLm {
    config.init(Device::cpu(), 3).unwrap()
}

fn parameters(model: &MambaLm) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    let visited = model.visit("", &mut |name, param| {
        all.push((name.to_owned(), param.value()?.to_vec::<f32>()?));
        Ok(())
    });
    visited.unwrap();
    all
}

fn configurations() -> Vec<MambaLmConfig> {
    let base = MambaLmConfig::new(8, 2, 11);
    let mut untied = base.clone();
    untied.tie_embeddings = false;
    let constant = SelectiveSsmConfig {
        selective_dt: false,
        selective_b: false,
        selective_c: false,
        d_state: 3,
        ..SelectiveSsmConfig::default()
    };
    let complex = SelectiveSsmConfig {
        a_init: AInit::Complex,
        dt_rank: DtRank::Fixed(2),
        d_state: 4,
        ..SelectiveSsmConfig::default()
    };
    let held = SelectiveSsmConfig {
        zero_order_hold: true,
        ..SelectiveSsmConfig::default()
    };
    let h3 = H3Config {
        ssm: SsmConfig::from(S4dConfig {
            complex: false,
            train_b: true,
            d_state: 4,
            ..S4dConfig::default()
        }),
        ..H3Config::default()
    };
    let mixed = [MambaConfig::default().into(), h3.clone().into()];
    vec![
        base.clone(),
        untied,
        base.clone().with_mixer(MambaConfig::new(constant)),
        base.clone().with_mixer(MambaConfig::new(complex)),
        base.clone().with_mixer(MambaConfig::new(held)),
        base.clone().with_mixer(MambaConfig::new(S4dConfig {
            d_state: 4,
            ..S4dConfig::default()
        })),
        base.clone().with_mixer(h3),
        base.clone().with_mixer(PlainConfig::default()),
        base.clone().with_mixers(mixed),
        of_every_kind(),
        base.clone().with_mixer(falcon()),
        MambaLmConfig {
            positions: 7,
            ..base.clone()
        },
        MambaLmConfig {
            lora: Some(LoraConfig::default()),
            ..base
        },
    ]
}

fn of_every_kind() -> MambaLmConfig {
    let letters: String = MixerConfig::all().map(|one| one.kind().0).iter().collect();
    MambaLmConfig::new(16, letters.len(), 11).with_layers(letters)
}

fn falcon() -> MambaConfig {
    MambaConfig::new(SelectiveSsmConfig {
        dt_b_c_rms_eps: Some(1e-6),
        dt_rank: DtRank::Fixed(2),
        ..SelectiveSsmConfig::default()
    })
}

#[test]
fn every_kind_of_model_comes_back_as_it_was_saved() {
    for config in configurations() {
        let dir = TempDir::new().unwrap();
        let saved = model(&config);
        save(&saved, dir.path()).unwrap();
        let loaded = load(dir.path(), Device::cpu(), Verify::Digests).unwrap();
        assert_eq!(parameters(&saved), parameters(&loaded), "{config:?}");
        assert_eq!(loaded.config(), &config);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "leftovers");
    }
}

#[test]
fn a_plain_mamba_is_saved_in_the_words_of_hugging_face() {
    let dir = TempDir::new().unwrap();
    save(&model(&MambaLmConfig::new(8, 2, 11)), dir.path()).unwrap();
    let text = fs::read_to_string(dir.path().join(CONFIG_FILE)).unwrap();
    assert!(text.contains(r#""model_type": "mamba""#), "{text}");
    assert!(text.contains(r#""time_step_rank": "auto""#), "{text}");
    assert!(text.contains(r#""hidden_size": 8"#), "{text}");
}

/// Saves a model, lets `spoil` change the folder, and gives the error of loading it.
fn error_after(spoil: impl FnOnce(&Path)) -> String {
    let dir = TempDir::new().unwrap();
    save(&model(&MambaLmConfig::new(8, 2, 11)), dir.path()).unwrap();
    spoil(dir.path());
    let error = load(dir.path(), Device::cpu(), Verify::Digests).expect_err("it must not load");
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn a_truncated_file_is_named() {
    let text = error_after(|dir| {
        let path = dir.join(WEIGHTS_FILE);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(
        text.contains(WEIGHTS_FILE) && text.contains("truncated"),
        "{text}"
    );
}

#[test]
fn foreign_and_missing_files_are_named() {
    let text = error_after(|dir| fs::write(dir.join(WEIGHTS_FILE), "no tensors").unwrap());
    assert!(text.contains(WEIGHTS_FILE), "{text}");
    let text = error_after(|dir| fs::remove_file(dir.join(WEIGHTS_FILE)).unwrap());
    assert!(
        text.contains("cannot read") && text.contains(WEIGHTS_FILE),
        "{text}"
    );
    let text = error_after(|dir| {
        fs::write(dir.join(CONFIG_FILE), r#"{"model_type": "llama"}"#).unwrap();
    });
    assert!(text.contains("llama") && text.contains("mamba"), "{text}");
    let text = error_after(|dir| {
        let path = dir.join(CONFIG_FILE);
        let config = fs::read_to_string(&path).unwrap();
        fs::write(&path, config.replace("silu", "gelu")).unwrap();
    });
    assert!(text.contains("gelu") && text.contains("silu"), "{text}");
    for key in ["layer_norm_epsilon", "expand", "state_size", "use_bias"] {
        let text = error_after(|dir| {
            let path = dir.join(CONFIG_FILE);
            let config = fs::read_to_string(&path).unwrap();
            let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
            config[key] = serde_json::Value::Null;
            fs::write(&path, config.to_string()).unwrap();
        });
        assert!(text.contains("null"), "{key}: {text}");
    }
    let text = error_after(|dir| fs::write(dir.join(CONFIG_FILE), "{").unwrap());
    assert!(text.contains(CONFIG_FILE), "{text}");
}

#[test]
fn shapes_and_names_that_do_not_fit_are_named() {
    let rewrite = |change: fn(&mut Vec<(String, Tensor)>)| {
        error_after(|dir| {
            let path = dir.join(WEIGHTS_FILE);
            let mut tensors: Vec<_> = read_tensors(&path, Device::cpu(), Verify::Digests)
                .unwrap()
                .into_iter()
                .collect();
            change(&mut tensors);
            let tensors: Vec<_> = tensors.iter().map(|(n, t)| (n.clone(), t)).collect();
            write_tensors(&path, &tensors).unwrap();
        })
    };
    let text = rewrite(|tensors| tensors[0].1 = tensors[0].1.reshape([4, 22]).unwrap());
    assert!(
        text.contains("(4, 22)") && text.contains("(11, 8)"),
        "{text}"
    );
    let text = rewrite(|tensors| drop(tensors.pop()));
    assert!(text.contains("missing"), "{text}");
    let text = rewrite(|tensors| {
        let value = tensors[0].1.clone();
        tensors.push(("backbone.stranger".into(), value));
    });
    assert!(text.contains("backbone.stranger"), "{text}");
}

/// The error of loading the folder of a saved model that `spoil` changed.
fn refused(spoil: impl FnOnce(&Path)) -> Error {
    let dir = TempDir::new().unwrap();
    save(&model(&MambaLmConfig::new(8, 2, 11)), dir.path()).unwrap();
    spoil(dir.path());
    let planned = Checkpoint::open(dir.path(), &Options::default()).map(drop);
    let error = load(dir.path(), Device::cpu(), Verify::Digests).expect_err("it must not load");
    if let Err(planned) = planned {
        assert_eq!(planned.to_string(), error.to_string());
    }
    error
}

#[test]
fn more_layers_than_tensors_are_refused_before_they_are_planned() {
    let error = refused(|dir| {
        let path = dir.join(CONFIG_FILE);
        let config = fs::read_to_string(&path).unwrap();
        let many = config.replace(
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 4000000000",
        );
        assert!(many != config);
        fs::write(&path, many).unwrap();
    });
    assert!(
        matches!(
            error,
            Error::TooFewTensors {
                layers: 4_000_000_000,
                tensors: 22,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn parameters_that_two_files_have_are_refused() {
    let error = refused(|dir| {
        let whole = dir.join(WEIGHTS_FILE);
        fs::copy(&whole, dir.join("one")).unwrap();
        fs::rename(&whole, dir.join("two")).unwrap();
        let index = r#"{"weight_map": {"a": "one", "b": "two"}}"#;
        fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    });
    assert!(
        matches!(&error, Error::Parameter { path, fault: ParameterFault::Repeated, .. } if path.ends_with("two")),
        "{error}"
    );
}

#[test]
fn a_damaged_tensor_is_named_and_loaded_only_without_verifying() {
    let dir = TempDir::new().unwrap();
    save(&model(&MambaLmConfig::new(8, 2, 11)), dir.path()).unwrap();
    let path = dir.path().join(WEIGHTS_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1; // the lowest bit but 16 of a mantissa
    fs::write(&path, bytes).unwrap();
    let load = |verify| load(dir.path(), Device::cpu(), verify);
    let error = load(Verify::Digests).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Format(serpens_formats::Error::File {
                path: named,
                source: Fault::Digest(name, ..),
            }) if *named == path && name == "backbone.norm_f.weight"
        ),
        "{error}"
    );
    load(Verify::Nothing).unwrap();
}

#[test]
fn weights_in_several_files_and_in_half_precision_load() {
    use serpens_core::bf16;
    let dir = TempDir::new().unwrap();
    let saved = model(&MambaLmConfig::new(8, 2, 11));
    save(&saved, dir.path()).unwrap();
    let whole = dir.path().join(WEIGHTS_FILE);
    let tensors = read_tensors(&whole, Device::cpu(), Verify::Digests).unwrap();
    fs::remove_file(&whole).unwrap();
    let mut map = serde_json::Map::new();
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let file = format!("half-{}.safetensors", i % 2);
        map.insert(name.clone(), file.into());
        let _ = tensor;
    }
    for half in 0..2 {
        let halves: Vec<(String, Tensor)> = tensors
            .iter()
            .enumerate()
            .filter(|(i, _)| i % 2 == half)
            .map(|(_, (name, tensor))| {
                let values: Vec<bf16> = tensor
                    .as_slice::<f32>()
                    .unwrap()
                    .iter()
                    .map(|v| bf16::from_f32(*v))
                    .collect();
                let tensor = Tensor::from_slice(tensor.shape(), &values, Device::cpu());
                (name.clone(), tensor.unwrap())
            })
            .collect();
        let halves: Vec<_> = halves.iter().map(|(n, t)| (n.clone(), t)).collect();
        write_tensors(
            &dir.path().join(format!("half-{half}.safetensors")),
            &halves,
        )
        .unwrap();
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let loaded = load(dir.path(), Device::cpu(), Verify::Digests).unwrap();
    for ((name, before), (_, after)) in parameters(&saved).iter().zip(parameters(&loaded)) {
        for (b, a) in before.iter().zip(after) {
            assert_eq!(bf16::from_f32(*b).to_f32(), a, "{name}");
        }
    }
}
