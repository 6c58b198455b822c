//! Threads for work that comes in many short rounds: the steps of decoding, where waking threads anew for each of a
//! hundred small tasks would take longer than these.
//!
//! A round is a number of tasks. One word holds how many there are and how many were taken, a part of what is left at a
//! time, so that parts are few and the last ones small. Nobody is waited for but who took some: a thread that the
//! system has put aside between rounds holds nobody up.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::{hint, mem, ptr};

/// A thread takes what is left, divided by the threads and this.
const SHARE: usize = 2;
/// How often a thread looks for work before it offers its processor to others, and how often it does that before it
/// sleeps: a hundred microseconds or some. Who offers it on a busy machine has it back after milliseconds.
const SPINS: usize = 1 << 12;
const YIELDS: usize = 1 << 6;

thread_local! {
    /// The team that this thread has entered, while it is in no round.
    static ENTERED: Cell<*const Team> = const { Cell::new(ptr::null()) };
}

/// Threads that wait for each other's tasks without sleeping while there are rounds, and sleep soon after. What is done
/// on a team does not depend on the number of its threads.
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
}

/// On cache lines of their own, as other threads write each.
#[repr(align(128))]
struct Apart<T>(T);

struct Shared {
    /// Tasks of the round in the upper half, those that were taken in the lower one.
    tasks: Apart<AtomicU64>,
    /// Tasks that were done.
    done: Apart<AtomicUsize>,
    /// Of the round; borrowed for less long: until all tasks are done. Written by who entered while no task is left,
    /// read by who took one.
    task: UnsafeCell<&'static (dyn Fn(usize) + Sync)>,
    /// What is left is taken in so many parts.
    parts: usize,
    /// Members that sleep or are about to.
    asleep: AtomicUsize,
    ended: AtomicBool,
    /// What the first task that panicked did so with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `task` is written and read as its field says, and is what may be shared.
unsafe impl Sync for Shared {}

impl Team {
    /// This many threads with the one that enters. Fewer where the system gives no more.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            tasks: Apart(AtomicU64::new(0)),
            done: Apart(AtomicUsize::new(0)),
            task: UnsafeCell::new(&|_| ()),
            parts: SHARE * threads.max(1),
            asleep: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let member = |_| {
            let shared = shared.clone();
            let builder = thread::Builder::new().name("serpens-team".to_owned());
            builder.spawn(move || shared.serve()).ok()
        };
        let members = (1..threads).map_while(member).collect();
        Self { shared, members }
    }

    /// Does `work`, whose kernels run on this team.
    pub fn enter<R>(&mut self, work: impl FnOnce() -> R) -> R {
        struct Leave(*const Team);
        impl Drop for Leave {
            fn drop(&mut self) {
                ENTERED.set(self.0);
            }
        }
        self.wake();
        let _leave = Leave(ENTERED.replace(self));
        work()
    }

    fn wake(&self) {
        if self.shared.asleep.load(Ordering::SeqCst) > 0 {
            self.members
                .iter()
                .for_each(|member| member.thread().unpark());
        }
    }

    /// Runs `task(0..tasks)`, some on each thread.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let most = u32::MAX as usize;
        if tasks > most {
            self.run(most, task);
            return self.run(tasks - most, &|i| task(most + i));
        }
        let shared = &*self.shared;
        shared.done.0.store(0, Ordering::Relaxed);
        // SAFETY: this function does not return before all of this round's tasks are done.
        let task = unsafe {
            mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task)
        };
        // SAFETY: all tasks of the last round were done, and none can be taken: nobody reads it.
        unsafe { *shared.task.get() = task };
        shared.tasks.0.store((tasks as u64) << 32, Ordering::SeqCst);
        self.wake();
        while shared.take() {}
        let mut looks = 0;
        while shared.done.0.load(Ordering::Acquire) < tasks {
            wait(&mut looks);
        }
        let panic = || {
            shared
                .panic
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        };
        if let Some(panic) = panic() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for member in self.members.drain(..) {
            member.thread().unpark();
            // It catches what its tasks panic with.
            let _ = member.join();
        }
    }
}

/// Waits a moment, and says whether that has gone on for long.
fn wait(looks: &mut usize) -> bool {
    *looks += 1;
    match *looks < SPINS {
        true => hint::spin_loop(),
        false => thread::yield_now(),
    }
    *looks > SPINS + YIELDS
}

impl Shared {
    /// The word of the tasks, the first that is left, and how many are.
    fn left(&self) -> (u64, usize, usize) {
        let word = self.tasks.0.load(Ordering::SeqCst);
        let (taken, all) = (word as u32 as usize, (word >> 32) as usize);
        (word, taken, all - taken)
    }

    /// Takes some tasks and does them; false where none is left.
    fn take(&self) -> bool {
        let (first, count) = loop {
            let (word, first, left) = self.left();
            if left == 0 {
                return false;
            }
            let count = left.div_ceil(self.parts);
            let (taken, order) = (word + count as u64, Ordering::AcqRel);
            let tasks = &self.tasks.0;
            if (tasks.compare_exchange_weak(word, taken, order, Ordering::Relaxed)).is_ok() {
                break (first, count);
            }
        };
        // SAFETY: it was written before these tasks could be taken, and stays until they are done.
        let task = unsafe { *self.task.get() };
        let run = || (first..first + count).for_each(task);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(panic);
        }
        self.done.0.fetch_add(count, Ordering::Release);
        true
    }

    /// What a member does all its life.
    fn serve(&self) {
        let mut looks = 0;
        while !self.ended.load(Ordering::SeqCst) {
            if self.take() {
                looks = 0;
            } else if wait(&mut looks) {
                self.asleep.fetch_add(1, Ordering::SeqCst);
                // Who makes a round after this sees that somebody sleeps.
                if self.left().2 == 0 && !self.ended.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.asleep.fetch_sub(1, Ordering::SeqCst);
                looks = 0;
            }
        }
    }
}

/// Whether this thread has entered a team and is in no round of it.
pub(super) fn is_entered() -> bool {
    !ENTERED.get().is_null()
}

/// Runs `task(0..tasks)` on the team that this thread has entered.
pub(super) fn run(tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    struct Back(*const Team);
    impl Drop for Back {
        fn drop(&mut self) {
            ENTERED.set(self.0);
        }
    }
    // What a task does inside is not for the team, which is busy.
    let back = Back(ENTERED.replace(ptr::null()));
    // SAFETY: `Team::enter` borrows the team for as long as it is entered, on this thread.
    unsafe { &*back.0 }.run(tasks, task);
}
