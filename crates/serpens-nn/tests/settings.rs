//! Settings that no model can have are refused by their names in recipes, and models that no memory holds before any is
//! taken.

use serpens_core::{Device, Tensor};
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{
    H3Config, MambaConfig, MinGruConfig, MixerConfig, MlpConfig, PlainConfig,
};
use serpens_nn::ssm::{AInit, S4dConfig, SelectiveSsmConfig, SsmConfig};
use serpens_nn::{Backbone, Error, MambaLmConfig, Module, Result, StepSize};

fn base() -> MambaLmConfig {
    MambaLmConfig::new(8, 1, 5)
}

fn with(change: impl FnOnce(&mut MambaLmConfig)) -> MambaLmConfig {
    let mut config = base();
    change(&mut config);
    config
}

fn s6(change: impl FnOnce(&mut SelectiveSsmConfig)) -> SsmConfig {
    let mut ssm = SelectiveSsmConfig::default();
    change(&mut ssm);
    ssm.into()
}

fn s4d(change: impl FnOnce(&mut S4dConfig)) -> SsmConfig {
    let mut ssm = S4dConfig::default();
    change(&mut ssm);
    ssm.into()
}

fn inside(ssm: SsmConfig) -> MambaLmConfig {
    base().with_ssm(&ssm)
}

fn steps(min: f32, max: f32, floor: f32) -> MambaLmConfig {
    inside(s6(|ssm| ssm.dt = StepSize { min, max, floor }))
}

/// The name of the setting that is at fault.
fn refused<T>(result: Result<T>) -> String {
    match result.map(drop) {
        Err(Error::Config {
            field,
            allowed,
            found,
        }) => {
            assert!(!allowed.contains(&found), "{field} = {found}");
            field
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn sizes_that_no_model_can_have_are_named_as_in_a_recipe() {
    let expand = MambaConfig {
        expand: 0,
        ..MambaConfig::default()
    };
    let d_conv = H3Config {
        d_conv: 0,
        ..H3Config::default()
    };
    let second = [
        MixerConfig::from(PlainConfig::default()),
        expand.clone().into(),
    ];
    for (config, field) in [
        (with(|c| c.d_model = 0), "d_model"),
        (with(|c| c.n_layer = 0), "n_layer"),
        (with(|c| c.n_layer = 1_000_000), "n_layer"),
        (with(|c| c.n_layer = usize::MAX), "n_layer"),
        (with(|c| c.vocab_size = 0), "vocab_size"),
        (with(|c| c.mixers.clear()), "block (number of mixers)"),
        (
            with(|c| c.mixers = vec![expand.clone().into(); 2]),
            "block (number of mixers)",
        ),
        (base().with_mixer(expand), "block.expand"),
        (base().with_mixer(d_conv), "block.d_conv"),
        (
            MambaLmConfig::new(8, 3, 5).with_mixers(second),
            "block[1].expand",
        ),
        (inside(s6(|ssm| ssm.d_state = 0)), "block.inner.d_state"),
        (inside(s6(|ssm| ssm.d_state = 257)), "block.inner.d_state"),
        (inside(s4d(|ssm| ssm.d_state = 0)), "block.inner.d_state"),
    ] {
        assert_eq!(refused(config.plan()), format!("model.{field}"));
        if !field.starts_with("vocab") {
            let alone = Backbone::plan(
                config.d_model,
                config.n_layer,
                config.norm_eps,
                &config.mixers,
            );
            assert_eq!(refused(alone), field);
        }
    }
    assert!(inside(s6(|ssm| ssm.d_state = 256)).plan().is_ok());
    assert!(MambaLmConfig::new(1, 16_384, 1).plan().is_ok());
}

#[test]
fn values_that_would_spoil_a_model_are_named_as_in_a_recipe() {
    const INF: f32 = f32::INFINITY;
    const NAN: f32 = f32::NAN;
    let mut cases = Vec::new();
    for wrong in [-1.0, NAN, INF, 1e12] {
        cases.push((with(|c| c.norm_eps = wrong), "norm_eps"));
        cases.push((with(|c| c.embedding_std = wrong), "embedding_std"));
        let norms = inside(s6(|ssm| ssm.dt_b_c_rms_eps = Some(wrong)));
        cases.push((norms, "block.inner.dt_b_c_rms_eps"));
        cases.push((steps(wrong, 0.1, 1e-4), "block.inner.dt.min"));
        cases.push((steps(1e-3, wrong, 1e-4), "block.inner.dt.max"));
        cases.push((steps(1e-3, 0.1, wrong), "block.inner.dt.floor"));
    }
    for wrong in [-1.0, NAN, INF] {
        let mlp = MlpConfig {
            expand: Some(wrong),
            ..MlpConfig::default()
        };
        cases.push((
            with(|c| {
                c.n_layer = 2;
                c.mixers.push(mlp.into());
            }),
            "block[1].expand",
        ));
        let dt = StepSize {
            min: wrong,
            ..StepSize::default()
        };
        let min_gru = MinGruConfig {
            dt,
            ..MinGruConfig::default()
        };
        cases.push((base().with_mixer(min_gru), "block.dt.min"));
    }
    for wrong in [-1.0, NAN] {
        cases.push((inside(s4d(|ssm| ssm.max_lr = wrong)), "block.inner.max_lr"));
        cases.push((inside(s4d(|ssm| ssm.dt.min = wrong)), "block.inner.dt.min"));
    }
    cases.push((steps(0.0, 0.1, 1e-4), "block.inner.dt.min"));
    cases.push((steps(1e-3, 0.0, 1e-4), "block.inner.dt.max"));
    cases.push((steps(1e-2, 1e-3, 1e-4), "block.inner.dt.max"));
    cases.push((steps(1e-3, 1e-2, 0.1), "block.inner.dt.floor"));
    for (config, field) in cases {
        assert_eq!(
            refused(config.plan()),
            format!("model.{field}"),
            "{config:?}"
        );
    }
    for good in [
        with(|c| c.norm_eps = 0.0),
        steps(1e-3, 1e-3, 0.0),
        inside(s4d(|ssm| ssm.max_lr = INF)),
    ] {
        let model = good.init(Device::cpu(), 1).unwrap();
        let finite = model.visit("", &mut |name, param| {
            let values = param.value()?.to_vec::<f32>()?;
            assert!(values.iter().all(|value| value.is_finite()), "{name}");
            Ok(())
        });
        finite.unwrap();
    }
}

#[test]
fn refusals_say_what_a_setting_may_be() {
    for (config, text) in [
        (
            with(|c| c.norm_eps = 1e300_f64 as f32),
            "model.norm_eps = inf is not possible: it goes from 0 to 1",
        ),
        (
            with(|c| c.d_model = 0),
            "model.d_model = 0 is not possible: it must be at least 1",
        ),
        (
            steps(1e-3, 1e-5, 1e-4),
            "model.block.inner.dt.max = 0.00001 is not possible: it goes from 0.001 to 1000",
        ),
        (
            inside(s6(|ssm| {
                (ssm.zero_order_hold, ssm.a_init) = (true, AInit::Complex)
            })),
            "zero_order_hold is for a real A, but a_init is complex",
        ),
    ] {
        assert_eq!(config.plan().unwrap_err().to_string(), text);
    }
}

#[test]
fn a_model_that_no_memory_holds_is_refused_before_any_is_taken() {
    let device = Device::cpu();
    let available = device.capacity().expect("Linux tells its memory");
    let wide = MambaConfig {
        expand: 1_000_000_000,
        ..MambaConfig::default()
    };
    let model = MambaLmConfig::new(64, 2, 256).with_mixer(wide.clone());
    for error in [
        model.init(device, 0).map(drop),
        Backbone::plan(64, 2, 1e-5, &[wide.clone().into()])
            .and_then(|plan| plan.init(device, 0))
            .map(drop),
        model.plan().unwrap().check_memory(4, device),
    ] {
        let Err(Error::Memory {
            needed,
            available: there,
            largest,
        }) = error
        else {
            panic!("{error:?}");
        };
        assert!(needed > there && there == available);
        assert!(
            largest.ends_with("mixer.in_proj.weight, (128000000000, 64)"),
            "{largest}"
        );
    }
    let mut plan = model.plan().unwrap();
    plan.set_frozen("backbone.layers", true).unwrap();
    let frozen = plan.count(|param| param.frozen).unwrap() as u64;
    let others = plan.count(|param| !param.frozen).unwrap() as u64;
    let error = plan.check_memory(16, device).unwrap_err();
    let expected = 4 * frozen + 16 * others;
    assert!(matches!(error, Error::Memory { needed, .. } if needed == expected));
    assert!(base().plan().unwrap().check_memory(16, device).is_ok());
    let error = base().plan().unwrap().check_memory(u64::MAX, device);
    assert!(error.unwrap_err().is_config());
}

#[test]
fn a_plan_is_counted_without_memory_and_has_no_values() {
    // The published model of 2.8 billion parameters, less the rows that its vocabulary is filled up with.
    let large = MambaLmConfig::new(2560, 64, 50_277).plan().unwrap();
    assert_eq!(large.count(|param| param.trained).unwrap(), 2_768_337_920);
    let s4d = MambaLmConfig::new(8, 3, 5).with_mixer(MambaConfig::new(S4dConfig {
        d_state: 4,
        ..S4dConfig::default()
    }));
    let plan = s4d.plan().unwrap();
    let constants = plan.count(|param| !param.trained).unwrap();
    assert_eq!(constants, 3 * 2 * 16 * 4, "B, real and imaginary");
    let ids = Tensor::from_slice([1, 3], &[1_u32, 2, 3], Device::cpu()).unwrap();
    let error = plan.forward(&ids.into(), &Sequence::default(), None);
    assert!(matches!(error, Err(Error::NoValue { name: None, .. })));
    let error = plan.visit("", &mut |_, param| param.value().map(drop));
    let Err(Error::NoValue {
        name: Some(name), ..
    }) = error
    else {
        panic!("a plan has no values");
    };
    assert_eq!(name, "backbone.embeddings.weight");
}
