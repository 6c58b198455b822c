//! The processor's kernels against the definition over shapes, and the definition against itself.

use proptest::prelude::*;
use serpens_core::{DType, Device, Error, Mat, MatMut, Shape, Tensor, Var};

use super::reference;
use crate::Starts;
use crate::attention::{
    Attention, AttentionDims, AttentionOperands, AttentionOptions, attention, cpu,
};
use crate::shared::tests::dense::{assert_near, distance, largest_of_neighbours};
use crate::shared::tests::real::Real;
use crate::shared::tests::{f32s, values};

/// Values of q, k, v and dy.
fn operands(dims: &AttentionDims) -> [Vec<f64>; 4] {
    let keys = dims.batch * (dims.past + dims.length);
    let of_q = [dims.queries(), dims.heads * dims.head];
    let of_k = [keys, dims.kv_heads * dims.head];
    [(1, of_q), (2, of_k), (3, of_k), (4, of_q)]
        .map(|(seed, size)| values(seed, size, 2.0, DType::F32))
}

/// o, dq, dk and dv of the processor's kernels; without gradients where there are keys from before the queries.
fn run(dims: AttentionDims, window: usize, documents: Option<&[[u32; 2]]>) -> [Vec<f32>; 4] {
    let [q, k, v, dy] = operands(&dims).map(|all| f32s(&all));
    let (width, kv_width) = (dims.heads * dims.head, dims.kv_heads * dims.head);
    let attention = Attention {
        dims,
        operands: AttentionOperands {
            q: Mat::dense(&q, width),
            k: Mat::dense(&k, kv_width),
            v: Mat::dense(&v, kv_width),
        },
        scale: 0.3,
        window,
        documents,
    };
    let [mut o, mut dq] = [(); 2].map(|()| vec![f32::NAN; q.len()]);
    let [mut dk, mut dv] = [(); 2].map(|()| vec![f32::NAN; k.len()]);
    let mut lse = vec![f32::NAN; dims.heads * dims.queries()];
    cpu::forward(&attention, MatMut::dense(&mut o, width), &mut lse);
    if dims.past == 0 {
        let grads = AttentionOperands {
            q: MatMut::dense(&mut dq, width),
            k: MatMut::dense(&mut dk, kv_width),
            v: MatMut::dense(&mut dv, kv_width),
        };
        cpu::backward(
            &attention,
            Mat::dense(&o, width),
            &lse,
            Mat::dense(&dy, width),
            grads,
        );
    }
    [o, dq, dk, dv]
}

fn dims() -> impl Strategy<Value = AttentionDims> {
    let lengths = prop_oneof![1_usize..9, 60_usize..70, 126_usize..132, 190_usize..200];
    let sizes = (1_usize..3, lengths, prop_oneof![Just(0), 1_usize..150]);
    (sizes, 1_usize..3, 1_usize..3, 1_usize..20).prop_map(
        |((batch, length, past), kv_heads, group, head)| AttentionDims {
            batch,
            length,
            past,
            heads: kv_heads * group,
            kv_heads,
            head,
        },
    )
}

fn assert_agrees(dims: AttentionDims, window: usize, starts: Option<&[bool]>) {
    let documents: Option<Vec<[u32; 2]>> = starts.map(|starts| {
        let begins = |t: usize| starts[t] || t.is_multiple_of(dims.length);
        let of = |t: usize| {
            let begin = (0..=t).rev().find(|&t| begins(t)).unwrap();
            let end = (t + 1..starts.len())
                .find(|&t| begins(t))
                .unwrap_or(starts.len());
            [begin as u32, end as u32]
        };
        (0..starts.len()).map(of).collect()
    });
    let got = run(dims, window, documents.as_deref());
    let gradients = has_slopes(&dims, window, starts);
    let truth = evaluate::<f64>(dims, window, starts, 1.0);
    let plain_errors: [f64; 4] = largest_of_neighbours(|factor| {
        let truth = evaluate::<f64>(dims, window, starts, factor);
        let plain = evaluate::<f32>(dims, window, starts, factor);
        std::array::from_fn(|i| distance(&plain[i], &truth[i]))
    });
    for i in 0..if gradients { 4 } else { 1 } {
        assert_near(&got[i], plain_errors[i], &truth[i]);
    }
}

/// Whether the gradients of q and k are more than rounding: a query that sees one key has none.
fn has_slopes(dims: &AttentionDims, window: usize, starts: Option<&[bool]>) -> bool {
    let fewest = if starts.is_some() { 40 } else { 1 };
    dims.past == 0 && window > 1 && dims.length > fewest
}

/// o, dq, dk and dv by the definition, of operands times a factor near one.
fn evaluate<R: Real>(
    dims: AttentionDims,
    window: usize,
    starts: Option<&[bool]>,
    factor: f64,
) -> [Vec<R>; 4] {
    let number = |&v: &f64| R::from((v * factor) as f32);
    let [q, k, v, dy] = operands(&dims).map(|all| all.iter().map(number).collect::<Vec<R>>());
    let attention = reference::Attention {
        dims,
        scale: R::from(0.3),
        window,
        starts,
        round: |x| x,
        q: &q,
        k: &k,
        v: &v,
    };
    let [dq, dk, dv] = match has_slopes(&dims, window, starts) {
        true => attention.backward(&dy),
        false => [(); 3].map(|()| vec![]),
    };
    [attention.forward(), dq, dk, dv]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn kernels_agree_with_the_definition(dims in dims(), window in prop_oneof![Just(usize::MAX / 2), 1_usize..150]) {
        assert_agrees(dims, window, None);
    }

    #[test]
    fn packed_sequences_see_themselves_alone(dims in dims(), seed in 0_usize..50) {
        let dims = AttentionDims { past: 0, ..dims };
        let starts: Vec<bool> = (0..dims.queries()).map(|t| (t + seed) * (t + seed) % 37 == 1).collect();
        assert_agrees(dims, usize::MAX / 2, Some(&starts));
    }
}

#[test]
fn one_thread_and_three_give_the_same_bits() {
    let dims = AttentionDims {
        batch: 2,
        length: 300,
        past: 0,
        heads: 4,
        kv_heads: 2,
        head: 24,
    };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| run(dims, 1000, None))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn chunks_with_the_keys_before_them_are_the_whole() {
    let whole = [1, 150, 48];
    let of = |seed, shape: [usize; 3]| {
        let values = f32s(&values(seed, shape, 1.0, DType::F32));
        Tensor::from_slice(shape, &values, Device::cpu()).unwrap()
    };
    let (q, k, v) = (of(1, whole), of(2, whole), of(3, whole));
    let options = AttentionOptions {
        head: 16,
        scale: None,
        window: Some(90),
        starts: None,
    };
    let run = |from: usize, to: usize| {
        let rows = |tensor: &Tensor, from: usize| {
            let values = tensor.as_slice::<f32>().unwrap();
            let shape = Shape::new(&[1, to - from, 48]);
            Var::from(
                Tensor::from_slice(shape, &values[from * 48..to * 48], Device::cpu()).unwrap(),
            )
        };
        let o = attention(&rows(&q, from), &rows(&k, 0), &rows(&v, 0), &options).unwrap();
        o.tensor().unwrap().to_vec::<f32>().unwrap()
    };
    let (all, chunks) = (run(0, 150), [run(0, 1), run(1, 70), run(70, 150)].concat());
    let largest = all
        .iter()
        .zip(&chunks)
        .fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    assert!(largest < 1e-6, "{largest}");
}

fn zeros(shape: [usize; 3]) -> Var {
    Tensor::zeros(shape, DType::F32, Device::cpu())
        .unwrap()
        .into()
}

const OPTIONS: AttentionOptions<'static> = AttentionOptions {
    head: 4,
    scale: None,
    window: None,
    starts: None,
};

#[test]
fn no_queries_find_nothing() {
    for (q, k) in [([2, 0, 12], [2, 5, 4]), ([0, 3, 8], [0, 3, 8])] {
        let (q, k) = (zeros(q), zeros(k));
        assert_eq!(attention(&q, &k, &k, &OPTIONS).unwrap().shape(), q.shape());
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let error = |q: [usize; 3], k: [usize; 3], options: &AttentionOptions<'_>| {
        let k = zeros(k);
        attention(&zeros(q), &k, &k, options).err().unwrap()
    };
    let (q, k) = ([2, 5, 12], [2, 5, 12]);
    assert!(matches!(
        error([2, 5, 10], k, &OPTIONS),
        Error::Multiple { .. }
    ));
    assert!(matches!(
        error(q, [2, 5, 8], &OPTIONS),
        Error::Multiple { .. }
    ));
    assert!(matches!(error([2, 5, 0], k, &OPTIONS), Error::Range { .. }));
    assert!(matches!(
        error(q, [2, 4, 12], &OPTIONS),
        Error::Range { .. }
    ));
    assert!(matches!(
        error(q, [1, 5, 12], &OPTIONS),
        Error::Shape { .. }
    ));
    let window = Some(0);
    assert!(matches!(
        error(q, k, &AttentionOptions { window, ..OPTIONS }),
        Error::Range { .. }
    ));
    let scale = Some(-1.0);
    assert!(matches!(
        error(q, k, &AttentionOptions { scale, ..OPTIONS }),
        Error::Value { .. }
    ));
    let starts = Starts::from_lengths(&[5]);
    let starts = Some(&starts);
    let packed = AttentionOptions { starts, ..OPTIONS };
    assert!(matches!(
        error([1, 5, 12], [1, 6, 12], &packed),
        Error::Surplus { .. }
    ));
}
