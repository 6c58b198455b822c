//! Preparing batches on another thread while the model computes.

use std::any::Any;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::error::{Error, Result, at_least};
use crate::source::{Batch, Position, Source};

/// Runs ahead of its consumer on a thread of its own: the same batches in the same order as `S` itself.
///
/// The position is that of the batches consumed; what was read ahead does not count, and is dropped by a seek.
/// An error of the source arrives in its place in the order; the next call tries again, as it would directly. If
/// the source panics, every later call is an [`Error::PrefetchStopped`]. Dropping it waits for the thread to end.
#[derive(Debug)]
pub struct Prefetch<S> {
    state: State<S>,
    depth: usize,
    vocab: usize,
    consumed: Position,
}

#[derive(Debug)]
enum State<S> {
    /// A thread has the source.
    Running(Worker<S>),
    /// The source stands at the position consumed.
    Waiting(S),
    /// There is no source any more.
    Lost { reason: String },
}

/// The thread, which gives the source back when it ends, and where its batches arrive.
#[derive(Debug)]
struct Worker<S> {
    ready: Receiver<Result<Step>>,
    thread: JoinHandle<S>,
}

/// A batch and the position after it.
#[derive(Debug)]
struct Step {
    batch: Batch,
    after: Position,
}

impl<S: Source + 'static> Worker<S> {
    fn start(source: S, depth: usize) -> Result<Self> {
        let (sender, ready) = sync_channel(depth);
        let thread = Builder::new()
            .name("prefetch".into())
            .spawn(move || read_ahead(source, &sender))
            .map_err(|cause| Error::PrefetchStopped {
                reason: format!("no thread could be started: {cause}"),
            })?;
        Ok(Worker { ready, thread })
    }
}

impl<S> Worker<S> {
    /// Ends the thread, and returns the source, which may have run ahead.
    fn end(self) -> Result<S> {
        drop(self.ready); // a thread that waits for room in the channel now sees that nobody listens
        self.thread.join().map_err(|panic| Error::PrefetchStopped {
            reason: format!("the source panicked: {}", message(&*panic)),
        })
    }
}

/// Sends steps until one is an error or nobody listens any more.
fn read_ahead<S: Source>(mut source: S, sender: &SyncSender<Result<Step>>) -> S {
    loop {
        let step = source.next_batch().map(|batch| Step {
            batch,
            after: source.position(),
        });
        let failed = step.is_err();
        if sender.send(step).is_err() || failed {
            return source;
        }
    }
}

/// What a panic said, on one line.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "without a message",
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl<S: Source + 'static> Prefetch<S> {
    /// Starts to read ahead, keeping up to `depth` batches ready.
    ///
    /// # Errors
    /// [`Error::TooSmall`] for depth 0, [`Error::PrefetchStopped`] if the system starts no thread.
    pub fn new(source: S, depth: usize) -> Result<Self> {
        at_least("prefetch", "depth", depth, 1)?;
        let (vocab, consumed) = (source.vocab(), source.position());
        let state = State::Running(Worker::start(source, depth)?);
        Ok(Prefetch {
            state,
            depth,
            vocab,
            consumed,
        })
    }

    /// Moves the state on; where that fails, the source is lost, and this and every later call says why.
    fn advance<T>(
        &mut self,
        step: impl FnOnce(State<S>, usize) -> Result<(State<S>, T)>,
    ) -> Result<T> {
        let lost = State::Lost {
            reason: "an earlier call failed".into(),
        };
        match step(std::mem::replace(&mut self.state, lost), self.depth) {
            Ok((state, value)) => {
                self.state = state;
                Ok(value)
            }
            Err(error) => {
                if let Error::PrefetchStopped { reason } = &error {
                    self.state = State::Lost {
                        reason: reason.clone(),
                    };
                }
                Err(error)
            }
        }
    }
}

impl<S: Source + 'static> Source for Prefetch<S> {
    fn next_batch(&mut self) -> Result<Batch> {
        let Step { batch, after } = self.advance(|state, depth| {
            let worker = match state {
                State::Running(worker) => worker,
                State::Waiting(source) => Worker::start(source, depth)?,
                State::Lost { reason } => return Err(Error::PrefetchStopped { reason }),
            };
            match worker.ready.recv() {
                Ok(Ok(step)) => Ok((State::Running(worker), Ok(step))),
                Ok(Err(error)) => Ok((State::Waiting(worker.end()?), Err(error))),
                // Only a panic ends the thread without a word, and `end` reports it.
                Err(nothing) => {
                    worker.end()?;
                    Err(Error::PrefetchStopped {
                        reason: nothing.to_string(),
                    })
                }
            }
        })??;
        self.consumed = after;
        Ok(batch)
    }

    fn position(&self) -> Position {
        self.consumed.clone()
    }

    fn seek(&mut self, position: &Position) -> Result<()> {
        let consumed = self.consumed.clone();
        self.advance(|state, depth| {
            let mut source = match state {
                State::Running(worker) => worker.end()?,
                State::Waiting(source) => source,
                State::Lost { reason } => return Err(Error::PrefetchStopped { reason }),
            };
            let sought = source.seek(position);
            if sought.is_err() {
                source.seek(&consumed)?;
            }
            Ok((State::Running(Worker::start(source, depth)?), sought))
        })??;
        self.consumed = position.clone();
        Ok(())
    }

    fn vocab(&self) -> usize {
        self.vocab
    }
}

impl<S> Drop for Prefetch<S> {
    fn drop(&mut self) {
        let lost = State::Lost {
            reason: "dropped".into(),
        };
        if let State::Running(worker) = std::mem::replace(&mut self.state, lost) {
            // A panic of the source would have been reported by the next call: there is none any more.
            let _ = worker.end();
        }
    }
}
