//! What every source promises: same seed, same batches; a position continues the stream exactly; reading ahead
//! changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serpens_data::{
    Batch, Bounds, ByteCorpus, ByteSource, ByteSourceConfig, Error, IGNORE, InductionHeads,
    InductionHeadsConfig, Position, Prefetch, Result, SelectiveCopying, SelectiveCopyingConfig,
    Source,
};

/// One source of each kind. The text makes short epochs, so that batches run over their borders.
fn sources(seed: u64) -> Vec<Box<dyn Source>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("text");
    let text: Vec<u8> = (0..1000u32).map(|i| (i * i % 251) as u8).collect();
    std::fs::write(&file, text).expect("a file");
    let corpus = ByteCorpus::open(file.to_str().expect("a plain path")).expect("it is there");
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
    let bytes = ByteSourceConfig {
        batch: 5,
        length: 31,
        seed,
    };
    vec![
        Box::new(InductionHeads::new(induction).expect("valid")),
        Box::new(SelectiveCopying::new(copying).expect("valid")),
        Box::new(ByteSource::new(&corpus, bytes).expect("valid")),
    ]
}

fn take(source: &mut impl Source, count: usize) -> Vec<Batch> {
    (0..count)
        .map(|_| source.next_batch().expect("endless"))
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_batches_and_another_seed_others() {
    for ((mut one, mut same), mut other) in sources(3).into_iter().zip(sources(3)).zip(sources(4)) {
        let (batches, others) = (take(&mut one, 20), take(&mut other, 20));
        assert_eq!(batches, take(&mut same, 20));
        assert!(batches.iter().zip(&others).all(|(a, b)| a != b));
        assert!(batches.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

#[test]
fn tokens_lie_below_the_vocabulary() {
    for mut source in sources(0) {
        let Bounds { inputs, targets } = source.bounds();
        for batch in take(&mut source, 10) {
            assert!(batch.inputs.iter().all(|&token| (token as usize) < inputs));
            let counted = batch.targets.iter().filter(|token| **token != IGNORE);
            assert!(counted.copied().all(|token| (token as usize) < targets));
        }
    }
}

#[test]
fn a_resumed_stream_equals_the_uninterrupted_one() {
    for (mut whole, mut resumed) in sources(1).into_iter().zip(sources(1)) {
        take(&mut whole, 13);
        let position = whole.position();
        let rest = take(&mut whole, 12);
        resumed.seek(&position).expect("the same stream");
        assert_eq!(resumed.position(), position);
        assert_eq!(take(&mut resumed, 12), rest);
        assert_eq!(resumed.position(), whole.position());
        whole.seek(&position).expect("the same stream");
        assert_eq!(take(&mut whole, 12), rest, "going back is seeking, too");
    }
}

#[test]
fn a_position_can_be_saved_with_any_serde_format() {
    fn saved_and_loaded<T: Serialize + DeserializeOwned>() {}
    saved_and_loaded::<Position>();
}

#[test]
fn even_the_last_position_of_all_can_be_reached() {
    for mut source in sources(1) {
        let position = Position {
            batches: u64::MAX,
            ..source.position()
        };
        source.seek(&position).expect("the same stream");
        take(&mut source, 2);
    }
}

#[test]
fn a_position_of_another_stream_is_refused_and_nothing_moves() {
    for (mut source, other) in sources(1).into_iter().zip(sources(2)) {
        take(&mut source, 3);
        let before = source.position();
        assert!(matches!(
            source.seek(&other.position()),
            Err(Error::OtherStream { .. })
        ));
        assert_eq!(source.position(), before);
    }
}

#[test]
fn prefetched_batches_are_the_direct_ones() {
    for depth in [1, 2, 7] {
        for (mut direct, ahead) in sources(5).into_iter().zip(sources(5)) {
            let mut ahead = Prefetch::new(ahead, depth).expect("a thread");
            assert_eq!(ahead.bounds(), direct.bounds());
            for _ in 0..20 {
                assert_eq!(
                    ahead.position(),
                    direct.position(),
                    "the position is that of the batches consumed"
                );
                assert_eq!(
                    ahead.next_batch().expect("endless"),
                    direct.next_batch().expect("endless")
                );
            }
        }
    }
}

#[test]
fn seeking_a_prefetch_drops_what_was_read_ahead() {
    for (mut direct, ahead) in sources(5).into_iter().zip(sources(5)) {
        let mut ahead = Prefetch::new(ahead, 4).expect("a thread");
        let start = direct.position();
        let first = take(&mut direct, 9);
        let middle = direct.position();
        let later = take(&mut direct, 5);
        assert_eq!(take(&mut ahead, 2), first[..2]);
        ahead.seek(&middle).expect("the same stream");
        assert_eq!(ahead.position(), middle);
        assert_eq!(take(&mut ahead, 5), later);
        ahead.seek(&start).expect("the same stream");
        assert_eq!(take(&mut ahead, 9), first);
    }
}

#[test]
fn a_prefetch_stays_where_it_is_when_a_seek_fails() {
    for ((mut direct, ahead), other) in sources(5).into_iter().zip(sources(5)).zip(sources(6)) {
        let mut ahead = Prefetch::new(ahead, 4).expect("a thread");
        assert_eq!(take(&mut ahead, 3), take(&mut direct, 3));
        assert!(matches!(
            ahead.seek(&other.position()),
            Err(Error::OtherStream { .. })
        ));
        assert_eq!(ahead.position(), direct.position());
        assert_eq!(take(&mut ahead, 3), take(&mut direct, 3));
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
    next: u64,
    fault: Fault,
    made: Arc<AtomicU64>,
    dropped: Arc<AtomicBool>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Faulty {
            next: 0,
            fault,
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
    fn next_batch(&mut self) -> Result<Batch> {
        if self.next == 3 {
            match std::mem::replace(&mut self.fault, Fault::Nothing) {
                Fault::Nothing => {}
                Fault::ErrorOnce => {
                    return Err(Error::other(std::fmt::Error));
                }
                Fault::Panic => panic!("the fourth\nbatch"),
            }
        }
        let token = self.next as u32;
        self.next += 1;
        self.made.fetch_add(1, Ordering::SeqCst);
        Ok(Batch {
            inputs: vec![token],
            targets: vec![token + 1],
            batch: 1,
            length: 1,
        })
    }

    fn position(&self) -> Position {
        Position {
            source: "faulty".into(),
            batches: self.next,
        }
    }

    fn seek(&mut self, position: &Position) -> Result<()> {
        self.next = position.batches;
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        Bounds::tokens(1000)
    }
}

#[test]
fn an_error_arrives_in_its_place_and_the_next_call_tries_again() {
    let mut ahead = Prefetch::new(Faulty::new(Fault::ErrorOnce), 8).expect("a thread");
    for token in 0..3 {
        assert_eq!(
            ahead.next_batch().expect("before the error").inputs,
            [token]
        );
    }
    let error = ahead.next_batch().expect_err("the source's own");
    assert!(matches!(&error, Error::Other { source } if source.is::<std::fmt::Error>()));
    assert!(std::error::Error::source(&error).is_some());
    assert_eq!(ahead.position().batches, 3);
    for token in 3..20 {
        assert_eq!(ahead.next_batch().expect("after the error").inputs, [token]);
    }
}

#[test]
fn a_panic_becomes_an_error_that_stays() {
    let mut ahead = Prefetch::new(Faulty::new(Fault::Panic), 8).expect("a thread");
    for token in 0..3 {
        assert_eq!(
            ahead.next_batch().expect("before the panic").inputs,
            [token]
        );
    }
    for _ in 0..2 {
        let error = ahead.next_batch().expect_err("the source is lost");
        assert_eq!(
            error.to_string(),
            "prefetch: reading ahead has stopped (the source panicked: the fourth batch): start again from the last saved position"
        );
    }
    assert_eq!(ahead.position().batches, 3);
    let position = ahead.position();
    assert!(matches!(
        ahead.seek(&position),
        Err(Error::PrefetchStopped { .. })
    ));
}

#[test]
fn dropping_a_prefetch_ends_its_thread() {
    for fault in [Fault::Nothing, Fault::ErrorOnce, Fault::Panic] {
        let source = Faulty::new(fault);
        let dropped = source.dropped.clone();
        drop(Prefetch::new(source, 2).expect("a thread"));
        assert!(
            dropped.load(Ordering::SeqCst),
            "the source lives on the thread, which has ended"
        );
    }
}

#[test]
fn no_more_than_depth_batches_wait() {
    let source = Faulty::new(Fault::Nothing);
    let made = source.made.clone();
    let mut ahead = Prefetch::new(source, 3).expect("a thread");
    take(&mut ahead, 10);
    // Three in the channel, and one in the hands of the thread.
    for _ in 0..50 {
        assert!(made.load(Ordering::SeqCst) <= 10 + 3 + 1);
        std::thread::yield_now();
    }
}
