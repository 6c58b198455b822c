//! The synthetic tasks: every row has the promised structure, and every answer is what a search finds.

use std::collections::HashSet;

use proptest::prelude::*;
use serpens_data::{
    Batch, IGNORE, InductionHeads, InductionHeadsConfig, SelectiveCopying, SelectiveCopyingConfig,
    Source,
};

fn induction(config: InductionHeadsConfig) -> InductionHeads {
    InductionHeads::new(config).expect("a valid configuration")
}

fn copying(config: SelectiveCopyingConfig) -> SelectiveCopying {
    SelectiveCopying::new(config).expect("a valid configuration")
}

fn rows(batch: &Batch) -> impl Iterator<Item = (&[u32], &[u32])> {
    assert_eq!(batch.inputs.len(), batch.batch * batch.length);
    assert_eq!(batch.targets.len(), batch.batch * batch.length);
    batch
        .inputs
        .chunks_exact(batch.length)
        .zip(batch.targets.chunks_exact(batch.length))
}

/// Finds the answer of each row by searching, and compares.
fn check_induction(batch: &Batch, special: u32) {
    for (inputs, targets) in rows(batch) {
        let places: Vec<usize> = (0..batch.length)
            .filter(|&t| inputs[t] == special)
            .collect();
        assert_eq!(places.len(), 2, "the special token appears exactly twice");
        assert_eq!(places[1], batch.length - 1, "the second time at the end");
        assert!(
            places[0] <= batch.length - 3,
            "an ordinary token follows the first"
        );
        assert!(inputs.iter().all(|&token| token <= special));
        assert_eq!(targets[batch.length - 1], inputs[places[0] + 1]);
        assert!(
            targets[..batch.length - 1]
                .iter()
                .all(|&target| target == IGNORE)
        );
    }
}

fn check_copying(batch: &Batch, task: &SelectiveCopying, data_tokens: usize) {
    let length = batch.length - data_tokens;
    for (inputs, targets) in rows(batch) {
        let data: Vec<u32> = inputs[..length]
            .iter()
            .copied()
            .filter(|&token| token != SelectiveCopying::NOISE)
            .collect();
        assert_eq!(data, targets[length..], "the data in order are the answers");
        assert!(
            data.iter()
                .all(|&token| token > SelectiveCopying::NOISE && token < task.query())
        );
        assert!(inputs[length..].iter().all(|&token| token == task.query()));
        assert!(targets[..length].iter().all(|&target| target == IGNORE));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn induction_rows_are_solved_by_search(
        vocab in 3usize..40, batch in 1usize..6, length in 4usize..80, seed in any::<u64>(),
    ) {
        let task = induction(InductionHeadsConfig { vocab, batch, lengths: vec![length], seed });
        let special = task.special();
        for index in 0..3 {
            let drawn = task.batch(index).expect("endless").tokens().expect("ids");
            prop_assert_eq!((drawn.batch, drawn.length), (batch, length));
            check_induction(&drawn, special);
        }
    }

    #[test]
    fn copying_rows_are_solved_by_search(
        vocab in 4usize..40, batch in 1usize..6, data_tokens in 1usize..20, noise in 0usize..60, seed in any::<u64>(),
    ) {
        let length = data_tokens + noise;
        let task = copying(SelectiveCopyingConfig { vocab, batch, length, data_tokens, seed });
        for index in 0..3 {
            let drawn = task.batch(index).expect("endless").tokens().expect("ids");
            prop_assert_eq!((drawn.batch, drawn.length), (batch, length + data_tokens));
            check_copying(&drawn, &task, data_tokens);
        }
    }
}

#[test]
fn the_defaults_are_the_papers() {
    let task = induction(InductionHeadsConfig::default());
    let drawn = task.batch(0).expect("endless").tokens().expect("ids");
    assert_eq!(
        (
            task.bounds().inputs,
            task.special(),
            drawn.batch,
            drawn.length
        ),
        (16, 15, 8, 256)
    );

    let task = copying(SelectiveCopyingConfig::default());
    let drawn = task.batch(0).expect("endless").tokens().expect("ids");
    assert_eq!(
        (task.bounds().inputs, drawn.batch, drawn.length),
        (16, 64, 4096 + 16)
    );
    check_copying(&drawn, &task, 16);
}

#[test]
fn mixed_lengths_are_all_drawn_equally_often() {
    let lengths = vec![16, 32, 64, 128];
    let task = induction(InductionHeadsConfig {
        batch: 1,
        lengths: lengths.clone(),
        ..Default::default()
    });
    let drawn: Vec<usize> = (0..2000)
        .map(|index| task.batch(index).expect("endless").length)
        .collect();
    for length in lengths {
        let times = drawn.iter().filter(|&&l| l == length).count();
        assert!(
            (400..600).contains(&times),
            "{length} came {times} times of 2000, 500 ± 19 expected"
        );
    }
}

/// Every answer and every place of the special token comes up, each about equally often.
#[test]
fn induction_answers_and_places_are_uniform() {
    let length = 12;
    let task = induction(InductionHeadsConfig::default());
    let drawn = task.evaluation_batch(30_000, length, 0).expect("valid");
    let (mut answers, mut places) = ([0usize; 15], [0usize; 10]);
    for (inputs, targets) in rows(&drawn) {
        answers[targets[length - 1] as usize] += 1;
        places[inputs
            .iter()
            .position(|&token| token == 15)
            .expect("it is there")] += 1;
    }
    assert!(
        answers.iter().all(|n| (1750..2250).contains(n)),
        "2000 ± 43 expected: {answers:?}"
    );
    assert!(
        places.iter().all(|n| (2700..3300).contains(n)),
        "3000 ± 52 expected: {places:?}"
    );
}

#[test]
fn copying_data_stand_at_every_place_equally_often() {
    let config = SelectiveCopyingConfig {
        batch: 20_000,
        length: 10,
        data_tokens: 3,
        ..Default::default()
    };
    let drawn = copying(config)
        .batch(0)
        .expect("endless")
        .tokens()
        .expect("ids");
    let mut places = [0usize; 10];
    for (inputs, _) in rows(&drawn) {
        (0..10)
            .filter(|&t| inputs[t] != 0)
            .for_each(|t| places[t] += 1);
    }
    assert!(
        places.iter().all(|n| (5600..6400).contains(n)),
        "6000 ± 65 expected: {places:?}"
    );
}

#[test]
fn evaluation_rows_of_the_greatest_length_are_solved_by_search() {
    let task = induction(InductionHeadsConfig::default());
    let drawn = task.evaluation_batch(2, 1 << 20, 3).expect("valid");
    assert_eq!(drawn.length, 1 << 20);
    check_induction(&drawn, 15);
}

#[test]
fn evaluation_batches_are_never_training_batches() {
    let task = induction(InductionHeadsConfig::default());
    let evaluation: Vec<Batch> = (0..20)
        .map(|index| task.evaluation_batch(8, 256, index).expect("valid"))
        .collect();
    assert_eq!(
        evaluation[4],
        task.evaluation_batch(8, 256, 4).expect("valid"),
        "a function of its arguments"
    );
    let all: HashSet<Vec<u32>> = evaluation
        .into_iter()
        .chain((0..20).map(|index| task.batch(index).expect("endless").tokens().expect("ids")))
        .map(|batch| batch.inputs)
        .collect();
    assert_eq!(all.len(), 40, "all forty differ");

    let task = copying(SelectiveCopyingConfig {
        batch: 2,
        ..Default::default()
    });
    check_copying(&task.evaluation_batch(0), &task, 16);
    assert_eq!(task.evaluation_batch(1), task.evaluation_batch(1));
    assert_ne!(
        Some(task.evaluation_batch(0)),
        task.batch(0).expect("endless").tokens()
    );
}
