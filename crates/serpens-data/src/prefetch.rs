//! Preparing batches on another thread while the model computes.

use std::any::Any;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::error::{Result, Stopped, check_size};
use crate::source::{Batch, Bounds, Position, Source};

/// Runs ahead of its consumer on a thread of its own: the same batches in the same order as `S` itself.
///
/// The position is that of the batches consumed; what was read ahead does not count, and is dropped by a seek.
/// An error of the source arrives in its place in the order; the next call tries again, as it would directly. If
/// the source panics, every later call is a [`PrefetchStopped`](crate::Error::PrefetchStopped). Dropping it waits for the thread to end.
#[derive(Debug)]
pub struct Prefetch<S> {
    /// The thread that has the source, or why there is none any more.
    worker: Result<Worker<S>, Arc<Stopped>>,
    depth: usize,
    bounds: Bounds,
    consumed: Position,
}

/// The thread, which gives the source back when it ends, and where batches arrive, each with the position after it.
#[derive(Debug)]
struct Worker<S> {
    ready: Receiver<Result<(Batch, Position)>>,
    thread: JoinHandle<S>,
}

impl<S: Source + 'static> Worker<S> {
    fn start(source: S, depth: usize) -> Result<Self, Stopped> {
        let (sender, ready) = sync_channel(depth);
        let thread = Builder::new()
            .name("prefetch".into())
            .spawn(move || read_ahead(source, &sender))
            .map_err(Stopped::NoThread)?;
        Ok(Worker { ready, thread })
    }

    /// Ends the thread, gives the source to `change`, and starts to read ahead from there.
    fn restart<T>(
        self,
        depth: usize,
        change: impl FnOnce(&mut S) -> Result<T, Stopped>,
    ) -> Result<(Self, T), Stopped> {
        let mut source = self.end()?;
        let changed = change(&mut source)?;
        Ok((Worker::start(source, depth)?, changed))
    }
}

impl<S> Worker<S> {
    /// Ends the thread, and returns the source, which may have run ahead.
    fn end(self) -> Result<S, Stopped> {
        drop(self.ready); // a thread that waits for room in the channel now sees that nobody listens
        self.thread.join().map_err(|panic| Stopped::Panicked {
            message: message(&*panic),
        })
    }
}

/// Sends steps until one is an error or nobody listens any more.
fn read_ahead<S: Source>(mut source: S, sender: &SyncSender<Result<(Batch, Position)>>) -> S {
    loop {
        let step = source.next_batch().map(|batch| (batch, source.position()));
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
    /// [`Size`](crate::Error::Size) for depth 0, [`PrefetchStopped`](crate::Error::PrefetchStopped) if the system starts no thread.
    pub fn new(source: S, depth: usize) -> Result<Self> {
        check_size("prefetch", "depth", depth, 1..=usize::MAX)?;
        let (bounds, consumed) = (source.bounds(), source.position());
        let worker = Worker::start(source, depth).map_err(Arc::new);
        worker.as_ref().map_err(Arc::clone)?;
        Ok(Prefetch {
            worker,
            depth,
            bounds,
            consumed,
        })
    }

    /// Lets `change` have the source. Where that fails, the source is lost, and this and every later call says why.
    fn restart<T>(&mut self, change: impl FnOnce(&mut S) -> Result<T, Stopped>) -> Result<T> {
        let unwound = Err(Arc::new(Stopped::Unwound));
        let worker = std::mem::replace(&mut self.worker, unwound);
        let restarted =
            worker.and_then(|worker| worker.restart(self.depth, change).map_err(Arc::new));
        let (worker, result) = match restarted {
            Ok((worker, changed)) => (Ok(worker), Ok(changed)),
            Err(why) => (Err(Arc::clone(&why)), Err(why.into())),
        };
        self.worker = worker;
        result
    }
}

impl<S: Source + 'static> Source for Prefetch<S> {
    fn next_batch(&mut self) -> Result<Batch> {
        loop {
            let worker = self.worker.as_ref().map_err(Arc::clone)?;
            match worker.ready.recv() {
                Ok(step) => {
                    let batch;
                    (batch, self.consumed) = step?;
                    return Ok(batch);
                }
                // The thread has ended: after an error, which an earlier call told, or with a panic, which is told now.
                Err(_) => self.restart(|_| Ok(()))?,
            }
        }
    }

    fn position(&self) -> Position {
        self.consumed.clone()
    }

    fn seek(&mut self, position: &Position) -> Result<()> {
        let consumed = self.consumed.clone();
        self.restart(|source| {
            let sought = source.seek(position);
            if sought.is_err() {
                let back = source.seek(&consumed);
                back.map_err(|error| Stopped::Strayed(Box::new(error)))?;
            }
            Ok(sought)
        })??;
        self.consumed = position.clone();
        Ok(())
    }

    fn bounds(&self) -> Bounds {
        self.bounds
    }
}

impl<S> Drop for Prefetch<S> {
    fn drop(&mut self) {
        let dropped = Err(Arc::new(Stopped::Unwound));
        if let Ok(worker) = std::mem::replace(&mut self.worker, dropped) {
            // A panic of the source would have been reported by the next call: there is none any more.
            let _ = worker.end();
        }
    }
}
