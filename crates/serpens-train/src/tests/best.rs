use serpens_nn::checkpoint::Verify;

use super::*;
use crate::{BestRule, CHECKPOINTS_DIR, Error, Outcome, Silent};

/// Trains with an evaluation after each step: the figures, of which those of earlier sittings were told.
fn train(trainer: &mut Trainer, run_dir: &Path, figures: &[f64]) -> Outcome {
    let mut left = figures.iter().skip(trainer.step() as usize);
    let mut evaluate = |_: &MambaLm| {
        Ok(Evaluation {
            values: vec![("figure".into(), *left.next().unwrap())],
        })
    };
    let run = Run {
        dir: Some(run_dir),
        observer: &mut Silent,
        stop: &ON,
        evaluate: Some(&mut evaluate),
    };
    trainer.run(run).unwrap()
}

fn rule(steps: u64, more: bool, patience: u64) -> TrainConfig {
    TrainConfig {
        eval_every: 1,
        keep: 1,
        best: Some(BestRule { more, patience }),
        ..settings(steps)
    }
}

fn checkpoint(run_dir: &Path, step: u64) -> std::path::PathBuf {
    let dir = run_dir.join(CHECKPOINTS_DIR);
    dir.join(format!("step-{step:07}"))
}

#[test]
fn the_checkpoint_of_the_best_evaluation_is_kept_beside_the_last() {
    for (more, best) in [(false, 3), (true, 2)] {
        let run_dir = tempfile::tempdir().unwrap();
        let mut trainer = trainer(rule(6, more, 0));
        let outcome = train(
            &mut trainer,
            run_dir.path(),
            &[5.0, 9.0, 1.0, 2.0, 1.0, 8.0],
        );
        assert_eq!(outcome.step, 6);
        let dir = checkpoint(run_dir.path(), best);
        assert_eq!(outcome.best.as_ref(), Some(&dir));
        let kept = std::fs::read_dir(run_dir.path().join(CHECKPOINTS_DIR)).unwrap();
        assert_eq!(kept.count(), 2, "the best and the last");
        let mut until = crate::tests::trainer(settings(best));
        run(&mut until, None).unwrap();
        let saved = serpens_nn::checkpoint::load(&dir, Device::cpu(), Verify::Digests).unwrap();
        assert_eq!(bits(&saved), bits(until.model()));
    }
}

#[test]
fn training_ends_when_patience_is_lost_which_a_resumed_run_goes_on_to_lose() {
    let figures = [3.0, 2.0, 4.0, 1.0, 5.0, 1.0, 7.0, 0.0];
    let whole = tempfile::tempdir().unwrap();
    let outcome = train(&mut trainer(rule(8, false, 3)), whole.path(), &figures);
    assert_eq!((outcome.step, outcome.interrupted), (7, false));
    assert_eq!(outcome.best, Some(checkpoint(whole.path(), 4)));
    let run_dir = tempfile::tempdir().unwrap();
    train(&mut trainer(rule(6, false, 3)), run_dir.path(), &figures);
    let mut resumed = go_on_in(run_dir.path(), Changes::steps(8));
    let outcome = train(&mut resumed, run_dir.path(), &figures);
    assert_eq!(outcome.step, 7);
    assert_eq!(outcome.best, Some(checkpoint(run_dir.path(), 4)));
    let again = train(&mut resumed, run_dir.path(), &figures);
    assert_eq!(again.step, 7, "it has ended");
}

#[test]
fn the_best_of_nothing_is_refused() {
    let error = run(&mut trainer(rule(2, false, 1)), None).err().unwrap();
    assert!(matches!(error, Error::NoEvaluation), "{error}");
}
