//! After its first steps a training loop takes no more memory from the system.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serpens_core::Device;
use serpens_data::{InductionHeads, InductionHeadsConfig};
use serpens_nn::MambaLmConfig;
use serpens_train::{Event, NextToken, Observer, Result, Run, TrainConfig, Trainer};

/// Allocations below this size are bookkeeping; tensors of this test are larger.
const LARGE: usize = 16 * 1024;

/// The system's allocator, counting large allocations.
struct Counting;

static LARGE_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    if bytes >= LARGE {
        LARGE_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(address, layout, size) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// After each step: the pool's allocations, and large ones anywhere.
struct Counts(Vec<(usize, usize)>);

impl Observer for Counts {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Stepped(_) = event {
            let pool = Device::cpu().memory().allocations;
            self.0
                .push((pool, LARGE_ALLOCATIONS.load(Ordering::Relaxed)));
        }
        Ok(())
    }
}

#[test]
fn steps_after_the_third_allocate_nothing_large() {
    // Kernels keep scratch for each thread, from the first work that it gets: of several, one may get its first work
    // late.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    pool.build_global().unwrap();
    let task = InductionHeads::new(InductionHeadsConfig {
        vocab: 16,
        batch: 16,
        lengths: vec![64],
        seed: 0,
    });
    let model = MambaLmConfig::new(16, 2, 16).init(Device::cpu(), 0);
    let config = TrainConfig {
        steps: 10,
        accumulation: 2,
        log_every: 1,
        ..TrainConfig::default()
    };
    let mut trainer =
        Trainer::new(NextToken, model.unwrap(), Box::new(task.unwrap()), config).unwrap();
    let mut counts = Counts(Vec::with_capacity(10));
    trainer
        .run(Run {
            dir: None,
            observer: &mut counts,
            stop: &AtomicBool::new(false),
            evaluate: None,
        })
        .unwrap();
    let (pool, large) = counts.0[2];
    assert!(
        large > 10,
        "the first steps take their memory: {:?}",
        counts.0
    );
    for after in &counts.0[3..] {
        assert_eq!(
            *after,
            (pool, large),
            "(pool, large) after each step: {:?}",
            counts.0
        );
    }
}
