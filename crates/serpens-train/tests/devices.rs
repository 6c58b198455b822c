//! The same training on every device: curves agree, runs repeat to the bit, checkpoints continue elsewhere. On a
//! machine without a GPU the tests say what was skipped.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use serpens_core::Device;
use serpens_data::{InductionHeads, InductionHeadsConfig};
use serpens_nn::mixers::{H3Config, MambaConfig, MixerConfig, PlainConfig};
use serpens_nn::ssm::S4dConfig;
use serpens_nn::{MambaLmConfig, Precision, Recompute};
use serpens_train::{
    Changes, Compute, Event, NextToken, Observer, Result, Run, TrainConfig, Trainer,
};

/// The loss after each step.
#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Stepped(metrics) = event {
            self.0.push(metrics.loss);
        }
        Ok(())
    }
}

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
    let model = model.init(Device::Cpu, 0).unwrap();
    Trainer::new(NextToken, model, source(), config)
        .unwrap()
        .on(compute)
        .unwrap()
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

/// Every kind of mixer and of state space model, and several in one model.
fn patterns() -> Vec<Vec<MixerConfig>> {
    vec![
        mamba(),
        vec![MambaConfig::new(S4dConfig::default()).into()],
        vec![H3Config::default().into()],
        vec![PlainConfig::default().into()],
        vec![MambaConfig::default().into(), H3Config::default().into()],
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
