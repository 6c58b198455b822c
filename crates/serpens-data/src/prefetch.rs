//! Preparing batches on another thread while the model computes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::error::{Error, Result, check_size, joined};
use crate::source::{Batch, Bounds, Numbers, Source};

/// What is kept ready lies in memory: more is a mistake.
const MOST_BATCHES: usize = 1 << 16;

/// A source read ahead on a thread of its own: once a batch is asked for, those after it are prepared. A reader that
/// asks for them in order has them at once; one that goes elsewhere starts anew there.
///
/// An error of the source arrives in its place, a panic as an error, and asking again tries again. Dropping it waits
/// for the thread to end.
pub struct Prefetch {
    source: Arc<dyn Source>,
    depth: usize,
    reader: Mutex<Option<Reader>>,
}

/// Where the batches from `next` on arrive. Once nobody listens there, the thread that prepares them ends.
struct Reader {
    next: u64,
    ready: Receiver<Result<Batch<Numbers>>>,
    _thread: Joined,
}

/// A thread that is waited for when it is given up.
struct Joined(Option<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        // It does not panic: what the source panics with is caught.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

/// Sends batches until one is an error or nobody listens any more.
fn read_ahead(source: &dyn Source, from: u64, sender: &SyncSender<Result<Batch<Numbers>>>) {
    for index in (from..=u64::MAX).chain(0..) {
        let panicked = |message| Err(Error::Panicked { index, message });
        let batch = caught(|| source.batch(index)).unwrap_or_else(panicked);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

/// What the work gives, or what it panicked with, on one line.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        joined(text.unwrap_or("without a message"))
    })
}

impl Prefetch {
    /// Reads `source`, keeping up to `depth` batches ready.
    ///
    /// # Errors
    /// [`Size`](Error::Size) for depth 0 or above 65,536.
    pub fn new(source: Arc<dyn Source>, depth: usize) -> Result<Self> {
        check_size("prefetch", "depth", depth, 1..=MOST_BATCHES)?;
        Ok(Prefetch {
            source,
            depth,
            reader: Mutex::default(),
        })
    }
}

impl Source for Prefetch {
    fn batch(&self, index: u64) -> Result<Batch<Numbers>> {
        let mut place = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = match place.take() {
            Some(reader) if reader.next == index => reader,
            elsewhere => {
                drop(elsewhere); // before another thread begins
                let (sender, ready) = sync_channel(self.depth);
                let (thread, source) =
                    (Builder::new().name("prefetch".into()), self.source.clone());
                let thread = thread.spawn(move || read_ahead(&*source, index, &sender));
                Reader {
                    next: index,
                    ready,
                    _thread: Joined(Some(thread.map_err(Error::NoThread)?)),
                }
            }
        };
        let batch = reader.ready.recv();
        let batch = batch.expect("the thread ends after an error, which gives this reader up")?;
        reader.next = index.wrapping_add(1);
        *place = Some(reader);
        Ok(batch)
    }

    fn bounds(&self) -> Bounds {
        self.source.bounds()
    }

    fn description(&self) -> String {
        self.source.description()
    }
}
