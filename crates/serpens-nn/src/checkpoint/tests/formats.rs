//! Formats of other programs: there and back, and what is refused of them.

use serpens_formats::gguf as file;
use serpens_ops::quantized_linear::Blocks;

use super::*;
use crate::checkpoint::layout::HUGGING_FACE;
use crate::checkpoint::weights::{Names, Outgoing};
use crate::lora::is_added;
use crate::{LoraConfig, ParameterFault, Start};

fn export_to(model: &MambaLm, path: &Path, format: Format, encoding: Encoding) -> Vec<String> {
    let mut metadata = Metadata::default();
    metadata.set("general.name", "a test".to_owned());
    export(model, path, format, &|_| encoding, metadata).unwrap()
}

fn opened(path: &Path) -> Checkpoint {
    Checkpoint::open(path, &Options::default()).unwrap()
}

fn loaded(path: &Path) -> MambaLm {
    opened(path).load(Device::Cpu).unwrap()
}

/// Moved off what it starts with, so that A differs from channel to channel.
fn trained(config: &MambaLmConfig) -> MambaLm {
    let mut model = model(config);
    let moved = model.visit_mut("", &mut |name, param| {
        if !param.trained {
            return Ok(());
        }
        let by = Start::Normal { std: 0.1 }.draw(param.shape(), name, 9, Device::Cpu)?;
        let mut value = param.value()?.clone();
        for (v, by) in value
            .make_mut::<f32>()?
            .iter_mut()
            .zip(by.as_slice::<f32>()?)
        {
            *v += by;
        }
        param.set(value)
    });
    moved.unwrap();
    model
}

/// Plain, with a head of its own, and with norms on Δ, B and C.
fn published() -> [MambaLmConfig; 3] {
    let base = MambaLmConfig::new(16, 2, 11);
    let untied = MambaLmConfig {
        tie_embeddings: false,
        ..base.clone()
    };
    let falcon = MambaLmConfig {
        norm_eps: 1e-6,
        ..base.clone().with_mixer(falcon())
    };
    [base, untied, falcon]
}

#[test]
fn models_go_to_other_formats_and_back_and_files_to_the_bit() {
    for config in published() {
        let dir = TempDir::new().unwrap();
        let saved = trained(&config);
        let paths = ["a.gguf", "b.gguf"].map(|name| dir.path().join(name));
        assert!(export_to(&saved, &paths[0], Format::Gguf, Encoding::F32).is_empty());
        let there = loaded(&paths[0]);
        export_to(&there, &paths[1], Format::Gguf, Encoding::F32);
        assert_eq!(fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap());
        for ((name, before), (_, after)) in parameters(&saved).iter().zip(parameters(&there)) {
            // A's logarithm is rounded on its way.
            let allowed = if name.ends_with("A_log") {
                1e-6_f32
            } else {
                0.0
            };
            let mut pairs = before.iter().zip(after);
            assert!(pairs.all(|(b, a)| (b - a).abs() <= allowed), "{name}");
        }
        let metadata = opened(&paths[0]);
        let metadata = metadata.metadata().unwrap();
        assert_eq!(metadata.get::<String>("general.name").unwrap(), "a test");
        for format in [Format::Hf, Format::OriginalNames] {
            let folder = dir.path().join(format.to_string());
            let norms = config.mixers != MambaLmConfig::new(16, 2, 11).mixers;
            if format == Format::OriginalNames && norms {
                let error = export(
                    &saved,
                    &folder,
                    format,
                    &|_| Encoding::F32,
                    Metadata::default(),
                );
                assert!(matches!(error, Err(Error::Inexpressible(_))));
                continue;
            }
            export_to(&saved, &folder, format, Encoding::F32);
            let back = loaded(&folder);
            assert_eq!(parameters(&saved), parameters(&back), "{format}");
            assert_eq!(back.config(), &config, "{format}");
        }
    }
}

#[test]
fn narrower_encodings_hold_the_nearest_values_and_what_they_must_not_touch() {
    let config = MambaLmConfig::new(32, 1, 11);
    let saved = trained(&config);
    for (encoding, allowed) in [
        (Encoding::F16, 5e-4),
        (Encoding::BF16, 4e-3),
        (Encoding::Blocks(Blocks::Q8_0), 1.0 / 127.0),
        (Encoding::Blocks(Blocks::Q4_0), 1.0 / 7.0),
    ] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("a.gguf");
        export_to(&saved, &path, Format::Gguf, encoding);
        let stored = file::open(&path).unwrap().1;
        assert_eq!(stored.encoding("blk.0.ssm_in.weight"), Some(encoding));
        for kept in [
            "ssm_a",
            "ssm_d",
            "ssm_conv1d.weight",
            "ssm_dt.bias",
            "attn_norm.weight",
        ] {
            let kept = format!("blk.0.{kept}");
            assert_eq!(stored.encoding(&kept), Some(Encoding::F32), "{kept}");
        }
        // Rows of two values are no blocks.
        let blocks = matches!(encoding, Encoding::Blocks(_));
        let dt = if blocks { Encoding::BF16 } else { encoding };
        assert_eq!(stored.encoding("blk.0.ssm_dt.weight"), Some(dt));
        for ((name, before), (_, after)) in
            parameters(&saved).iter().zip(parameters(&loaded(&path)))
        {
            let largest = before.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let mut pairs = before.iter().zip(after);
            assert!(
                pairs.all(|(b, a)| (b - a).abs() <= allowed * largest),
                "{encoding}: {name}"
            );
        }
        let folder = dir.path().join("hf");
        let hf = export(
            &saved,
            &folder,
            Format::Hf,
            &|_| encoding,
            Metadata::default(),
        );
        match blocks {
            true => {
                assert!(matches!(hf, Err(Error::Format(_))), "{encoding}");
                assert!(!folder.exists(), "nothing is left of what cannot be");
            }
            false => drop(loaded(&folder)),
        }
    }
}

#[test]
fn an_adapter_is_merged_on_its_way_out_and_kept_where_it_is_gone_on_with() {
    let mut model = trained(&MambaLmConfig::new(16, 2, 11));
    model.adapt(LoraConfig::default(), 4).unwrap();
    let moved = model.visit_mut(
        "",
        &mut |name, param| match name.ends_with("lora_B.weight") {
            true => param.set(Tensor::full(param.shape(), 0.1_f32, Device::Cpu)?),
            false => Ok(()),
        },
    );
    moved.unwrap();
    let dir = TempDir::new().unwrap();
    export_to(&model, dir.path(), Format::Hf, Encoding::F32);
    let out = parameters(&loaded(dir.path()));
    let mut merged = model.clone();
    merged.merge().unwrap();
    assert_eq!(out, parameters(&merged));
    save(&model, dir.path()).unwrap();
    let kept = loaded(dir.path());
    assert_eq!(parameters(&kept), parameters(&model));
    let trained = |model: &MambaLm| model.count(|param| param.trained && !param.frozen).unwrap();
    assert_eq!(trained(&kept), trained(&model));
    let error = save_adapter(&merged, dir.path(), None).unwrap_err();
    assert!(matches!(error, Error::NotAdapted));
}

#[test]
fn adapters_of_other_kinds_and_of_other_models_are_refused() {
    let mut model = model(&MambaLmConfig::new(16, 2, 11));
    model.adapt(LoraConfig::default(), 4).unwrap();
    let dir = TempDir::new().unwrap();
    save_adapter(&model, dir.path(), Some("base".into())).unwrap();
    let path = dir.path().join("adapter_config.json");
    let good = fs::read_to_string(&path).unwrap();
    let refused = |from: &str, to: &str| {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        fs::write(&path, text).unwrap();
        let error = load_adapter(&mut model.clone(), dir.path(), Verify::Digests).unwrap_err();
        fs::write(&path, &good).unwrap();
        error.to_string()
    };
    for (from, to, named) in [
        (r#""LORA""#, r#""IA3""#, r#"peft_type = "IA3""#),
        (r#""none""#, r#""all""#, r#"bias = "all""#),
        (
            r#""use_dora": false"#,
            r#""use_dora": true"#,
            "use_dora = true",
        ),
        (
            r#""alpha_pattern": {}"#,
            r#""alpha_pattern": {"x_proj": 2.0}"#,
            "alpha_pattern",
        ),
        (
            r#""modules_to_save": null"#,
            r#""modules_to_save": ["lm_head"]"#,
            r#"modules_to_save = ["lm_head"]"#,
        ),
        (
            r#""r": 8"#,
            r#""r": 4"#,
            "base_model.model.backbone.layers.0.mixer.in_proj.lora_A.weight",
        ),
        (
            r#""r": 8"#,
            r#""r": 8, "layers_to_transform": [0]"#,
            "layers_to_transform",
        ),
        (
            r#""r": 8"#,
            r#""r": 8, "lora_bias": true, "rank_pattern": {}, "layers_pattern": null"#,
            "lora_bias",
        ),
        (r#""in_proj","#, "", "has no place in this model"),
    ] {
        let text = refused(from, to);
        assert!(text.contains(named) && text.lines().count() == 1, "{text}");
    }
    // Nor is a matrix that is whole, whatever is said of it, taken for the model's.
    let mut other = self::model(&published()[1]);
    other.adapt(LoraConfig::default(), 4).unwrap();
    let wanted = |name: &str, _: &Param| is_added(name) || name == "lm_head.weight";
    let names = Names(&HUGGING_FACE, "base_model.model.".to_owned());
    let weights = Outgoing::new(&other, wanted, &names, |_| Encoding::F32, Param::merged).unwrap();
    let files = ["other.json", "adapter_model.safetensors"];
    weights.write(dir.path(), &(), files).unwrap();
    let error = load_adapter(&mut other, dir.path(), Verify::Digests).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Parameter { name, fault: ParameterFault::Surplus, .. }
                if name == "base_model.model.lm_head.weight"
        ),
        "{error}"
    );
    save_adapter(&model, dir.path(), None).unwrap();
    let mut other = self::model(&MambaLmConfig::new(16, 3, 11));
    let error = load_adapter(&mut other, dir.path(), Verify::Digests).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Parameter {
                fault: ParameterFault::Missing,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn two_eps_of_norms_become_one_in_gguf_and_it_is_said() {
    let dir = TempDir::new().unwrap();
    let model = model(&MambaLmConfig::new(16, 1, 11).with_mixer(falcon()));
    let said = export_to(
        &model,
        &dir.path().join("a.gguf"),
        Format::Gguf,
        Encoding::F32,
    );
    assert_eq!(said.len(), 1);
    assert!(
        said[0].contains("0.00001 on Δ, B and C too, not 0.000001"),
        "{said:?}"
    );
}

#[test]
fn models_that_a_format_has_no_words_for_are_refused() {
    let base = MambaLmConfig::new(16, 1, 11);
    let mamba = |change: fn(&mut MambaConfig)| {
        let mut mamba = MambaConfig::default();
        change(&mut mamba);
        base.clone().with_mixer(mamba)
    };
    let eps = MambaLmConfig {
        norm_eps: 1e-6,
        ..base.clone()
    };
    let h3 = base.clone().with_mixer(H3Config::default());
    let held = base
        .clone()
        .with_mixer(MambaConfig::new(SelectiveSsmConfig {
            zero_order_hold: true,
            ..SelectiveSsmConfig::default()
        }));
    for (config, format) in [
        (held.clone(), Format::Gguf),
        (held, Format::OriginalNames),
        (mamba(|m| m.proj_bias = true), Format::Gguf),
        (mamba(|m| m.conv_bias = false), Format::Gguf),
        (mamba(|m| m.expand = 3), Format::Gguf),
        (h3.clone(), Format::Gguf),
        (h3, Format::OriginalNames),
        (eps, Format::OriginalNames),
    ] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("a.gguf");
        let model = model(&config);
        let error = export(
            &model,
            &path,
            format,
            &|_| Encoding::F32,
            Metadata::default(),
        )
        .unwrap_err();
        assert!(matches!(error, Error::Inexpressible(_)), "{error}");
    }
}

/// Exports a model, lets `spoil` change what is written, and gives the error of opening it.
fn refused_file(spoil: impl Fn(&mut Metadata, &mut Vec<serpens_formats::Planned>)) -> String {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.gguf");
    export_to(
        &model(&MambaLmConfig::new(16, 1, 11)),
        &path,
        Format::Gguf,
        Encoding::F32,
    );
    let (mut metadata, from) = file::open(&path).unwrap();
    let planned = from
        .tensors()
        .map(|(name, shape)| serpens_formats::Planned {
            name: name.to_owned(),
            shape,
            encoding: Encoding::F32,
        });
    let mut planned: Vec<_> = planned.collect();
    spoil(&mut metadata, &mut planned);
    let other = dir.path().join("other.gguf");
    let value =
        |planned: &serpens_formats::Planned| Ok(Tensor::full(planned.shape, 0.5_f32, Device::Cpu)?);
    file::write(&other, &metadata, &planned, value).unwrap();
    let opened = Checkpoint::open(&other, &Options::default());
    let error = opened
        .and_then(|opened| opened.load(Device::Cpu))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("other.gguf") && error.lines().count() == 1,
        "{error}"
    );
    error
}

#[test]
fn gguf_files_that_are_of_other_models_or_contradict_themselves_are_refused() {
    let text = refused_file(|metadata, _| metadata.set("general.architecture", "llama".to_owned()));
    assert!(text.contains("general.architecture = llama"), "{text}");
    let text = refused_file(|metadata, _| metadata.set("mamba.ssm.inner_size", 40_u32));
    assert!(text.contains("mamba.ssm.inner_size = 40"), "{text}");
    let text = refused_file(|metadata, _| metadata.set("mamba.embedding_length", 0_u32));
    assert!(text.contains("mamba.ssm.inner_size"), "{text}");
    let text = refused_file(|metadata, _| metadata.set("mamba.block_count", 3_000_000_000_u32));
    assert!(text.contains("too few for the 3000000000 layers"), "{text}");
    let text = refused_file(|metadata, _| metadata.set("mamba.block_count", 2_u32));
    assert!(
        text.contains("blk.1.") && text.contains("missing"),
        "{text}"
    );
    let text = refused_file(|metadata, _| metadata.set("mamba.ssm.state_size", 8_u32));
    assert!(
        text.contains("blk.0.") && text.contains("(32, 16)") || text.contains("(33, 32)"),
        "{text}"
    );
    let text = refused_file(|metadata, _| metadata.set("mamba.vocab_size", "many".to_owned()));
    assert!(text.contains("mamba.vocab_size"), "{text}");
    let text = refused_file(|_, planned| planned[0].name = "blk.0.stranger".to_owned());
    assert!(text.contains("missing"), "{text}");
    let text = refused_file(|_, _| {});
    assert!(
        text.contains("blk.0.ssm_a") && text.contains("above zero"),
        "{text}"
    );
}

/// The error of opening a folder of the original program's with these settings.
fn refused_config(settings: &str) -> String {
    let dir = TempDir::new().unwrap();
    let text = format!(r#"{{"d_model": 16, "n_layer": 1, "vocab_size": 11, {settings}}}"#);
    fs::write(dir.path().join(CONFIG_FILE), text).unwrap();
    let error = Checkpoint::open(dir.path(), &Options::default())
        .err()
        .unwrap();
    error.to_string()
}

#[test]
fn layers_of_the_original_program_that_are_not_computed_are_refused_by_name() {
    for (settings, named) in [
        (
            r#""ssm_cfg": {"layer": "Mamba2"}"#,
            "ssm_cfg.layer = \"Mamba2\"",
        ),
        (r#""attn_layer_idx": [3, 9]"#, "attn_layer_idx = [3, 9]"),
        (r#""d_intermediate": 64"#, "d_intermediate = 64"),
        (r#""rms_norm": false"#, "rms_norm = false"),
        (r#""ssm_cfg": {"d_state": null}"#, "null"),
        (r#""ssm_cfg": {}"#, WEIGHTS_FILE),
    ] {
        let text = refused_config(settings);
        assert!(text.contains(named), "{settings}: {text}");
    }
}

#[test]
fn a_vocabulary_is_filled_up_and_tensors_are_found_under_a_prefix_and_in_a_file_by_itself() {
    let dir = TempDir::new().unwrap();
    let saved = trained(&MambaLmConfig::new(16, 1, 16));
    export_to(&saved, dir.path(), Format::OriginalNames, Encoding::F32);
    let config = r#"{"d_model": 16, "n_layer": 1, "vocab_size": 11, "pad_vocab_size_multiple": 8}"#;
    fs::write(dir.path().join(CONFIG_FILE), config).unwrap();
    let weights = dir.path().join(WEIGHTS_FILE);
    let tensors = read_tensors(&weights, Device::Cpu, Verify::Digests).unwrap();
    let prefixed = tensors
        .iter()
        .map(|(name, tensor)| (format!("model.{name}"), tensor));
    let stray = (
        "optimizer.step".to_owned(),
        &tensors["backbone.norm_f.weight"],
    );
    let renamed = dir.path().join("renamed.safetensors");
    write_tensors(&renamed, &prefixed.chain([stray]).collect::<Vec<_>>()).unwrap();
    fs::remove_file(&weights).unwrap();
    for prefix in ["model", "model."] {
        let options = Options {
            prefix: prefix.to_owned(),
            ..Options::default()
        };
        let model = Checkpoint::open(&renamed, &options)
            .unwrap()
            .load(Device::Cpu)
            .unwrap();
        assert_eq!(parameters(&model), parameters(&saved));
    }
    let error = Checkpoint::open(&renamed, &Options::default())
        .err()
        .unwrap();
    assert!(
        matches!(error, Error::Parameter { name, fault: ParameterFault::Missing, .. } if name == "backbone.embedding.weight")
    );
}

#[test]
fn a_pickle_in_a_folder_is_found_whole_or_by_its_index_and_after_safetensors() {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/original-tiny");
    let expected = parameters(&loaded(&from));
    let dir = TempDir::new().unwrap();
    fs::copy(from.join(CONFIG_FILE), dir.path().join(CONFIG_FILE)).unwrap();
    let shard = dir.path().join("weights.bin");
    fs::copy(from.join(PICKLED_FILE), &shard).unwrap();
    assert_eq!(parameters(&loaded(&shard)), expected, "a file by itself");
    let index = dir.path().join("pytorch_model.bin.index.json");
    fs::write(index, r#"{"weight_map": {"a": "weights.bin"}}"#).unwrap();
    assert_eq!(parameters(&loaded(dir.path())), expected, "by its index");
    let other = trained(opened(&from).plan().config());
    export_to(&other, dir.path(), Format::OriginalNames, Encoding::F32);
    assert_eq!(parameters(&loaded(dir.path())), parameters(&other));
}

#[test]
fn a_model_loaded_to_infer_on_the_processor_is_the_model() {
    let dir = TempDir::new().unwrap();
    let saved = model(&MambaLmConfig::new(16, 1, 11));
    save(&saved, dir.path()).unwrap();
    let loaded = opened(dir.path()).load_to_infer(ToInfer::default());
    assert_eq!(parameters(&loaded.unwrap()), parameters(&saved));
    let refused = opened(dir.path()).load_to_infer(ToInfer {
        precision: Precision::Bf16,
        ..ToInfer::default()
    });
    assert!(matches!(refused, Err(Error::Precision(Precision::Bf16))));
}
