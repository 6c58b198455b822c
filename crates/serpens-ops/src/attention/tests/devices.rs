//! Attention with grouped heads, packed sequences, windows and keys from before the queries.

use serpens_core::{DType, Device, Tape, Tensor, Var, bf16};

use super::reference;
use crate::Starts;
use crate::attention::{AttentionDims, AttentionOptions, attention};
use crate::shared::tests::real::Real;
use crate::shared::tests::{assert_near, cases, read, tensor, values};

/// One problem; q, k and v lie behind each other in rows that are `margin` wider on both sides.
#[derive(Clone, Copy, Debug)]
struct Case {
    dims: AttentionDims,
    margin: usize,
    window: Option<usize>,
    packed: bool,
}

const PLAIN: Case = Case {
    dims: AttentionDims {
        batch: 2,
        length: 150,
        past: 0,
        heads: 2,
        kv_heads: 1,
        head: 64,
    },
    margin: 8,
    window: None,
    packed: false,
};

impl Case {
    fn of(self, batch: usize, length: usize, head: usize) -> Self {
        let dims = AttentionDims {
            batch,
            length,
            head,
            ..self.dims
        };
        Self { dims, ..self }
    }

    fn packed(self) -> Self {
        Self {
            packed: true,
            ..self
        }
    }

    fn window(self, window: usize) -> Self {
        let window = Some(window);
        Self { window, ..self }
    }

    fn past(self, past: usize) -> Self {
        let dims = AttentionDims { past, ..self.dims };
        Self { dims, ..self }
    }
}

/// Lengths around those of tiles, sequences that end anywhere, heads and rows that fill no access.
fn problems() -> Vec<Case> {
    let mut all = vec![];
    for head in [64, 128] {
        let own = PLAIN.of(2, 150, head);
        all.extend([
            own,
            own.of(1, 257, head),
            own.packed(),
            own.packed().window(20),
        ]);
        all.extend([
            own.window(70),
            own.past(77),
            own.of(3, 5, head),
            own.of(2, 3, head).past(200),
        ]);
    }
    all.extend([
        PLAIN.of(1, 70, 40),
        PLAIN.of(2, 65, 24).packed(),
        PLAIN.of(1, 80, 200),
    ]);
    // More tiles than multiprocessors, more heads than are worked on together, several heads of k; half strips.
    let many = AttentionDims {
        batch: 20,
        length: 70,
        heads: 8,
        kv_heads: 4,
        ..PLAIN.dims
    };
    all.extend([
        Case {
            dims: many,
            ..PLAIN
        },
        PLAIN.of(1, 200, 96),
    ]);
    let unaligned = Case {
        margin: 3,
        ..PLAIN.of(1, 130, 20)
    };
    all.extend([unaligned, unaligned.packed()]);
    all
}

/// o and, where they are asked for, the gradients of q, k and v.
type Outcome<R> = Vec<Vec<R>>;

const NAMES: [&str; 4] = ["o", "dq", "dk", "dv"];

impl Case {
    fn starts(&self) -> Vec<bool> {
        let length = self.dims.length;
        (0..self.dims.queries())
            .map(|i| i % length == 0 || i * i % 23 == 3)
            .collect()
    }

    /// Rows and columns of q, and of k and v.
    fn sizes(&self) -> [[usize; 2]; 2] {
        let dims = &self.dims;
        let keys = dims.batch * (dims.past + dims.length);
        [
            [dims.queries(), dims.heads * dims.head],
            [keys, dims.kv_heads * dims.head],
        ]
    }

    /// q, k, v and dy.
    fn operands(&self, dtype: DType) -> [Vec<f64>; 4] {
        let [of_q, of_k] = self.sizes();
        [(1, of_q), (2, of_k), (3, of_k), (4, of_q)]
            .map(|(seed, size)| values(seed, size, 2.0, dtype))
    }

    fn run(&self, device: Device, dtype: DType) -> Outcome<f64> {
        let (dims, [[_, width], [_, kv_width]]) = (&self.dims, self.sizes());
        let [q, k, v, dy] = self.operands(dtype);
        let ids: Vec<u32> = self
            .starts()
            .iter()
            .scan(0, |id, &starts| {
                *id += u32::from(starts);
                Some(*id)
            })
            .collect();
        let starts = self
            .packed
            .then(|| Starts::from_sequence_ids(&ids, dims.batch).unwrap());
        let options = AttentionOptions {
            head: dims.head,
            scale: Some(0.2),
            window: self.window,
            starts: starts.as_ref(),
        };
        let tape = Tape::new();
        let wide = |values: &[f64], columns: usize, length: usize| {
            let around = self.around(values, columns);
            let row = columns + 2 * self.margin;
            tensor([dims.batch, length, row], &around, dtype, device)
        };
        let (keys, recorded) = (dims.past + dims.length, dims.past == 0);
        let leaf = |tensor: Tensor| {
            if recorded {
                tape.leaf(tensor)
            } else {
                Var::from(tensor)
            }
        };
        let leaves = [
            wide(&q, width, dims.length),
            wide(&k, kv_width, keys),
            wide(&v, kv_width, keys),
        ]
        .map(leaf);
        let columns = [width, kv_width, kv_width];
        let inner = |i: usize| {
            leaves[i]
                .columns(self.margin..self.margin + columns[i])
                .unwrap()
        };
        let o = attention(&inner(0), &inner(1), &inner(2), &options).unwrap();
        let mut outcome = vec![read(o.tensor().unwrap())];
        if recorded {
            let dy = tensor(o.shape(), &dy, dtype, device);
            tape.backward_from(vec![(&o, dy)], &mut serpens_core::Gradients::new())
                .unwrap();
            for (leaf, columns) in leaves.iter().zip(columns) {
                let gradient = tape.gradient(leaf).unwrap().unwrap();
                assert_eq!(gradient.dtype(), dtype);
                outcome.push(self.inside(&read(&gradient), columns));
            }
        }
        outcome
    }

    /// Rows of so many columns inside wider ones.
    fn around(&self, values: &[f64], columns: usize) -> Vec<f64> {
        let margin = || vec![100.0; self.margin];
        let rows = values.chunks_exact(columns);
        rows.flat_map(|row| [margin(), row.to_vec(), margin()].concat())
            .collect()
    }

    /// Back from them; those beside must be zero.
    fn inside(&self, wide: &[f64], columns: usize) -> Vec<f64> {
        let rows = wide.chunks_exact(columns + 2 * self.margin);
        rows.flat_map(|row| {
            let (left, row) = row.split_at(self.margin);
            let (row, right) = row.split_at(columns);
            assert!(left.iter().chain(right).all(|&v| v == 0.0));
            row.to_vec()
        })
        .collect()
    }

    fn reference<R: Real>(&self, dtype: DType, round: fn(R) -> R) -> Outcome<R> {
        let operands = self.operands(dtype);
        let [q, k, v, dy] =
            operands.map(|all| all.iter().map(|&v| R::from(v as f32)).collect::<Vec<R>>());
        let starts = self.starts();
        let attention = reference::Attention {
            dims: self.dims,
            scale: R::from(0.2),
            window: self.window.unwrap_or(usize::MAX),
            starts: self.packed.then_some(&starts[..]),
            round,
            q: &q,
            k: &k,
            v: &v,
        };
        let mut outcome = vec![attention.forward()];
        if self.dims.past == 0 {
            outcome.extend(attention.backward(&dy));
        }
        outcome
    }
}

/// Every case, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    super::steps::run_all(device, dtype);
    for case in problems() {
        case.run(device, dtype);
    }
}

#[test]
fn values_and_gradients_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems() {
            let got = case.run(device, dtype);
            let truth = case.reference::<f64>(dtype, |x| x);
            let plain = case.reference::<f32>(
                dtype,
                match dtype {
                    DType::BF16 => |x| bf16::from_f32(x).to_f32(),
                    _ => |x| x,
                },
            );
            for (i, name) in NAMES.iter().enumerate().take(got.len()) {
                let what = format!("{name} of {case:?} on {device} in {dtype}");
                assert_near(&what, &got[i], &truth[i], &plain[i], dtype);
            }
        }
    }
}

#[test]
fn two_runs_give_the_same_bits_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems() {
            let (first, second) = (case.run(device, dtype), case.run(device, dtype));
            assert_eq!(first, second, "{case:?} on {device} in {dtype}");
        }
    }
}

#[test]
fn a_query_that_sees_one_key_finds_its_value_on_every_device() {
    for (device, dtype) in cases() {
        for case in [
            PLAIN.of(3, 1, 64),
            PLAIN.of(2, 90, 128).window(1),
            PLAIN.of(1, 7, 24).window(1),
        ] {
            let [_, _, v, _] = case.operands(dtype);
            let head = case.dims.head;
            let [o, dq, dk, _] = &case.run(device, dtype)[..] else {
                panic!("gradients")
            };
            // Both heads of q share one of v.
            let twice = v.chunks_exact(head).flat_map(|row| [row, row].concat());
            assert_eq!(
                *o,
                twice.collect::<Vec<f64>>(),
                "{case:?} on {device} in {dtype}"
            );
            // The weight is 1 whatever the key is.
            let slopes = dq.iter().chain(dk);
            let largest = slopes.fold(0.0_f64, |max, x| max.max(x.abs()));
            assert!(
                largest < 1e-3,
                "{largest} of {case:?} on {device} in {dtype}"
            );
        }
    }
}
