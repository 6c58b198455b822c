use serpens_core::Tensor;
use serpens_data::{ByteCorpus, IGNORE, SelectiveCopying, SelectiveCopyingConfig, Split};
use serpens_nn::layers::Sequence;

use super::*;
use crate::Error;
use crate::evaluate::{answers, bits_per_byte};

#[test]
fn bits_per_byte_read_in_chunks_are_those_of_the_whole_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    let text = "it was a bright cold day in April, ".repeat(20);
    std::fs::write(&path, &text).unwrap();
    let corpus = ByteCorpus::open(path.to_str().unwrap()).unwrap();
    let model = model(256);
    // Every byte of the part is predicted from all before it, with f64 sums over the logits.
    let count = corpus.split_bytes(Split::Validation);
    let bytes = &text.as_bytes()[text.len() - count - 1..];
    let ids: Vec<u32> = bytes[..count].iter().map(|&b| b.into()).collect();
    let ids = Tensor::from_slice([1, count], &ids, Device::cpu()).unwrap();
    let logits = model
        .forward(&ids.into(), &Sequence::default(), None)
        .unwrap();
    let logits = logits.mat().unwrap();
    let bits = |i: usize| {
        let row = logits.row(i);
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        (sum.ln() - f64::from(row[bytes[i + 1] as usize])) / std::f64::consts::LN_2
    };
    let expected = (0..count).map(bits).sum::<f64>() / count as f64;
    for length in [1, 7, 64, 1000] {
        let slices = corpus.slices(Split::Validation, 1, length).unwrap();
        let got = bits_per_byte(&model, slices, &mut |_| Ok(())).unwrap();
        assert!(
            (got - expected).abs() < 1e-5,
            "length {length}: {got} and {expected}"
        );
    }
    // Rows side by side lose the context of their first bytes only.
    let slices = corpus.slices(Split::Validation, 3, 5).unwrap();
    let rows = bits_per_byte(&model, slices, &mut |_| Ok(())).unwrap();
    assert!((rows - expected).abs() < 0.5, "{rows} and {expected}");
}

/// The share of right answers.
fn accuracy(
    model: &MambaLm,
    batches: impl IntoIterator<Item = serpens_data::Result<serpens_data::Batch>>,
    chunk: usize,
) -> f64 {
    let totals = answers(model, batches, chunk, &mut |_| Ok(())).unwrap();
    totals.correct as f64 / totals.count as f64
}

/// The share of right answers, from whole sequences and all their logits.
fn plain_accuracy(model: &MambaLm, batches: &[serpens_data::Batch]) -> f64 {
    let (mut right, mut count) = (0, 0);
    for batch in batches {
        let shape = [batch.batch, batch.length];
        let ids = Tensor::from_slice(shape, &batch.inputs, Device::cpu()).unwrap();
        let logits = model
            .forward(&ids.into(), &Sequence::default(), None)
            .unwrap();
        let logits = logits.mat().unwrap();
        for (i, &target) in batch
            .targets
            .iter()
            .enumerate()
            .filter(|(_, t)| **t != IGNORE)
        {
            let row = logits.row(i);
            let best = (0..row.len())
                .max_by(|&a, &b| row[a].total_cmp(&row[b]))
                .unwrap();
            right += usize::from(best == target as usize);
            count += 1;
        }
    }
    f64::from(right as u32) / f64::from(count as u32)
}

#[test]
fn accuracy_does_not_depend_on_how_the_sequences_are_read() {
    let mut trainer = trainer(settings(120));
    run(&mut trainer, None).unwrap();
    let model = trainer.model();
    let batch = task().evaluation_batch(64, 50, 0).unwrap();
    let expected = plain_accuracy(model, &[batch]);
    assert!(
        expected > 0.0 && expected < 1.0,
        "a figure that tells something: {expected}"
    );
    for chunk in [1, 16, 50, 64] {
        let got = accuracy(model, [task().evaluation_batch(64, 50, 0)], chunk);
        assert_eq!(got, expected, "chunk {chunk}");
    }
    let uneven = [(4, 0), (4, 1), (2, 2)];
    let batches = uneven.map(|(rows, index)| task().evaluation_batch(rows, 50, index).unwrap());
    let got = accuracy(model, batches.clone().map(Ok), 16);
    assert_eq!(got, plain_accuracy(model, &batches));
}

#[test]
fn accuracy_on_selective_copying_counts_the_answers() {
    let task = SelectiveCopying::new(SelectiveCopyingConfig {
        vocab: VOCAB,
        batch: 16,
        length: 700, // longer than what is read at a time
        data_tokens: 4,
        seed: 5,
    })
    .unwrap();
    let model = model(VOCAB);
    let batches = [0, 1].map(|index| task.evaluation_batch(index));
    let expected = plain_accuracy(&model, &batches);
    assert_eq!(accuracy(&model, batches.map(Ok), 512), expected);
}

#[test]
fn a_reading_is_watched_and_ends_when_it_should() {
    let batch = task().evaluation_batch(4, 50, 0).unwrap();
    let mut told = Vec::new();
    let ended = answers(&model(VOCAB), [Ok(batch)], 16, &mut |done| {
        told.push(done);
        match done {
            0..128 => Ok(()),
            _ => Err(Error::Stopped),
        }
    });
    assert!(matches!(ended, Err(Error::Stopped)));
    assert_eq!(told, [0, 64, 128]);
}
