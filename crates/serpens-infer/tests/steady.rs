//! What a step asks of the allocator, in a process of its own, whose allocator counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use serpens_core::{DType, Device};
use serpens_infer::{Batching, Decoder};
use serpens_nn::MambaLmConfig;

/// The system's allocator, which counts what is asked of it on any thread.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system's allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_after_the_first_asks_nothing_of_the_allocator_and_the_pool() {
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    threads.install(|| {
        // Wide enough for both threads.
        let model = MambaLmConfig::new(256, 2, 1000)
            .init(Device::cpu(), 1)
            .unwrap();
        let start = model.initial_state(1).unwrap().scatter().unwrap().remove(0);
        for states in [DType::F32, DType::BF16] {
            let batching = Batching {
                slots: 8,
                states,
                ..Batching::default()
            };
            let mut decoder = Decoder::batching(&model, batching).unwrap();
            for slots in [1, 3, 8] {
                while decoder.taken() < slots {
                    decoder.enter(&start).unwrap();
                }
                let tokens: Vec<u32> = (0..slots as u32).collect();
                // Either thread may meet a kernel later than the other.
                for _ in 0..50 {
                    decoder.step(&tokens).unwrap();
                }
                Device::Cpu.reset_high_water();
                let (asked, held) = (ASKED.load(Ordering::SeqCst), Device::Cpu.memory());
                for _ in 0..200 {
                    decoder.step(&tokens).unwrap();
                }
                assert_eq!(
                    ASKED.load(Ordering::SeqCst),
                    asked,
                    "{slots} slots in {states}"
                );
                assert_eq!(Device::Cpu.memory(), held, "{slots} slots in {states}");
            }
        }
    });
}
