//! Tensors on a GPU. On a machine without one each test says that it was skipped.

use std::io::Write;
use std::sync::Arc;

use serpens_core::cuda::{Event, Gemm, Graph, Operand, Staging, Stream, gemm};
use serpens_core::{DType, Device, Error, Gradients, Tape, Tensor, Var, bf16};

/// Says on the standard error stream, past the capture of tests, what was not run.
fn tell(text: &str) {
    // Nobody hears it where the stream is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The GPU, or `None` after saying why there is none.
fn gpu(test: &str) -> Option<Device> {
    Device::cuda(0)
        .inspect_err(|reason| tell(&format!("{test} was skipped: {reason}")))
        .ok()
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32 - 3.5).collect()
}

#[test]
fn values_survive_the_way_to_the_gpu_and_back() {
    let Some(device) = gpu("values_survive_the_way_to_the_gpu_and_back") else {
        return;
    };
    let values = ramp(1000);
    let tensor = Tensor::from_slice([10, 100], &values, Device::Cpu).unwrap();
    let there = tensor.to(device).unwrap();
    assert_eq!(there.device(), device);
    assert_eq!(there.to_vec::<f32>().unwrap(), values);
    assert!(matches!(there.as_slice::<f32>(), Err(Error::Device { .. })));
    let zeros = Tensor::zeros([3, 5], DType::BF16, device).unwrap();
    assert_eq!(zeros.to_vec::<bf16>().unwrap(), vec![bf16::ZERO; 15]);
    let full = Tensor::full([7], bf16::from_f32(1.5), device).unwrap();
    assert_eq!(full.to_vec::<bf16>().unwrap(), vec![bf16::from_f32(1.5); 7]);
    let full = Tensor::full([7], 0x01020304_u32, device).unwrap();
    assert_eq!(full.to_vec::<u32>().unwrap(), vec![0x01020304; 7]);
}

#[test]
fn writing_to_a_clone_on_the_gpu_leaves_the_original_alone() {
    let Some(device) = gpu("writing_to_a_clone_on_the_gpu_leaves_the_original_alone") else {
        return;
    };
    let original = Tensor::from_slice([4], &[1_u32, 2, 3, 4], device).unwrap();
    let mut copy = original.clone();
    let mut staging = Staging::new(device, 16).unwrap();
    staging.upload(&mut copy, &[9_u32, 8, 7, 6]).unwrap();
    assert_eq!(original.to_vec::<u32>().unwrap(), [1, 2, 3, 4]);
    assert_eq!(copy.to_vec::<u32>().unwrap(), [9, 8, 7, 6]);
    assert!(staging.upload(&mut copy, &[1_u32]).is_err());
}

#[test]
fn what_is_downloaded_is_as_it_was_when_that_was_queued() {
    let Some(device) = gpu("what_is_downloaded_is_as_it_was_when_that_was_queued") else {
        return;
    };
    let mut x = Tensor::from_slice([4], &[1_u32, 2, 3, 4], device).unwrap();
    let [mut up, mut first, mut second] = [16; 3].map(|n| Staging::new(device, n).unwrap());
    first.download(&x).unwrap();
    up.upload(&mut x, &[9_u32, 8, 7, 6]).unwrap();
    second.download(&x).unwrap();
    assert_eq!(second.values::<u32>(4).unwrap(), [9, 8, 7, 6]);
    assert_eq!(first.values::<u32>(3).unwrap(), [1, 2, 3]);
    assert!(first.values::<u32>(5).is_err());
    let large = Tensor::full([5], 1_u32, device).unwrap();
    assert!(first.download(&large).is_err());
}

#[test]
fn running_out_of_memory_is_an_error_and_the_program_goes_on() {
    let Some(device) = gpu("running_out_of_memory_is_an_error_and_the_program_goes_on") else {
        return;
    };
    let error = Tensor::empty([1 << 40], DType::F32, device).unwrap_err();
    let Error::OutOfMemory { requested, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(requested, 4 << 40);
    assert!(
        error.to_string().contains("lower the batch size"),
        "{error}"
    );
    let after = Tensor::full([10], 2.0_f32, device).unwrap();
    assert_eq!(after.to_vec::<f32>().unwrap(), [2.0; 10]);
}

/// C += A A of square matrices.
fn square(a: &Tensor, c: &mut Tensor, size: usize) {
    product(a, c, size, false);
}

/// C += A Aᵀ, or C += A A of square matrices, where A has `size` rows.
fn product(a: &Tensor, c: &mut Tensor, size: usize, transposed: bool) {
    let operand = |ptr, stride, transposed| Operand {
        ptr,
        stride,
        dtype: DType::F32,
        transposed,
    };
    let depth = a.len() / size;
    let from = |transposed| operand(a.view().ptr(), depth, transposed);
    let to = operand(c.view_mut().unwrap().ptr(), size, false);
    let problem = Gemm {
        m: size,
        n: size,
        k: depth,
        a: from(false),
        b: from(transposed),
        c: to,
        accumulate: true,
        tf32: false,
    };
    // SAFETY: C holds size² values, A as many rows of `depth`.
    unsafe { gemm(a.device(), &problem) }.unwrap();
}

#[test]
fn a_recorded_graph_runs_as_often_as_it_is_replayed() {
    let Some(device) = gpu("a_recorded_graph_runs_as_often_as_it_is_replayed") else {
        return;
    };
    let a = Tensor::from_slice([2, 2], &[1.0_f32, 2.0, 3.0, 4.0], device).unwrap();
    let mut c = Tensor::zeros([2, 2], DType::F32, device).unwrap();
    square(&a, &mut c, 2); // the first product makes its plan, which cannot be recorded
    let graph = Graph::capture(device, || {
        square(&a, &mut c, 2);
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(c.to_vec::<f32>().unwrap(), [7.0, 10.0, 15.0, 22.0]);
    for _ in 0..3 {
        graph.replay().unwrap();
    }
    assert_eq!(c.to_vec::<f32>().unwrap(), [28.0, 40.0, 60.0, 88.0]);
}

#[test]
fn events_measure_time_on_the_device() {
    let Some(device) = gpu("events_measure_time_on_the_device") else {
        return;
    };
    let (start, end) = (Event::new(device).unwrap(), Event::new(device).unwrap());
    start.record().unwrap();
    let zeros = Tensor::zeros([1 << 28], DType::F32, device).unwrap();
    end.record().unwrap();
    let seconds = end.seconds_since(&start).unwrap();
    assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
    drop(zeros);
}

#[test]
fn gradients_of_columns_meet_on_the_gpu_as_on_the_processor() {
    use serpens_core::tape::{Backward, BackwardContext, record};
    struct Pass;
    impl Backward for Pass {
        fn backward(
            self: Box<Self>,
            context: &mut BackwardContext<'_, '_>,
        ) -> serpens_core::Result<()> {
            let dy = context.take_output(0).unwrap();
            context.add(0, dy)
        }
    }
    let devices = Device::available();
    let mut found = Vec::new();
    for device in devices {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::from_slice([2, 6], &ramp(12), device).unwrap());
        let mut seeds = Vec::new();
        for (from, to) in [(0, 3), (2, 5), (0, 3)] {
            let part = x.columns(from..to).unwrap();
            let value = Tensor::zeros([2, to - from], DType::F32, device).unwrap();
            let [y] = record("pass", &[Some(&part)], [value], Some(Box::new(Pass))).unwrap();
            seeds.push((
                y,
                Tensor::from_slice([2, to - from], &ramp(6), device).unwrap(),
            ));
        }
        let seeds: Vec<(&Var, Tensor)> = seeds.iter().map(|(y, seed)| (y, seed.clone())).collect();
        tape.backward_from(seeds, &mut Gradients::new()).unwrap();
        found.push(tape.gradient(&x).unwrap().unwrap().to_vec::<f32>().unwrap());
    }
    let expected = [
        -7.0, -5.0, -6.5, -2.5, -1.5, 0.0, -1.0, 1.0, 2.5, 0.5, 1.5, 0.0,
    ];
    for gradient in found {
        assert_eq!(gradient, expected);
    }
}

#[test]
fn what_other_threads_queue_stays_out_of_a_graph_in_the_making() {
    let Some(device) = gpu("what_other_threads_queue_stays_out_of_a_graph_in_the_making") else {
        return;
    };
    let a = Tensor::from_slice([2, 2], &[1.0_f32, 2.0, 3.0, 4.0], device).unwrap();
    let mut c = Tensor::zeros([2, 2], DType::F32, device).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let ones = Tensor::full([1000], 1.0_f32, device).unwrap();
                assert_eq!(ones.to_vec::<f32>().unwrap(), [1.0; 1000]);
            }
        });
        for _ in 0..20 {
            let graph = Graph::capture(device, || {
                for _ in 0..50 {
                    square(&a, &mut c, 2);
                }
                Ok::<_, Error>(())
            });
            graph.unwrap().replay().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let expected = [7.0, 10.0, 15.0, 22.0].map(|value| 1000.0 * value);
    assert_eq!(c.to_vec::<f32>().unwrap(), expected);
}

/// Long sums are split and added by a second kernel, from a workspace.
#[test]
fn a_graph_replayed_by_one_thread_leaves_the_products_of_another_alone() {
    const SIZE: usize = 64;
    const DEPTH: usize = 1 << 16;
    let Some(device) = gpu("a_graph_replayed_by_one_thread_leaves_the_products_of_another_alone")
    else {
        return;
    };
    let matrix = |scale: f32| {
        let value = |i: usize| scale * ((i * 7919 % 1000) as f32 / 1000.0 - 0.5);
        let values: Vec<f32> = (0..SIZE * DEPTH).map(value).collect();
        Tensor::from_slice([SIZE, DEPTH], &values, device).unwrap()
    };
    let zeros = || Tensor::zeros([SIZE, SIZE], DType::F32, device).unwrap();
    let (small, large, mut of_graph) = (matrix(1.0), matrix(100.0), zeros());
    let of_small = || {
        let mut c = zeros();
        product(&small, &mut c, SIZE, true);
        c.to_vec::<f32>().unwrap()
    };
    let expected = of_small();
    product(&large, &mut of_graph, SIZE, true); // makes its plan, which cannot be recorded
    let graph = Graph::capture(device, || {
        product(&large, &mut of_graph, SIZE, true);
        Ok::<_, Error>(())
    });
    let graph = graph.unwrap();
    std::thread::scope(|scope| {
        let replaying = scope.spawn(move || {
            for _ in 0..1000 {
                graph.replay().unwrap();
                device.synchronize().unwrap();
            }
        });
        while !replaying.is_finished() {
            assert_eq!(of_small(), expected);
        }
    });
}

#[test]
fn streams_run_their_own_work_and_wait_for_each_others_events() {
    let Some(device) = gpu("streams_run_their_own_work_and_wait_for_each_others_events") else {
        return;
    };
    const COUNT: usize = 1 << 26;
    let (first, second) = (Stream::new(device).unwrap(), Stream::new(device).unwrap());
    let (written, copied) = (Event::new(device).unwrap(), Event::new(device).unwrap());
    for round in 0..5 {
        let value = round as f32;
        let full = first.scope(|| {
            let full = Tensor::full([COUNT], value, device).unwrap();
            written.record().unwrap();
            full
        });
        second.wait(&written).unwrap();
        let values = second.scope(|| {
            let mut copy = full.clone();
            // Unshares it, which copies on this stream.
            copy.view_mut().unwrap();
            copied.record().unwrap();
            copy.to_vec::<f32>().unwrap()
        });
        assert!(values.iter().all(|&other| other == value));
        first.wait(&copied).unwrap();
    }
}

#[test]
fn a_graph_is_recorded_on_a_stream_of_the_callers_and_replayed_on_any() {
    let Some(device) = gpu("a_graph_is_recorded_on_a_stream_of_the_callers_and_replayed_on_any")
    else {
        return;
    };
    let callers = Stream::new(device).unwrap();
    // SAFETY: the caller's stream outlives this one.
    let stream = unsafe { Stream::borrowed(device, callers.handle()) }.unwrap();
    let (ready, done) = (Event::new(device).unwrap(), Event::new(device).unwrap());
    let (mut c, graph) = stream.scope(|| {
        let a = Tensor::from_slice([2, 2], &[1.0_f32, 2.0, 3.0, 4.0], device).unwrap();
        let mut c = Tensor::zeros([2, 2], DType::F32, device).unwrap();
        square(&a, &mut c, 2); // the first product makes its plan, which cannot be recorded
        let graph = Graph::capture(device, || {
            square(&a, &mut c, 2);
            Ok::<_, Error>(())
        });
        let graph = graph.unwrap();
        graph.replay().unwrap();
        ready.record().unwrap();
        (c, (graph, a))
    });
    let other = Stream::new(device).unwrap();
    other.wait(&ready).unwrap();
    other.scope(|| {
        graph.0.replay().unwrap();
        done.record().unwrap();
    });
    callers.wait(&done).unwrap();
    stream.scope(|| {
        square(&graph.1, &mut c, 2);
        let values = c.to_vec::<f32>().unwrap();
        assert_eq!(values, [28.0, 40.0, 60.0, 88.0]);
    });
}

#[test]
fn borrowed_memory_of_the_gpu_is_read_and_written_without_a_copy() {
    let Some(device) = gpu("borrowed_memory_of_the_gpu_is_read_and_written_without_a_copy") else {
        return;
    };
    let lender = Arc::new(Tensor::from_slice([4], &[1_u32, 2, 3, 4], device).unwrap());
    let address = lender.view().ptr();
    // SAFETY: the lender holds four values, and keeps them.
    let x = unsafe { Tensor::borrowed(address, [2, 2], DType::U32, device, lender.clone()) };
    let mut x = x.unwrap();
    assert_eq!(x.to_vec::<u32>().unwrap(), [1, 2, 3, 4]);
    let mut staging = Staging::new(device, 16).unwrap();
    staging.upload(&mut x, &[9_u32, 8, 7, 6]).unwrap();
    assert_eq!(lender.to_vec::<u32>().unwrap(), [9, 8, 7, 6]);
    let shared = x.clone();
    staging.upload(&mut x, &[5_u32; 4]).unwrap();
    assert_eq!(shared.to_vec::<u32>().unwrap(), [9, 8, 7, 6]);
    assert_eq!(x.to_vec::<u32>().unwrap(), [5; 4]);
    drop((x, shared));
    assert_eq!(Arc::strong_count(&lender), 1);
}
