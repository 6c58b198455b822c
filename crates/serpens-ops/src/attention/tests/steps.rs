//! One token of many slots, on every device.

use serpens_core::{DType, Device, Error, Tensor, Var, bf16};

use super::reference;
use crate::attention::{
    AttentionDims, AttentionOptions, StepOperands, StepOptions, attention, step,
};
use crate::rope::{self, RopeOptions, rope};
use crate::shared::tests::real::Real;
use crate::shared::tests::{assert_near, cases, read, tensor, values};

/// Tokens that every slot reads.
const STEPS: usize = 3;

/// One problem; the rows of all operands are `margin` wider on both sides.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Tokens that each slot has read before.
    read: &'static [usize],
    heads: usize,
    kv_heads: usize,
    head: usize,
    capacity: usize,
    window: Option<usize>,
    rope: Option<f32>,
    margin: usize,
    /// Whether the caches are of the other type than q, k and v; on the processor both are f32.
    other_caches: bool,
}

const PLAIN: Case = Case {
    read: &[0, 7, 40],
    heads: 4,
    kv_heads: 2,
    head: 64,
    capacity: 50,
    window: None,
    rope: Some(10_000.0),
    margin: 8,
    other_caches: false,
};

/// Caches that are empty, full and gone round, many and few tokens, heads and rows that fill no access.
fn problems() -> Vec<Case> {
    let heads = |heads, kv_heads, head| Case {
        heads,
        kv_heads,
        head,
        ..PLAIN
    };
    let long = Case {
        read: &[2997, 5, 1100],
        capacity: 3000,
        ..PLAIN
    };
    let ring = Case {
        read: &[19, 20, 21, 1000],
        capacity: 20,
        ..PLAIN
    };
    vec![
        PLAIN,
        Case {
            rope: None,
            ..PLAIN
        },
        Case {
            window: Some(9),
            ..PLAIN
        },
        Case {
            window: Some(1),
            ..PLAIN
        },
        ring,
        Case {
            window: Some(20),
            ..ring
        },
        long,
        Case {
            window: Some(700),
            other_caches: true,
            ..long
        },
        Case {
            other_caches: true,
            ..heads(8, 1, 128)
        },
        Case {
            read: &[300],
            capacity: 700,
            ..heads(12, 1, 256)
        },
        Case {
            margin: 3,
            ..heads(11, 1, 20)
        },
        Case {
            rope: None,
            margin: 1,
            ..heads(3, 3, 7)
        },
        heads(6, 6, 2),
        heads(5, 5, 96),
    ]
}

impl Case {
    fn widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.head)
    }

    fn options(&self) -> StepOptions {
        StepOptions {
            head: self.head,
            kv_heads: self.kv_heads,
            scale: Some(0.2),
            window: self.window,
            rope: self.rope,
        }
    }

    fn cache_type(&self, device: Device, dtype: DType) -> DType {
        match (device, self.other_caches, dtype) {
            (Device::Cuda(_), true, DType::F32) => DType::BF16,
            (_, true, _) => DType::F32,
            _ => dtype,
        }
    }

    /// Of each slot q, k and v of every token, those read before first.
    fn tokens(&self, dtype: DType) -> Vec<Vec<f64>> {
        let width = self.widths().iter().sum();
        let of = |(slot, read)| values(slot, [read + STEPS, width], 2.0, dtype);
        (0..).zip(self.read.iter().copied()).map(of).collect()
    }

    /// q, k and v of a slot's tokens, turned.
    fn turned<R: Real>(&self, tokens: &[f64]) -> [Vec<R>; 3] {
        let widths = self.widths();
        let all: usize = widths.iter().sum();
        let mut from = 0;
        let mut of = [(); 3].map(|()| vec![]);
        for (i, width) in widths.into_iter().enumerate() {
            let rows = tokens
                .chunks_exact(all)
                .flat_map(|row| &row[from..from + width]);
            let rows: Vec<R> = rows.map(|&x| R::from_f64(x)).collect();
            from += width;
            of[i] = match self.rope {
                Some(base) if i < 2 => {
                    let (head, from) = (self.head, 0);
                    let options = RopeOptions { head, base, from };
                    let length = rows.len() / width;
                    rope::tests::reference::turn(&rows, width, length, &options, false)
                }
                _ => rows,
            };
        }
        of
    }

    /// o of every slot and token that it reads, (slots, STEPS, heads · head); and what is told of the tokens read.
    fn run(&self, tokens: &[Vec<f64>], device: Device, dtype: DType) -> (Vec<f64>, Vec<u32>) {
        let (slots, margin) = (self.read.len(), self.margin);
        let [width, kv_width, _] = self.widths();
        let cached = self.capacity * kv_width;
        let stored = self.cache_type(device, dtype);
        let wide = |rows: &[f64], columns: usize, dtype, beside: f64| {
            let beside = || vec![beside; margin];
            let rows = rows.chunks_exact(columns);
            let wide: Vec<f64> = rows
                .flat_map(|row| [beside(), row.to_vec(), beside()].concat())
                .collect();
            tensor([slots, columns + 2 * margin], &wide, dtype, device)
        };
        let mut caches = [1, 2].map(|i| {
            let mut rows = vec![50.0; slots * cached];
            for (slot, (tokens, &read)) in tokens.iter().zip(self.read).enumerate() {
                let known = &self.turned::<f64>(tokens)[i];
                for t in 0..read {
                    let to = slot * cached + t % self.capacity * kv_width;
                    rows[to..to + kv_width].copy_from_slice(&known[t * kv_width..][..kv_width]);
                }
            }
            wide(&rows, cached, stored, 0.0)
        });
        let before: Vec<u32> = self
            .read
            .iter()
            .flat_map(|&read| [read as u32, 0])
            .collect();
        let mut before = Tensor::from_slice([slots, 2], &before, device).unwrap();
        let mut found = vec![vec![]; slots];
        for t in 0..STEPS {
            let all = width + 2 * kv_width;
            let row = |(tokens, &read): (&Vec<f64>, &usize)| {
                let from = (read + t) * all;
                tokens[from..from + all].to_vec()
            };
            let rows: Vec<f64> = tokens.iter().zip(self.read).flat_map(row).collect();
            let qkv = wide(&rows, all, dtype, 100.0);
            let mut o = wide(&vec![f64::NAN; slots * width], width, dtype, 0.0);
            let [k, v] = &mut caches;
            let columns = |from, count| qkv.view().columns(from..from + count);
            let operands = StepOperands {
                q: columns(margin, width),
                k: columns(margin + width, kv_width),
                v: columns(margin + width + kv_width, kv_width),
                read: before.view_mut().unwrap(),
                keys: k.view_mut().unwrap().columns(margin..margin + cached),
                values: v.view_mut().unwrap().columns(margin..margin + cached),
            };
            let to = o.view_mut().unwrap().columns(margin..margin + width);
            step(operands, to, &self.options()).unwrap();
            for (found, o) in found.iter_mut().zip(read(&o).chunks(width + 2 * margin)) {
                let (inside, right) = o.split_at(margin + width);
                let beside = inside[..margin].iter().chain(right);
                assert!(beside.copied().all(|v| v == 0.0), "written beside o");
                found.extend(inside[margin..].to_vec());
            }
        }
        for cache in &caches {
            for row in read(cache).chunks(cached + 2 * margin) {
                let beside = row[..margin].iter().chain(&row[margin + cached..]);
                assert!(beside.copied().all(|v| v == 0.0), "written beside a cache");
            }
        }
        (found.concat(), before.to_vec().unwrap())
    }

    fn reference<R: Real>(&self, tokens: &[Vec<f64>], round: fn(R) -> R) -> Vec<R> {
        let of_slot = |(tokens, &read): (&Vec<f64>, &usize)| {
            let [q, k, v] = self.turned::<R>(tokens);
            let [k, v] = [k, v].map(|all| all.into_iter().map(round).collect::<Vec<R>>());
            let q: Vec<R> = q[read * self.widths()[0]..]
                .iter()
                .map(|&q| round(q))
                .collect();
            let attention = reference::Attention {
                dims: AttentionDims {
                    batch: 1,
                    length: STEPS,
                    past: read,
                    heads: self.heads,
                    kv_heads: self.kv_heads,
                    head: self.head,
                },
                scale: R::from(0.2),
                window: self.window.unwrap_or(self.capacity).min(self.capacity),
                starts: None,
                round,
                q: &q,
                k: &k,
                v: &v,
            };
            attention.forward()
        };
        tokens.iter().zip(self.read).flat_map(of_slot).collect()
    }
}

/// Every case, for the programs that it asks for.
pub(super) fn run_all(device: Device, dtype: DType) {
    for case in problems() {
        case.run(&case.tokens(dtype), device, dtype);
    }
}

#[test]
fn steps_agree_with_the_definition_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems() {
            let tokens = case.tokens(dtype);
            let (got, read) = case.run(&tokens, device, dtype);
            let after = case.read.iter().flat_map(|read| [(read + STEPS) as u32, 0]);
            assert_eq!(read, Vec::from_iter(after), "{case:?} on {device}");
            let truth = case.reference::<f64>(&tokens, |x| x);
            let narrow = [dtype, case.cache_type(device, dtype)].contains(&DType::BF16);
            let plain = case.reference::<f32>(
                &tokens,
                match narrow {
                    true => |x| bf16::from_f32(x).to_f32(),
                    false => |x| x,
                },
            );
            let what = format!("{case:?} on {device} in {dtype}");
            assert_near(&what, &got, &truth, &plain, dtype);
        }
    }
}

#[test]
fn steps_from_the_first_token_on_are_attention_over_the_whole_on_every_device() {
    let (length, head, heads, kv_heads) = (150, 32, 4, 2);
    let options = StepOptions {
        head,
        kv_heads,
        scale: None,
        window: Some(70),
        rope: Some(500.0),
    };
    let (width, kv_width) = (heads * head, kv_heads * head);
    let all = width + 2 * kv_width;
    for (device, dtype) in cases() {
        let rows = values(1, [length, all], 2.0, dtype);
        let qkv = Var::from(tensor([1, length, all], &rows, dtype, device));
        let turn = RopeOptions {
            head,
            base: 500.0,
            from: 0,
        };
        let columns = |from: usize, count| qkv.columns(from..from + count).unwrap();
        let q = rope(&columns(0, width), &turn).unwrap();
        let k = rope(&columns(width, kv_width), &turn).unwrap();
        let whole = AttentionOptions {
            head,
            scale: None,
            window: Some(70),
            starts: None,
        };
        let v = columns(width + kv_width, kv_width);
        let whole = read(attention(&q, &k, &v, &whole).unwrap().tensor().unwrap());
        let mut caches =
            [(); 2].map(|()| Tensor::zeros([1, 80 * kv_width], dtype, device).unwrap());
        let mut found = vec![];
        let mut before = Tensor::zeros([1, 2], DType::U32, device).unwrap();
        for row in rows.chunks_exact(all) {
            let qkv = tensor([1, all], row, dtype, device);
            let mut o = Tensor::zeros([1, width], dtype, device).unwrap();
            let [k, v] = &mut caches;
            let columns = |from, count| qkv.view().columns(from..from + count);
            let operands = StepOperands {
                q: columns(0, width),
                k: columns(width, kv_width),
                v: columns(width + kv_width, kv_width),
                read: before.view_mut().unwrap(),
                keys: k.view_mut().unwrap(),
                values: v.view_mut().unwrap(),
            };
            step(operands, o.view_mut().unwrap(), &options).unwrap();
            found.extend(read(&o));
        }
        let differences = whole.iter().zip(&found).map(|(a, b)| (a - b).abs());
        let largest = differences.fold(0.0, f64::max);
        let allowed = if dtype == DType::BF16 { 0.03 } else { 3e-6 };
        assert!(largest < allowed, "{largest} on {device} in {dtype}");
    }
}

#[test]
fn a_slot_has_the_same_bits_whatever_is_beside_it_on_every_device() {
    for (device, dtype) in cases() {
        for case in problems().into_iter().filter(|case| case.read.len() > 1) {
            let tokens = case.tokens(dtype);
            let whole = case.run(&tokens, device, dtype).0;
            assert_eq!(
                whole,
                case.run(&tokens, device, dtype).0,
                "twice: {case:?} on {device}"
            );
            let beside = |(slot, tokens): (usize, &Vec<f64>)| match slot {
                1 => tokens.clone(),
                _ => vec![f64::NAN; tokens.len()],
            };
            let beside: Vec<_> = tokens.iter().enumerate().map(beside).collect();
            let alone = case.run(&beside, device, dtype).0;
            let row = whole.len() / case.read.len();
            assert_eq!(
                whole[row..2 * row],
                alone[row..2 * row],
                "{case:?} on {device}"
            );
        }
    }
}

#[test]
fn one_thread_and_three_give_the_same_bits_as_a_team() {
    let case = Case {
        read: &[2000, 700, 3, 0],
        capacity: 2500,
        ..PLAIN
    };
    let tokens = case.tokens(DType::F32);
    let run = || case.run(&tokens, Device::Cpu, DType::F32).0;
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(run)
    };
    let one = on(1);
    assert_eq!(one, on(3));
    assert_eq!(one, crate::Team::new(3).enter(run));
}

#[test]
fn what_does_not_fit_is_said() {
    let error = |[width, kv_width]: [usize; 2], cached: usize, options: StepOptions| {
        let zeros = |columns| Tensor::zeros([2, columns], DType::F32, Device::Cpu).unwrap();
        let (mut k, mut v, mut o) = (zeros(cached), zeros(cached), zeros(32));
        let mut read = Tensor::zeros([2, 2], DType::U32, Device::Cpu).unwrap();
        let [q, kv] = [zeros(width), zeros(kv_width)];
        let operands = StepOperands {
            q: q.view(),
            k: kv.view(),
            v: kv.view(),
            read: read.view_mut().unwrap(),
            keys: k.view_mut().unwrap(),
            values: v.view_mut().unwrap(),
        };
        step(operands, o.view_mut().unwrap(), &options).err()
    };
    let options = StepOptions {
        head: 8,
        kv_heads: 2,
        scale: None,
        window: None,
        rope: None,
    };
    let (own, multiple) = ([32, 16], |error| {
        matches!(error, Some(Error::Multiple { .. }))
    });
    assert!(error(own, 80, options).is_none());
    assert!(multiple(error([31, 16], 80, options)));
    assert!(multiple(error(own, 81, options)));
    assert!(matches!(error(own, 0, options), Some(Error::Range { .. })));
    assert!(matches!(
        error([0, 16], 80, options),
        Some(Error::Range { .. })
    ));
    assert!(multiple(error([24, 16], 80, options)));
    assert!(matches!(
        error([48, 16], 80, options),
        Some(Error::Shape { .. })
    ));
    assert!(matches!(
        error([32, 24], 80, options),
        Some(Error::Shape { .. })
    ));
    let window = Some(0);
    let refused = error(own, 80, StepOptions { window, ..options });
    assert!(matches!(refused, Some(Error::Range { .. })));
    let rope = Some(-1.0);
    let refused = error(own, 80, StepOptions { rope, ..options });
    assert!(matches!(refused, Some(Error::Value { .. })));
}
