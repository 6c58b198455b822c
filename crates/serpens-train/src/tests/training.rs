use std::sync::atomic::{AtomicBool, Ordering};

use serpens_data::{Batch, Bounds, Numbers, Source};
use serpens_nn::Module;

use super::*;
use crate::trainer::with_room;
use crate::{Error, Silent, StopRule};

#[test]
fn the_loss_on_induction_heads_falls() {
    let mut trainer = trainer(settings(150));
    let heard = run(&mut trainer, None).unwrap();
    let mean =
        |steps: &[StepMetrics]| steps.iter().map(|m| m.loss).sum::<f64>() / steps.len() as f64;
    let (first, last) = (mean(&heard.steps[..10]), mean(&heard.steps[140..]));
    assert!(last < first - 0.1, "from {first} to {last}");
    assert!(
        (first - (VOCAB as f64).ln()).abs() < 0.3,
        "starts at chance: {first}"
    );
}

#[test]
fn two_runs_with_one_seed_have_the_same_bits() {
    let [a, b] = [(); 2].map(|()| {
        let mut trainer = trainer(settings(12));
        let heard = run(&mut trainer, None).unwrap();
        (
            heard.figures(),
            bits(trainer.model()),
            moment_bits(&trainer),
        )
    });
    assert_eq!(a, b);
}

/// The batches of the task, each cut into this many of fewer rows.
struct Cut {
    source: InductionHeads,
    cuts: usize,
}

impl Source for Cut {
    fn batch(&self, index: u64) -> serpens_data::Result<Batch<Numbers>> {
        let (index, cut) = (index as usize / self.cuts, index as usize % self.cuts);
        let whole = self.source.batch(index as u64)?.tokens().unwrap();
        let rows = whole.batch / self.cuts;
        let values = cut * rows * whole.length..(cut + 1) * rows * whole.length;
        Ok(Batch {
            starts: None,
            inputs: whole.inputs[values.clone()].to_vec(),
            targets: whole.targets[values].to_vec(),
            batch: rows,
            length: whole.length,
        }
        .into())
    }

    fn bounds(&self) -> Bounds {
        self.source.bounds()
    }

    fn description(&self) -> String {
        format!("{} in {}", self.source.description(), self.cuts)
    }
}

#[test]
fn two_small_batches_make_the_step_of_one_of_twice_the_size() {
    let norms = [1, 2].map(|cuts| {
        let source = task();
        let cut = Cut { source, cuts };
        let config = TrainConfig {
            accumulation: cuts as u64,
            ..settings(3)
        };
        let mut trainer = trainer_on(Box::new(cut), config);
        let heard = run(&mut trainer, None).unwrap();
        heard
            .steps
            .iter()
            .flat_map(|m| [m.loss, m.grad_norm])
            .collect::<Vec<_>>()
    });
    for (whole, cut) in norms[0].iter().zip(&norms[1]) {
        assert!(
            (whole - cut).abs() < 1e-4 * whole.abs(),
            "{whole} and {cut}"
        );
    }
}

#[test]
fn a_poisoned_parameter_stops_the_run_at_its_step_and_leaves_the_checkpoint() {
    let run_dir = tempfile::tempdir().unwrap();
    let mut trainer = trainer(settings(3));
    run(&mut trainer, Some(run_dir.path())).unwrap();
    let good = bits(trainer.model());
    trainer.state.config.steps = 10;
    let poisoned = trainer
        .engine
        .learner
        .model
        .visit_mut("", &mut |name, param| {
            if name.ends_with("norm_f.weight") {
                param.tensors_mut()?.0.make_mut::<f32>()?[0] = f32::NAN;
            }
            Ok(())
        });
    poisoned.unwrap();
    let error = run(&mut trainer, Some(run_dir.path())).err().unwrap();
    assert!(
        matches!(&error, Error::NotFinite { what, step: 4, .. } if what == "the loss"),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.starts_with("the loss is NaN at step 4") && !text.contains('\n'),
        "{text}"
    );
    let back = go_on_in(run_dir.path(), Changes::default());
    assert_eq!((back.step(), bits(back.model())), (3, good));
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut trainer = trainer(settings(5));
    run(&mut trainer, None).unwrap();
    trainer.state.config.steps = 10;
    // The loss is finite still; the gradient of projections out, a large one times a large operand, is not.
    let enlarged = trainer
        .engine
        .learner
        .model
        .visit_mut("", &mut |name, param| {
            let enlarged = [
                ("norm_f.weight", 1e30),
                (".norm.weight", 1e5),
                ("out_proj.weight", 0.0),
            ];
            if let Some((_, value)) = enlarged.iter().find(|(end, _)| name.ends_with(end)) {
                param.tensors_mut()?.0.make_mut::<f32>()?.fill(*value);
            }
            Ok(())
        });
    enlarged.unwrap();
    let before = bits(trainer.model());
    let error = run(&mut trainer, None).err().unwrap();
    let what = "the gradient's norm";
    assert!(
        matches!(&error, Error::NotFinite { what: w, step: 6, .. } if w == what),
        "{error}"
    );
    assert_eq!(bits(trainer.model()), before);
}

#[test]
fn the_stop_flag_saves_a_checkpoint_and_ends_the_run() {
    struct StopAt<'a>(u64, &'a AtomicBool, Vec<u64>);
    impl Observer for StopAt<'_> {
        fn event(&mut self, event: &Event<'_>) -> Result<()> {
            match event {
                Event::Stepped(m) if m.step == self.0 => self.1.store(true, Ordering::Relaxed),
                Event::Checkpointed { step, .. } => self.2.push(*step),
                _ => {}
            }
            Ok(())
        }
    }
    let run_dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let mut observer = StopAt(4, &stop, Vec::new());
    let mut evaluate =
        |_: &MambaLm| -> Result<Evaluation> { panic!("an interrupted run is not evaluated") };
    let outcome = trainer(settings(10))
        .run(Run {
            dir: Some(run_dir.path()),
            observer: &mut observer,
            stop: &stop,
            evaluate: Some(&mut evaluate),
        })
        .unwrap();
    assert!(outcome.interrupted && outcome.step == 4);
    assert_eq!(observer.2, [4]);
}

#[test]
fn the_stop_flag_is_looked_at_between_the_batches_of_a_step() {
    /// Sets the flag while its third batch is read.
    struct Stopping(InductionHeads, &'static AtomicBool);
    impl Source for Stopping {
        fn batch(&self, index: u64) -> serpens_data::Result<Batch<Numbers>> {
            self.1.store(index == 2, Ordering::Relaxed);
            self.0.batch(index)
        }
        fn bounds(&self) -> Bounds {
            self.0.bounds()
        }
        fn description(&self) -> String {
            self.0.description()
        }
    }
    static STOP: AtomicBool = AtomicBool::new(false);
    let config = TrainConfig {
        accumulation: 60_000,
        ..settings(2)
    };
    let mut trainer = trainer_on(Box::new(Stopping(task(), &STOP)), config);
    let before = bits(trainer.model());
    let outcome = trainer.run(Run {
        dir: None,
        observer: &mut Silent,
        stop: &STOP,
        evaluate: None,
    });
    let outcome = outcome.unwrap();
    assert!(outcome.interrupted && outcome.step == 0);
    assert_eq!(trainer.state.position.batches, 0, "it is read again");
    assert_eq!(bits(trainer.model()), before);
}

#[test]
fn an_evaluation_that_was_stopped_is_made_when_the_run_goes_on() {
    let run_dir = tempfile::tempdir().unwrap();
    let config = TrainConfig {
        eval_every: 2,
        ..settings(4)
    };
    let stop = AtomicBool::new(false);
    let mut stopped = |_: &MambaLm| {
        stop.store(true, Ordering::Relaxed); // as Ctrl-C would
        Err(Error::Stopped)
    };
    let outcome = trainer(config).run(Run {
        dir: Some(run_dir.path()),
        observer: &mut Silent,
        stop: &stop,
        evaluate: Some(&mut stopped),
    });
    let outcome = outcome.unwrap();
    assert!(outcome.interrupted && outcome.step == 2 && outcome.evaluation.is_none());
    let mut resumed = go_on_in(run_dir.path(), Changes::default());
    let mut heard = Heard::default();
    let mut evaluate = |_: &MambaLm| Ok(Evaluation::default());
    let run = Run {
        dir: None,
        observer: &mut heard,
        stop: &ON,
        evaluate: Some(&mut evaluate),
    };
    resumed.run(run).unwrap();
    let steps: Vec<u64> = heard.evaluations.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [2, 4]);
}

#[test]
fn the_stop_rule_ends_the_run_once_enough_steps_are_accurate() {
    let stop = Some(StopRule {
        accuracy: 0.0,
        steps: 3,
    });
    let mut trainer = trainer(TrainConfig {
        stop,
        ..settings(10)
    });
    assert_eq!(run(&mut trainer, None).unwrap().steps.len(), 3);
    let mut again = trainer;
    assert_eq!(
        run(&mut again, None).unwrap().steps.len(),
        0,
        "it holds still"
    );
}

#[test]
fn evaluations_come_when_due_and_once_at_the_end() {
    let mut heard = Heard::default();
    let mut calls = 0.0;
    let mut evaluate = |_: &MambaLm| {
        calls += 1.0;
        Ok(Evaluation {
            values: vec![("calls".into(), calls)],
        })
    };
    let config = TrainConfig {
        eval_every: 2,
        log_every: 4,
        ..settings(6)
    };
    let outcome = trainer(config)
        .run(Run {
            dir: None,
            observer: &mut heard,
            stop: &ON,
            evaluate: Some(&mut evaluate),
        })
        .unwrap();
    let steps: Vec<u64> = heard.evaluations.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [2, 4, 6]);
    assert_eq!(outcome.evaluation.unwrap().values[0].1, 3.0);
    let told: Vec<u64> = heard.steps.iter().map(|m| m.step).collect();
    assert_eq!(told, [4, 6], "the last steps are told though none is due");
}

#[test]
fn a_source_with_more_tokens_than_the_model_is_refused() {
    let error = Trainer::new(NextToken, model(VOCAB - 1), Box::new(task()), settings(1))
        .err()
        .unwrap();
    assert!(error.to_string().contains("vocab_size"), "{error}");
}

#[test]
fn only_what_ran_out_of_memory_is_tried_again_and_only_where_some_was_freed() {
    let short = || serpens_core::Error::OutOfMemory {
        device: Device::Cpu,
        requested: 1,
        held: 0,
    };
    // How often the work is done where it fails the first time, and whether it succeeds then.
    let tries = |error: fn(serpens_core::Error) -> Error, freed: bool| {
        let mut count = 0;
        let result = with_room(
            || {
                count += 1;
                if count > 1 {
                    Ok(())
                } else {
                    Err(error(short()))
                }
            },
            || freed,
        );
        (count, result.is_ok())
    };
    let of_a_model = |e| Error::Model(serpens_nn::Error::Core(e));
    let foreign = |_| Error::Data(serpens_data::Error::other(std::fmt::Error));
    assert_eq!(tries(Error::Core, true), (2, true));
    assert_eq!(tries(of_a_model, true), (2, true));
    assert_eq!(tries(Error::Core, false), (1, false));
    assert_eq!(tries(foreign, true), (1, false));
}
