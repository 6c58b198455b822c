//! One scan computed in different ways.

use super::*;

const SHAPES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

/// The positions `from..to` of a tensor of (batch, length, wide).
pub(super) fn positions<T: Copy>(x: &[T], dims: &Dims, from: usize, to: usize) -> Vec<T> {
    let wide = x.len() / (dims.batch * dims.length);
    x.chunks(dims.length * wide)
        .flat_map(|x| x[from * wide..to * wide].to_vec())
        .collect()
}

impl Case {
    /// The positions `from..to` as a scan of their own, from a given initial state.
    pub(super) fn cut(&self, from: usize, to: usize, initial_state: Option<Vec<f64>>) -> Self {
        let dims = &self.scan.dims;
        let mut cut = self.clone();
        cut.scan.operands = cut.scan.operands.map(|role, x| match role.layout {
            Layout::Rows => positions(&x, dims, from, to),
            Layout::Dense => x,
        });
        cut.scan.operands.initial_state = initial_state;
        cut.dout = positions(&self.dout, dims, from, to);
        let starts = self.scan.starts.as_ref();
        cut.scan.starts = starts.map(|starts| positions(starts, dims, from, to));
        cut.scan.dims.length = to - from;
        cut
    }
}

pub(super) fn wide(x: &[f32]) -> Vec<f64> {
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
                let mut early = case.cut(0, cut, case.scan.operands.initial_state.clone());
                early.dlast = None;
                let state = early.kernels(isa).last;
                let late = case.cut(cut, 90, Some(wide(&state))).kernels(isa);
                let carried = late.grads.initial_state.as_ref().unwrap();
                early.dlast = Some(wide(carried));
                let early = early.kernels(isa);
                for (x, from, to, got) in [
                    (&whole.out, 0, cut, &early.out),
                    (&whole.out, cut, 90, &late.out),
                    (&whole.grads.u, 0, cut, &early.grads.u),
                    (&whole.grads.delta, cut, 90, &late.grads.delta),
                    (&whole.grads.b, 0, cut, &early.grads.b),
                ] {
                    assert_close(got, &positions(x, &case.scan.dims, from, to), 1e-6);
                }
                assert_close(&late.last, &whole.last, 1e-6);
                let [early, whole] = [&early, &whole].map(|case| case.grads.initial_state.as_ref());
                assert_close(early.unwrap(), whole.unwrap(), 1e-6);
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
            let mut state = case.scan.operands.initial_state.clone();
            for t in 0..12 {
                let step = case.cut(t, t + 1, state).kernels(isa);
                let expected = positions(&whole.out, &case.scan.dims, t, t + 1);
                assert_close(&step.out, &expected, 2e-6);
                state = Some(wide(&step.last));
            }
            assert_close(&narrow::<f32>(&state.unwrap()), &whole.last, 2e-6);
        }
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
        // In reverse time enters a sequence at its last position.
        case.starts_at(&match reverse {
            false => [0, 1, 33, 64],
            true => [0, 32, 63, 76],
        });
        for isa in Isa::available() {
            let packed = case.kernels(isa);
            for bounds in bounds.windows(2) {
                let mut alone = case.cut(bounds[0], bounds[1], None);
                alone.scan.starts = None;
                let alone = alone.kernels(isa);
                let steps = |x: &[f32]| positions(x, &case.scan.dims, bounds[0], bounds[1]);
                assert_close(&alone.out, &steps(&packed.out), 1e-6);
                for ((role, alone), (_, packed)) in alone.grads.iter().zip(packed.grads.iter()) {
                    if role.layout == Layout::Rows {
                        assert_close(alone, &steps(packed), 1e-6);
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
    flipped.scan.reverse = false;
    flipped.scan.operands = flipped.scan.operands.map(|role, x| match role.layout {
        Layout::Rows => flip(&x),
        Layout::Dense => x,
    });
    flipped.dout = flip(&case.dout);
    for isa in Isa::available() {
        let (reverse, forward) = (case.kernels(isa), flipped.kernels(isa));
        assert_eq!(wide(&reverse.out), flip(&wide(&forward.out)));
        assert_eq!(wide(&reverse.grads.u), flip(&wide(&forward.grads.u)));
        assert_eq!(wide(&reverse.grads.b), flip(&wide(&forward.grads.b)));
        assert_eq!(reverse.grads.a, forward.grads.a);
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
