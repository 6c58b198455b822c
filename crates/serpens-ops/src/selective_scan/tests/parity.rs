//! One scan computed in different ways.

use super::*;

const SHAPES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

/// The positions `from..to` of a tensor of (batch, length, wide).
fn positions<T: Copy>(x: &[T], dims: &Dims, from: usize, to: usize) -> Vec<T> {
    if x.is_empty() {
        return Vec::new();
    }
    let wide = x.len() / (dims.batch * dims.length);
    x.chunks(dims.length * wide)
        .flat_map(|x| x[from * wide..to * wide].to_vec())
        .collect()
}

impl Case {
    /// The positions `from..to` as a scan of their own, from a given initial state.
    fn cut(&self, from: usize, to: usize, initial_state: Vec<f64>) -> Self {
        let part = |x: &[f64]| positions(x, &self.dims, from, to);
        let mut cut = self.clone();
        for (name, tensor) in self.x.named() {
            if matches!(name, "u" | "delta" | "b" | "c" | "z") {
                *cut.x.get_mut(name).unwrap() = part(tensor);
            }
        }
        cut.x.initial_state = initial_state;
        cut.dout = part(&self.dout);
        cut.options.starts = positions(&self.options.starts, &self.dims, from, to);
        cut.dims.length = to - from;
        cut
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

#[test]
fn chunks_with_carried_state_equal_the_whole() {
    for (complex, _) in SHAPES {
        let case = Case::random(
            dims(2, 90, 19, 5, 1),
            Parts {
                complex,
                ..Parts::ALL
            },
            11,
        );
        for isa in Isa::available() {
            let whole = case.kernels(isa);
            for cut in [1, 31, 32, 50, 89] {
                let mut early = case.cut(0, cut, case.x.initial_state.clone());
                early.dlast = Vec::new();
                let state = early.kernels(isa).last;
                let late = case.cut(cut, 90, wide(&state)).kernels(isa);
                early.dlast = wide(&late.grads.initial_state);
                let early = early.kernels(isa);
                for (x, from, to, part) in [
                    (&whole.out, 0, cut, &early.out),
                    (&whole.out, cut, 90, &late.out),
                    (&whole.grads.u, 0, cut, &early.grads.u),
                    (&whole.grads.delta, cut, 90, &late.grads.delta),
                    (&whole.grads.b, 0, cut, &early.grads.b),
                ] {
                    assert_close(part, &positions(x, &case.dims, from, to), 1e-6);
                }
                assert_close(&late.last, &whole.last, 1e-6);
                assert_close(&early.grads.initial_state, &whole.grads.initial_state, 1e-6);
            }
        }
    }
}

#[test]
fn steps_equal_the_whole() {
    for (complex, grouped) in SHAPES {
        let groups = if grouped { 3 } else { 1 };
        let case = Case::random(
            dims(2, 12, 21, 17, groups),
            Parts {
                complex,
                ..Parts::ALL
            },
            12,
        );
        for isa in Isa::available() {
            let whole = case.kernels(isa);
            let mut state = narrow::<f32>(&case.x.initial_state);
            for t in 0..12 {
                let cut = case.cut(t, t + 1, Vec::new());
                let x = cut.x.cast::<f32>();
                let mut out = vec![f32::NAN; 2 * 21];
                cpu::step_on(
                    isa,
                    &cut.dims,
                    &cut.inputs(&x, None),
                    &mut state,
                    MatMut::dense(&mut out, 21),
                );
                assert_close(&out, &positions(&whole.out, &case.dims, t, t + 1), 2e-6);
            }
            assert_close(&state, &whole.last, 2e-6);
        }
    }
}

#[test]
fn many_states_step_on_several_threads() {
    let case = Case::random(dims(3, 1, 600, 64, 1), Parts::ALL, 13);
    let x = case.x.cast::<f32>();
    for isa in Isa::available() {
        let whole = case.kernels(isa);
        let (mut state, mut out) = (x.initial_state.clone(), vec![f32::NAN; 3 * 600]);
        cpu::step_on(
            isa,
            &case.dims,
            &case.inputs(&x, None),
            &mut state,
            MatMut::dense(&mut out, 600),
        );
        assert_close(&out, &whole.out, 2e-6);
        assert_close(&state, &whole.last, 2e-6);
    }
}

#[test]
fn packed_sequences_equal_separate_ones() {
    for (complex, reverse) in SHAPES {
        let with = Parts {
            complex,
            reverse,
            packed: true,
            initial: false,
            dlast: false,
            ..Parts::ALL
        };
        let mut case = Case::random(dims(1, 77, 18, 5, 1), with, 14);
        let bounds = [0, 1, 33, 64, 77];
        case.options.starts.fill(false);
        bounds[..4]
            .iter()
            .for_each(|&start| case.options.starts[start] = true);
        for isa in Isa::available() {
            let packed = case.kernels(isa);
            for bounds in bounds.windows(2) {
                let mut alone = case.cut(bounds[0], bounds[1], Vec::new());
                alone.options.starts = Vec::new();
                let alone = alone.kernels(isa);
                let part = |x: &[f32]| positions(x, &case.dims, bounds[0], bounds[1]);
                assert_close(&alone.out, &part(&packed.out), 1e-6);
                for ((name, alone), (_, packed)) in
                    alone.grads.named().into_iter().zip(packed.grads.named())
                {
                    if matches!(name, "u" | "delta" | "b" | "c" | "z") {
                        assert_close(alone, &part(packed), 1e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn reverse_equals_forward_over_reversed_positions() {
    let case = Case::random(
        dims(2, 70, 9, 4, 1),
        Parts {
            reverse: true,
            ..Parts::ALL
        },
        15,
    );
    let flip = |x: &[f64]| -> Vec<f64> {
        let wide = x.len() / (2 * 70);
        x.chunks(70 * wide)
            .flat_map(|x| x.chunks(wide).rev().flatten().copied().collect::<Vec<_>>())
            .collect()
    };
    let mut flipped = case.clone();
    flipped.options.reverse = false;
    for (name, tensor) in case.x.named() {
        if matches!(name, "u" | "delta" | "b" | "c" | "z") {
            *flipped.x.get_mut(name).unwrap() = flip(tensor);
        }
    }
    flipped.dout = flip(&case.dout);
    for isa in Isa::available() {
        let (reverse, forward) = (case.kernels(isa), flipped.kernels(isa));
        assert_eq!(wide(&reverse.out), flip(&wide(&forward.out)));
        assert_eq!(wide(&reverse.grads.u), flip(&wide(&forward.grads.u)));
        assert_eq!(wide(&reverse.grads.b), flip(&wide(&forward.grads.b)));
        assert_eq!(reverse.grads.a_re, forward.grads.a_re);
        assert_eq!(reverse.last, forward.last);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let cases = [
        Case::random(dims(2, 600, 150, 4, 1), Parts::ALL, 16),
        Case::random(dims(1, 6200, 5, 3, 1), Parts::ALL, 17),
        Case::random(
            dims(1, 4200, 2, 2, 1),
            Parts {
                complex: true,
                ..Parts::ALL
            },
            18,
        ),
    ];
    for (case, isa) in cases
        .iter()
        .flat_map(|case| Isa::available().into_iter().map(move |isa| (case, isa)))
    {
        let runs = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| case.kernels(isa))
        });
        for run in &runs[1..] {
            for ((name, one), (_, many)) in runs[0].tensors().into_iter().zip(run.tensors()) {
                assert!(
                    one.iter()
                        .zip(many)
                        .all(|(x, y)| x.to_bits() == y.to_bits()),
                    "{name} on {}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn one_state_with_a_of_minus_one_is_a_gated_rnn() {
    let dims = dims(1, 60, 20, 1, 1);
    let with = Parts {
        d: false,
        z: false,
        initial: false,
        ..Parts::ALL
    };
    let mut case = Case::random(dims, with, 19);
    case.x.a_re.fill(-1.0);
    case.x.b.fill(1.0);
    case.x.c.fill(1.0);
    let gate: Vec<f64> = case
        .x
        .delta
        .iter()
        .enumerate()
        .map(|(i, delta)| 1.0 / (1.0 + (-delta - case.x.delta_bias[i % 20]).exp()))
        .collect();
    // With g = sigmoid(a) and δ = softplus(a), exp(-δ) = 1 - g; the scan weighs its input with δ, the gated RNN with g.
    let token = case.x.u.clone();
    for (u, g) in case.x.u.iter_mut().zip(&gate) {
        *u *= g / -(1.0 - g).ln();
    }
    let mut h = [0.0; 20];
    let mut expected = Vec::new();
    for (g, x) in gate.chunks(20).zip(token.chunks(20)) {
        for channel in 0..20 {
            h[channel] = (1.0 - g[channel]) * h[channel] + g[channel] * x[channel];
        }
        expected.extend(h);
    }
    for isa in Isa::available() {
        assert!(largest_error(&case.kernels(isa).out, &expected) < 1e-6);
    }
}
