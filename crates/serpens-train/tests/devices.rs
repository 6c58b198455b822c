//! The same training on every device: curves agree, runs repeat to the bit, checkpoints continue elsewhere. On a
//! machine without a GPU the tests say what was skipped.

mod losses;

use std::io::Write;
use std::sync::atomic::AtomicBool;

use losses::Losses;
use serpens_core::{Device, Tensor, bf16};
use serpens_data::{InductionHeads, InductionHeadsConfig};
use serpens_nn::checkpoint::{self, Checkpoint, Options};
use serpens_nn::layers::Sequence;
use serpens_nn::mixers::{
    Activation, AttentionConfig, GauConfig, H3Config, MambaConfig, MinGruConfig, MixerConfig,
    MlpConfig, PlainConfig, PooledConfig,
};
use serpens_nn::ssm::{AInit, DtRank, S4dConfig, SelectiveSsmConfig};
use serpens_nn::{LoraConfig, MambaLm, MambaLmConfig, Module, Precision, Recompute, ToInfer};
use serpens_train::{Changes, Compute, NextToken, Run, TrainConfig, Trainer};

fn source() -> Box<InductionHeads> {
    let config = InductionHeadsConfig {
        vocab: 16,
        batch: 4,
        lengths: vec![40],
        seed: 0,
    };
    Box::new(InductionHeads::new(config).unwrap())
}

fn steps(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        log_every: 1,
        ..TrainConfig::default()
    }
}

fn trainer(mixers: &[MixerConfig], config: TrainConfig, compute: Compute) -> Trainer {
    let model = MambaLmConfig::new(24, 2, 16).with_mixers(mixers.to_vec());
    trainer_of(model.init(Device::Cpu, 0).unwrap(), config, compute)
}

fn trainer_of(model: MambaLm, config: TrainConfig, compute: Compute) -> Trainer {
    let trainer = Trainer::new(NextToken, model, source(), config);
    trainer.unwrap().on(compute).unwrap()
}

fn run(trainer: &mut Trainer, dir: Option<&std::path::Path>) -> Vec<f64> {
    let mut losses = Losses::default();
    let stop = AtomicBool::new(false);
    let run = Run {
        dir,
        observer: &mut losses,
        stop: &stop,
        evaluate: None,
    };
    trainer.run(run).unwrap();
    losses.0
}

fn curve(mixers: &[MixerConfig], compute: Compute) -> Vec<f64> {
    run(&mut trainer(mixers, steps(10), compute), None)
}

fn on(device: Device, precision: Precision) -> Compute {
    Compute {
        device,
        precision,
        ..Compute::default()
    }
}

fn mamba() -> Vec<MixerConfig> {
    vec![MambaConfig::default().into()]
}

/// With a complex A.
fn complex() -> MixerConfig {
    let ssm = SelectiveSsmConfig {
        a_init: AInit::Complex,
        ..SelectiveSsmConfig::default()
    };
    MambaConfig::new(ssm).into()
}

/// With norms on Δ, B and C, as FalconMamba has them.
fn with_norms() -> SelectiveSsmConfig {
    SelectiveSsmConfig {
        dt_rank: DtRank::Fixed(8),
        dt_b_c_rms_eps: Some(1e-3),
        ..SelectiveSsmConfig::default()
    }
}

/// Every kind of mixer and of state space model, and several in one model.
fn patterns() -> Vec<Vec<MixerConfig>> {
    let gelu = MlpConfig {
        activation: Activation::Gelu,
        bias: true,
        ..MlpConfig::default()
    };
    vec![
        mamba(),
        vec![MambaConfig::new(S4dConfig::default()).into()],
        vec![MambaConfig::new(with_norms()).into()],
        vec![H3Config::default().into()],
        vec![PlainConfig::default().into()],
        vec![MambaConfig::default().into(), H3Config::default().into()],
        vec![MinGruConfig::default().into(), MlpConfig::default().into()],
        vec![MambaConfig::default().into(), gelu.into()],
        vec![
            AttentionConfig::default().into(),
            MlpConfig::default().into(),
        ],
        vec![GauConfig::default().into(), MambaConfig::default().into()],
        vec![complex(), PooledConfig::default().into()],
    ]
}

/// Says on the standard error stream, past the capture of tests, what was not run.
fn tell(text: &str) {
    // Nobody hears it where the stream is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn gpu(test: &str) -> Option<Device> {
    Device::cuda(0)
        .inspect_err(|reason| tell(&format!("{test} was skipped on CUDA: {reason}")))
        .ok()
}

/// Fails unless two curves agree to this relative difference at every step.
fn assert_agree(what: &str, got: &[f64], expected: &[f64], allowed: f64) {
    assert_eq!(got.len(), expected.len());
    for (step, (a, b)) in got.iter().zip(expected).enumerate() {
        let difference = (a - b).abs() / b.abs();
        assert!(
            difference <= allowed,
            "{what}, step {}: {a} against {b}: {difference:.2e}, allowed {allowed:.0e}",
            step + 1
        );
    }
}

#[test]
fn curves_of_one_seed_agree_on_every_device() {
    let Some(device) = gpu("curves_of_one_seed_agree_on_every_device") else {
        return;
    };
    for mixers in patterns() {
        let cpu = curve(&mixers, Compute::default());
        let what = |precision: Precision| format!("{mixers:?} in {precision}");
        let f32 = curve(&mixers, on(device, Precision::F32));
        assert_agree(&what(Precision::F32), &f32, &cpu, 2e-5);
        let tf32 = curve(&mixers, on(device, Precision::Tf32));
        assert_agree(&what(Precision::Tf32), &tf32, &cpu, 2e-3);
        let bf16 = curve(&mixers, on(device, Precision::Bf16));
        assert_agree(&what(Precision::Bf16), &bf16, &cpu, 2e-2);
    }
}

#[test]
fn a_run_repeats_to_the_bit_and_recomputation_changes_nothing() {
    let mut places = vec![Compute::default()];
    if let Some(device) = gpu("a_run_repeats_to_the_bit_and_recomputation_changes_nothing") {
        places.extend([Precision::F32, Precision::Bf16].map(|precision| on(device, precision)));
    }
    for mixers in patterns() {
        for &place in &places {
            let expected = curve(&mixers, place);
            for &recompute in Recompute::ALL {
                let again = curve(&mixers, Compute { recompute, ..place });
                assert_eq!(
                    again, expected,
                    "{mixers:?} on {place:?} recomputing {recompute}"
                );
            }
        }
    }
}

#[test]
fn gradients_accumulate_over_batches_on_every_device() {
    let Some(device) = gpu("gradients_accumulate_over_batches_on_every_device") else {
        return;
    };
    let curve = |compute| {
        let config = TrainConfig {
            accumulation: 3,
            ..steps(10)
        };
        run(&mut trainer(&mamba(), config, compute), None)
    };
    let cpu = curve(Compute::default());
    let f32 = curve(on(device, Precision::F32));
    assert_agree("f32", &f32, &cpu, 2e-5);
    let bf16 = curve(on(device, Precision::Bf16));
    assert_agree("bf16", &bf16, &cpu, 2e-2);
    assert_eq!(f32, curve(on(device, Precision::F32)));
}

#[test]
fn a_checkpoint_continues_on_any_device() {
    let mut places = vec![on(Device::Cpu, Precision::F32)];
    places.extend(
        gpu("a_checkpoint_continues_on_any_device").map(|device| on(device, Precision::F32)),
    );
    let expected = curve(&mamba(), Compute::default());
    for &first in &places {
        for &second in &places {
            let dir = tempfile::tempdir().unwrap();
            let mut losses = run(&mut trainer(&mamba(), steps(5), first), Some(dir.path()));
            let resumed =
                Trainer::resume(NextToken, dir.path(), source(), Changes::steps(10), None).unwrap();
            losses.extend(run(&mut resumed.on(second).unwrap(), Some(dir.path())));
            let what = format!("from {} to {}", first.device, second.device);
            assert_agree(&what, &losses, &expected, 2e-5);
        }
    }
}

#[test]
fn an_adapted_model_learns_alike_and_is_gone_on_with_on_every_device() {
    let model = || {
        let mut model = MambaLmConfig::new(24, 2, 16).init(Device::Cpu, 0).unwrap();
        model.adapt(LoraConfig::default(), 1).unwrap();
        model
    };
    let config = |count| {
        let mut config = steps(count);
        config.optimizer.lr = 1e-2;
        config
    };
    let whole = |compute| run(&mut trainer_of(model(), config(10), compute), None);
    let expected = whole(Compute::default());
    let mut places = vec![(Compute::default(), 0.0)];
    if let Some(device) = gpu("an_adapted_model_learns_alike_and_is_gone_on_with_on_every_device") {
        let allowed = [(Precision::F32, 2e-5), (Precision::Bf16, 2e-2)];
        places.extend(allowed.map(|(precision, allowed)| (on(device, precision), allowed)));
    }
    for (place, allowed) in places {
        let dir = tempfile::tempdir().unwrap();
        let mut first = trainer_of(model(), config(5), place);
        let mut losses = run(&mut first, Some(dir.path()));
        let resumed = Trainer::resume(NextToken, dir.path(), source(), Changes::steps(10), None);
        let mut resumed = resumed.unwrap().on(place).unwrap();
        losses.extend(run(&mut resumed, Some(dir.path())));
        assert_agree(&format!("{place:?}"), &losses, &expected, allowed);
        assert_eq!(losses, whole(place), "{place:?}");
        let changed = resumed.model().visit("", &mut |name, param| {
            let is_added = name.contains(".lora_");
            assert_eq!(param.frozen, !is_added, "{name}");
            let value = param.value()?.to_vec::<f32>()?;
            let is_b = name.ends_with("lora_B.weight");
            assert!(
                !is_b || value.iter().any(|v| *v != 0.0),
                "{name} was not trained"
            );
            Ok(())
        });
        changed.unwrap();
    }
}

#[test]
fn a_model_that_holds_bf16_alone_gives_the_logits_of_one_that_holds_both() {
    let Some(device) = gpu("a_model_that_holds_bf16_alone_gives_the_logits_of_one_that_holds_both")
    else {
        return;
    };
    let ids: Vec<u32> = (0..40).map(|i| i * 7 % 16).collect();
    let ids = Tensor::from_slice([2, 20], &ids, Device::Cpu).unwrap();
    let ids = ids.to(device).unwrap();
    let logits = |model: &MambaLm| {
        let logits = model.forward(&ids.clone().into(), &Sequence::default(), None);
        let logits = logits
            .unwrap()
            .into_tensor()
            .unwrap()
            .to(Device::Cpu)
            .unwrap();
        logits.as_bytes().unwrap().to_vec()
    };
    let base = MambaLmConfig::new(24, 2, 16);
    let untied = MambaLmConfig {
        tie_embeddings: false,
        ..base.clone()
    };
    for config in [base.with_mixer(MambaConfig::new(with_norms())), untied] {
        let mut both = config.init(Device::Cpu, 0).unwrap();
        // One holds the table in bf16 too: of values that bf16 has, both look up the same.
        let rounded = both.visit_mut("", &mut |name, param| {
            if name == "backbone.embeddings.weight" {
                let table = param.tensors_mut()?.0.make_mut::<f32>()?;
                table
                    .iter_mut()
                    .for_each(|x| *x = bf16::from_f32(*x).to_f32());
            }
            Ok(())
        });
        rounded.unwrap();
        let dir = tempfile::tempdir().unwrap();
        checkpoint::save(&both, dir.path()).unwrap();
        both.to(device, Precision::Bf16).unwrap();
        let opened = Checkpoint::open(dir.path(), &Options::default()).unwrap();
        let alone = opened.load_to_infer(ToInfer {
            device,
            precision: Precision::Bf16,
            weights: None,
        });
        let alone = alone.unwrap();
        assert_eq!(logits(&alone), logits(&both));
        let held = alone
            .count(|param| param.matrix && param.value().is_ok())
            .unwrap();
        assert_eq!(held, 0, "matrices in f32");
    }
}
