//! What every source promises: same seed, same batches; an index continues the stream exactly; reading ahead
//! changes nothing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serpens_data::{
    Batch, Bounds, Content, Corpus, Error, IGNORE, InductionHeads, InductionHeadsConfig, Numbers,
    Prefetch, Result, SelectiveCopying, SelectiveCopyingConfig, Source, Tokenizer,
};

/// One source of each kind. The text makes short epochs, so that batches run over their borders.
fn sources(seed: u64) -> Vec<Arc<dyn Source>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("text");
    let text: Vec<u8> = (0..1000u32).map(|i| (i * i % 251) as u8).collect();
    std::fs::write(&file, text).expect("a file");
    let (file, bytes) = (file.to_str().expect("a plain path"), Tokenizer::bytes());
    let go_on = &mut |_, _| Ok::<_, Error>(());
    let corpus = Corpus::open(file, &Content::Text, &bytes, &[], go_on).expect("it is there");
    let induction = InductionHeadsConfig {
        lengths: vec![16, 64, 256],
        seed,
        ..Default::default()
    };
    let copying = SelectiveCopyingConfig {
        batch: 2,
        length: 50,
        seed,
        ..Default::default()
    };
    vec![
        Arc::new(InductionHeads::new(induction).expect("valid")),
        Arc::new(SelectiveCopying::new(copying).expect("valid")),
        Arc::new(corpus.windows(5, 31, seed).expect("valid")),
    ]
}

fn take(source: &dyn Source, indices: Range<u64>) -> Vec<Batch> {
    indices
        .map(|index| source.batch(index).expect("endless").tokens().expect("ids"))
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_batches_and_another_seed_others() {
    for ((one, same), other) in sources(3).into_iter().zip(sources(3)).zip(sources(4)) {
        let (batches, others) = (take(&*one, 0..20), take(&*other, 0..20));
        assert_eq!(batches, take(&*same, 0..20));
        assert!(batches.iter().zip(&others).all(|(a, b)| a != b));
        assert!(batches.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

#[test]
fn tokens_lie_below_the_vocabulary() {
    for source in sources(0) {
        let Bounds { inputs, targets } = source.bounds();
        for batch in take(&*source, 0..10) {
            assert!(batch.inputs.iter().all(|&token| (token as usize) < inputs));
            let counted = batch.targets.iter().filter(|token| **token != IGNORE);
            assert!(counted.copied().all(|token| (token as usize) < targets));
        }
    }
}

#[test]
fn a_stream_read_from_anywhere_equals_the_uninterrupted_one() {
    for (whole, later) in sources(1).into_iter().zip(sources(1)) {
        let batches = take(&*whole, 0..25);
        assert_eq!(take(&*later, 13..25), batches[13..]);
        assert_eq!(take(&*whole, 13..25), batches[13..], "going back, too");
    }
}

#[test]
fn even_the_last_batch_of_all_can_be_read_and_the_first_follows_it() {
    for source in sources(1) {
        let (last, first) = (source.batch(u64::MAX), source.batch(0));
        let ahead = Prefetch::new(source, 2).expect("room");
        let again = [u64::MAX, 0].map(|index| ahead.batch(index).expect("endless"));
        assert_eq!(again, [last.expect("endless"), first.expect("endless")]);
    }
}

#[test]
fn descriptions_tell_streams_apart() {
    for ((one, same), other) in sources(1).into_iter().zip(sources(1)).zip(sources(2)) {
        assert_eq!(one.description(), same.description());
        assert_ne!(one.description(), other.description());
    }
    // Runs keep them, and do not go on with another.
    let [induction, copying, _] = &sources(1)[..] else {
        panic!("three sources");
    };
    assert_eq!(
        induction.description(),
        "induction heads, vocab 16, batch 8, lengths [16, 64, 256], seed 1"
    );
    assert_eq!(
        copying.description(),
        "selective copying, vocab 16, batch 2, length 50, data_tokens 16, seed 1"
    );
}

#[test]
fn prefetched_batches_are_the_direct_ones() {
    for depth in [1, 2, 7] {
        for (direct, ahead) in sources(5).into_iter().zip(sources(5)) {
            let ahead = Prefetch::new(ahead, depth).expect("room");
            assert_eq!(ahead.bounds(), direct.bounds());
            assert_eq!(ahead.description(), direct.description());
            for index in 0..20 {
                assert_eq!(
                    ahead.batch(index).expect("endless"),
                    direct.batch(index).expect("endless")
                );
            }
        }
    }
}

#[test]
fn going_elsewhere_drops_what_was_read_ahead() {
    for (direct, ahead) in sources(5).into_iter().zip(sources(5)) {
        let ahead = Prefetch::new(ahead, 4).expect("room");
        for indices in [0..2, 9..14, 0..9, 8..10] {
            assert_eq!(take(&ahead, indices.clone()), take(&*direct, indices));
        }
    }
}

/// What goes wrong in [`Faulty`], at its fourth batch.
#[derive(Clone, Copy)]
enum Fault {
    Nothing,
    ErrorOnce,
    Panic,
}

/// Counts; tells how many batches it has made and when it is dropped.
struct Faulty {
    fault: Fault,
    asked: AtomicU64,
    made: Arc<AtomicU64>,
    dropped: Arc<AtomicBool>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Faulty {
            fault,
            asked: AtomicU64::new(0),
            made: Arc::default(),
            dropped: Arc::default(),
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

impl Source for Faulty {
    fn batch(&self, index: u64) -> Result<Batch<Numbers>> {
        let asked = self
            .asked
            .fetch_add(u64::from(index == 3), Ordering::SeqCst);
        match self.fault {
            Fault::ErrorOnce if index == 3 && asked == 0 => {
                return Err(Error::other(std::fmt::Error));
            }
            Fault::Panic if index == 3 => panic!("the fourth\nbatch"),
            _ => {}
        }
        self.made.fetch_add(1, Ordering::SeqCst);
        let token = index as u32;
        Ok(Batch {
            starts: None,
            inputs: vec![token],
            targets: vec![token + 1],
            batch: 1,
            length: 1,
        }
        .into())
    }

    fn bounds(&self) -> Bounds {
        Bounds::tokens(1000)
    }

    fn description(&self) -> String {
        "faulty".into()
    }
}

fn faulty(fault: Fault) -> Prefetch {
    Prefetch::new(Arc::new(Faulty::new(fault)), 8).expect("room")
}

fn token(source: &Prefetch, index: u64) -> u32 {
    source.batch(index).expect("no fault").inputs.ids()[0]
}

#[test]
fn an_error_arrives_in_its_place_and_the_next_call_tries_again() {
    let ahead = faulty(Fault::ErrorOnce);
    for index in 0..3 {
        assert_eq!(token(&ahead, index), index as u32);
    }
    let error = ahead.batch(3).expect_err("the source's own");
    assert!(matches!(&error, Error::Other(source) if source.is::<std::fmt::Error>()));
    assert!(std::error::Error::source(&error).is_some());
    for index in 3..20 {
        assert_eq!(token(&ahead, index), index as u32);
    }
}

#[test]
fn a_panic_becomes_an_error_that_stays() {
    let ahead = faulty(Fault::Panic);
    for index in 0..3 {
        assert_eq!(token(&ahead, index), index as u32);
    }
    for _ in 0..2 {
        let error = ahead.batch(3).expect_err("the batch cannot be made");
        assert!(matches!(error, Error::Panicked { index: 3, .. }));
        assert_eq!(
            error.to_string(),
            "prefetch: the source panicked at batch 3: the fourth batch"
        );
    }
    assert_eq!(token(&ahead, 4), 4, "the others can");
}

#[test]
fn dropping_a_prefetch_ends_its_thread() {
    for fault in [Fault::Nothing, Fault::ErrorOnce, Fault::Panic] {
        let source = Faulty::new(fault);
        let dropped = source.dropped.clone();
        let ahead = Prefetch::new(Arc::new(source), 2).expect("room");
        ahead.batch(1).expect("before the fault");
        drop(ahead);
        assert!(
            dropped.load(Ordering::SeqCst),
            "the thread has the source too, and has ended"
        );
    }
}

#[test]
fn no_more_than_depth_batches_wait() {
    let source = Faulty::new(Fault::Nothing);
    let made = source.made.clone();
    let ahead = Prefetch::new(Arc::new(source), 3).expect("room");
    take(&ahead, 0..10);
    // Three in the channel, and one in the hands of the thread.
    for _ in 0..50 {
        assert!(made.load(Ordering::SeqCst) <= 10 + 3 + 1);
        std::thread::yield_now();
    }
}
