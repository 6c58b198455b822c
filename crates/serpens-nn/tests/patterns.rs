//! The order of layers in letters.

use serpens_core::{Device, Tensor};
use serpens_nn::checkpoint::{load, save};
use serpens_nn::mixers::{H3Config, MambaConfig, MixerConfig, MlpConfig, PlainConfig};
use serpens_nn::ssm::S4dConfig;
use serpens_nn::{Backbone, MambaLmConfig, Module};

fn letters(mixers: &[MixerConfig]) -> String {
    mixers.iter().map(|one| one.kind().0).collect()
}

fn with(pattern: &str, layers: usize) -> MambaLmConfig {
    MambaLmConfig::new(8, layers, 5).with_layers(pattern)
}

#[test]
fn kinds_have_letters_of_their_own_and_the_names_of_recipes() {
    let all = MixerConfig::all();
    for (i, one) in all.iter().enumerate() {
        let (letter, kind) = one.kind();
        let written = serde_json::to_value(one).unwrap();
        assert_eq!(written["kind"], kind);
        assert!(letter.is_ascii_uppercase());
        assert!(all[..i].iter().all(|other| other.kind().0 != letter));
    }
    let unknown = serde_json::from_str::<MixerConfig>(r#"{"kind":"none"}"#).unwrap_err();
    let known = unknown.to_string().matches('`').count() / 2 - 1;
    // And what no language model may have.
    assert_eq!(known, all.len() + 1, "{unknown}");
}

#[test]
fn digits_repeat_the_letter_or_the_bracket_before_them() {
    for (pattern, written_out) in [
        ("MMH", "MMH"),
        ("M5P", "MMMMMP"),
        ("(MF)3", "MFMFMF"),
        ("(M(FG)2)2P", "MFGFGMFGFGP"),
        ("()M0H", "H"),
    ] {
        let mixers = with(pattern, 11).layer_mixers().unwrap();
        assert_eq!(letters(&mixers), written_out);
    }
    // Again from the first letter, and a block alone is read as it was.
    let model = with("MF", 5).plan().unwrap();
    let mut mlps = String::new();
    let seen = model.visit("", &mut |name, _| {
        let layer = name.strip_prefix("backbone.layers.");
        if let Some(layer) = layer.filter(|name| name.ends_with("out_proj.weight")) {
            mlps.extend(layer.chars().next());
        }
        Ok(())
    });
    seen.unwrap();
    assert_eq!(mlps, "01234");
}

#[test]
fn a_letter_takes_the_settings_of_its_kind_from_the_block() {
    let h3 = H3Config {
        d_conv: 3,
        ..H3Config::default()
    };
    let model = with("HMH", 3).with_mixer(h3.clone());
    let expected = [
        h3.clone().into(),
        MambaConfig::default().into(),
        h3.clone().into(),
    ];
    assert_eq!(model.layer_mixers().unwrap(), expected);
    // The twin's model is of another kind in every layer that has one, be it as by default.
    let s4d = S4dConfig::default().into();
    let twin = model.with_ssm(&s4d);
    assert_eq!(twin.ssm_name(), "S4D");
    let mamba = MambaConfig::new(s4d.clone());
    let h3 = H3Config { ssm: s4d, ..h3 };
    let expected = [h3.clone().into(), mamba.into(), h3.into()];
    assert_eq!(twin.layer_mixers().unwrap(), expected);
    assert!(twin.plan().is_ok());
}

#[test]
fn a_pattern_that_says_no_model_is_refused_in_one_line() {
    let known = "M (mamba), H (h3), P (plain), F (mlp), G (min-gru)";
    let wide = PlainConfig {
        expand: 3,
        ..PlainConfig::default()
    };
    let twice = [PlainConfig::default().into(), wide.clone().into()];
    for (config, said) in [
        (
            with("MX", 4),
            format!(r#"= "MX" has 'X', which stands for no layer; known are {known}"#),
        ),
        (with("m", 4), "has 'm', which stands for no layer".into()),
        (with("3M", 4), "has '3', which stands for no layer".into()),
        (with("(M", 4), "bracket".into()),
        (with("M)2", 4), "bracket".into()),
        (with("", 4), "layers (number of letters) = 0".into()),
        (with("()9", 4), "layers (number of letters) = 0".into()),
        (
            with("M5", 4),
            "layers (number of letters) = 5 is not possible: it goes from 1 to 4".into(),
        ),
        (
            with("M99999999999999999999999", 4),
            "layers (number of letters)".into(),
        ),
        (
            with("((M9999)9999)9999", 9999),
            "layers (number of letters)".into(),
        ),
        (with("M", 0), "model.n_layer = 0".into()),
        (with("M99999999", usize::MAX), "model.n_layer".into()),
        (
            with("MH", 4).with_mixer(wide.clone()),
            "has no P, but model.block has settings of plain".into(),
        ),
        (
            with("P", 4).with_mixers(twice),
            "which has two of plain".into(),
        ),
    ] {
        let error = config.plan().unwrap_err();
        assert!(error.is_config(), "{error}");
        let text = error.to_string();
        assert!(text.contains(&said) && text.starts_with("model."), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
    // What settings say in any case may stand there without a layer.
    assert!(with("HP", 4).plan().is_ok());
}

#[test]
fn settings_at_fault_are_named_where_they_stand() {
    let bad = H3Config {
        expand: 0,
        ..H3Config::default()
    };
    let one = with("MH", 2).with_mixer(bad.clone());
    let two = with("MH", 2).with_mixers([MambaConfig::default().into(), bad.into()]);
    for (config, place) in [(one, "model.block.expand"), (two, "model.block[1].expand")] {
        let text = config.plan().unwrap_err().to_string();
        assert!(text.starts_with(place), "{text}");
    }
}

#[test]
fn layers_that_look_at_one_token_alone_make_no_language_model() {
    let error = with("F", 2).plan().unwrap_err().to_string();
    assert!(error.contains("mlp alone"), "{error}");
    // Vectors from elsewhere may be all that one wants to look at.
    assert!(Backbone::plan(8, 1, 1e-5, &[MlpConfig::default().into()]).is_ok());
}

#[test]
fn layers_without_a_state_are_gathered_scattered_and_read_in_slots() {
    let model = with("FM", 4).init(Device::cpu(), 3).unwrap();
    let ids = Tensor::from_slice([2, 3], &[1_u32, 2, 3, 4, 0, 1], Device::cpu()).unwrap();
    let mut state = model.initial_state(2).unwrap();
    model.read(&ids, &mut state).unwrap();
    let rows = state.scatter().unwrap();
    assert_eq!(rows.len(), 2);
    let mut gathered = serpens_nn::LmState::gather(&[&rows[1], &rows[0]]).unwrap();
    let stepper = model.stepper().unwrap();
    for states in [serpens_core::DType::F32, serpens_core::DType::BF16] {
        let mut slots = stepper.slots(&model, 2, states).unwrap();
        slots.put(1, &rows[0]).unwrap();
        slots.row(1).unwrap();
    }
    let next = Tensor::from_slice([2], &[2_u32, 3], Device::cpu()).unwrap();
    assert!(model.step(&next, &mut gathered).is_ok());
}

#[test]
fn a_pattern_is_saved_with_its_model() {
    let dir = tempfile::TempDir::new().unwrap();
    let config = with("M(FG)2", 7);
    let model = config.init(Device::cpu(), 3).unwrap();
    save(&model, dir.path()).unwrap();
    let loaded = load(dir.path(), Device::cpu(), Default::default()).unwrap();
    assert_eq!(loaded.config(), &config);
    // All of Mamba's are said in the words of others, in which there are no letters.
    save(&with("M2", 3).init(Device::cpu(), 3).unwrap(), dir.path()).unwrap();
    let loaded = load(dir.path(), Device::cpu(), Default::default()).unwrap();
    assert_eq!(loaded.config(), &MambaLmConfig::new(8, 3, 5));
}
