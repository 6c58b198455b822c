use serpens_core::Tensor;
use serpens_data::{
    Content, Corpus, Error as DataError, IGNORE, SelectiveCopying, SelectiveCopyingConfig, Source,
    Split, Tokenizer, tokenize,
};
use serpens_nn::layers::Sequence;

use super::*;
use crate::Error;
use crate::evaluate::{self, answers};
use crate::objective::{Objective, starts};

fn open(path: &Path) -> Corpus {
    let (path, bytes) = (path.to_str().unwrap(), Tokenizer::bytes());
    let go_on = &mut |_, _| Ok::<_, DataError>(());
    Corpus::open(path, &Content::Text, &bytes, &[], go_on).unwrap()
}

#[test]
fn bits_per_byte_read_in_chunks_are_those_of_the_whole_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    let text = "it was a bright cold day in April, ".repeat(20);
    std::fs::write(&path, &text).unwrap();
    let corpus = open(&path);
    let model = model(256);
    // Every byte of the part is predicted from all before it, with f64 sums over the logits.
    let count = corpus.split_tokens(Split::Validation);
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
        let got = evaluate::text(&model, slices, &mut |_| Ok(()))
            .unwrap()
            .bits_per_byte();
        assert!(
            (got - expected).abs() < 1e-5,
            "length {length}: {got} and {expected}"
        );
    }
    // Rows side by side lose the context of their first bytes only.
    let slices = corpus.slices(Split::Validation, 3, 5).unwrap();
    let rows = evaluate::text(&model, slices, &mut |_| Ok(()))
        .unwrap()
        .bits_per_byte();
    assert!((rows - expected).abs() < 0.5, "{rows} and {expected}");
}

#[test]
fn by_context_each_target_counts_once_and_none_behind_another_document() {
    let lines = "{\"text\": \"a short one\"}\n{\"text\": \"another of some more length\"}\n";
    let (_dir, corpus) = documents(lines);
    let (model, length) = (model(256), 31);
    let windows = || corpus.slices(Split::Train, 1, length).unwrap().take(1);
    let octaves = |chunk| {
        let read = evaluate::by_context(&model, windows(), chunk, &mut |_| Ok(()));
        read.unwrap()
    };
    // The first document has ten targets: 1, 2, 4 and, of the next eight, 3 at contexts of 1, 2, 4 and 8.
    let all = octaves(1000);
    let counts: Vec<_> = all
        .iter()
        .map(|(context, totals)| (*context, totals.count))
        .collect();
    assert_eq!(counts, [(1, 1), (2, 2), (4, 4), (8, 3)]);
    let bits = bits_of(&model, "a short one", 1);
    let sum: f64 = all.iter().map(|(_, totals)| totals.sum).sum();
    assert!(
        (sum / std::f64::consts::LN_2 - bits).abs() < 1e-4,
        "{sum} {bits}"
    );
    for chunk in [1, 3] {
        for ((_, one), (_, other)) in octaves(chunk).iter().zip(&all) {
            assert!(one.count == other.count && (one.sum - other.sum).abs() < 1e-4);
        }
    }
}

/// Documents of bytes, as lines of a token file.
fn documents(lines: &str) -> (tempfile::TempDir, Corpus) {
    let dir = tempfile::tempdir().unwrap();
    let [lines_at, file] = ["text.jsonl", "tokens"].map(|name| dir.path().join(name));
    std::fs::write(&lines_at, lines).unwrap();
    let pattern = [lines_at.to_str().unwrap().to_owned()];
    let (bytes, go_on) = (Tokenizer::bytes(), &mut |_, _| Ok::<_, DataError>(()));
    tokenize(&pattern, &Content::Text, &bytes, &file, go_on).unwrap();
    let corpus = open(&file);
    (dir, corpus)
}

/// Bits that a model needs for the bytes of a text from some place on.
fn bits_of(model: &MambaLm, text: &str, from: usize) -> f64 {
    let ids: Vec<u32> = text.bytes().map(u32::from).collect();
    let inputs = Tensor::from_slice([1, ids.len()], &ids, Device::cpu()).unwrap();
    let logits = (model.forward(&inputs.into(), &Sequence::default(), None)).unwrap();
    let logits = logits.mat().unwrap();
    let bits = |at: usize| {
        let row = logits.row(at - 1);
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        (sum.ln() - f64::from(row[ids[at] as usize])) / std::f64::consts::LN_2
    };
    (from..ids.len()).map(bits).sum()
}

const DOCUMENTS: &str = r#"{"text": "one document of several words"}
{"prompt": "what is asked? ", "completion": "the answer"}
{"text": "x"}
{"text": "the last of them, which is longer than the others are"}
"#;

/// Their texts, and from where on they are learnt.
const TEXTS: [(&str, usize); 3] = [
    ("one document of several words", 1),
    ("what is asked? the answer", 15),
    ("the last of them, which is longer than the others are", 1),
];

#[test]
fn documents_are_evaluated_and_learnt_as_each_by_itself() {
    let (_dir, corpus) = documents(DOCUMENTS);
    let model = model(256);
    let bits = TEXTS.map(|(text, from)| bits_of(&model, text, from));
    let bytes: usize = TEXTS.iter().map(|(text, from)| text.len() - from).sum();
    let expected = bits.iter().sum::<f64>() / bytes as f64;
    let whole = corpus.clone().with_validation_fraction(1.0).unwrap();
    for length in [1, 7, 40, 1000] {
        let slices = whole.slices(Split::Validation, 1, length).unwrap();
        let got = evaluate::text(&model, slices, &mut |_| Ok(()))
            .unwrap()
            .bits_per_byte();
        assert!(
            (got - expected).abs() < 1e-5,
            "{length}: {got} and {expected}"
        );
    }
    let corpus = corpus.with_validation_fraction(0.0).unwrap();
    let batch = corpus
        .windows(1, corpus.tokens() - 1, 0)
        .unwrap()
        .batch(0)
        .unwrap()
        .tokens()
        .unwrap();
    let starts = starts(&batch, 0..batch.length).unwrap();
    let tensor = |ids: &[u32]| Tensor::from_slice([1, batch.length], ids, Device::cpu()).unwrap();
    let sequence = Sequence {
        starts: starts.as_ref(),
        ..Sequence::default()
    };
    let inputs = tensor(&batch.inputs).into();
    let loss = NextToken.loss(&model, &inputs, &tensor(&batch.targets), &sequence);
    let got = f64::from(
        loss.unwrap()
            .value
            .tensor()
            .unwrap()
            .to_vec::<f32>()
            .unwrap()[0],
    );
    let got = got / std::f64::consts::LN_2;
    assert!((got - expected).abs() < 1e-5, "{got} and {expected}");
}

#[test]
fn training_learns_documents_and_not_what_they_are_given_with() {
    // Whatever is asked, the answer is the same; what is asked is random.
    let line = |i: u64| {
        let asked = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        format!("{{\"prompt\": \"{asked:012x}\", \"completion\": \"zyxw\"}}\n")
    };
    let (_dir, corpus) = documents(&(0..200).map(line).collect::<String>());
    let source = corpus.windows(4, 48, 0).unwrap();
    let mut settings = TrainConfig {
        steps: 60,
        ..TrainConfig::default()
    };
    settings.optimizer.lr = 1e-2;
    let mut trainer = Trainer::new(NextToken, model(256), Box::new(source), settings).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    for _ in 0..60 {
        trainer.take_step(&stop).unwrap();
    }
    let held_out = corpus.slices(Split::Validation, 1, 64).unwrap();
    let bits = evaluate::text(trainer.model(), held_out, &mut |_| Ok(()))
        .unwrap()
        .bits_per_byte();
    assert!(bits < 0.2, "{bits} for what is always the same");
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
