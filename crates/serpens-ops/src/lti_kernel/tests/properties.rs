//! The kernel, its gradients and the recurrence against the definition in f64 and against reference vectors.

use std::path::Path;

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::SafeTensors;

use super::reference;
use crate::long_conv::LongConvDims;
use crate::long_conv::cpu as long_conv;
use crate::lti_kernel::cpu::recurrence;
use crate::lti_kernel::cpu::{Grads, System, backward, forward};

/// A system in f32 with room for everything that a [`System`] borrows.
#[derive(Clone)]
struct Owned {
    channels: usize,
    state: usize,
    complex: bool,
    dt: Vec<f32>,
    a: [Vec<f32>; 2],
    b: [Vec<f32>; 2],
    c: [Vec<f32>; 2],
    d: Vec<f32>,
}

impl Owned {
    fn random(channels: usize, state: usize, complex: bool, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut unit = || rng.next_u32() as f32 / 2.0_f32.powi(32);
        let count = channels * state;
        let mut pair = |f: &dyn Fn(f32) -> f32| -> [Vec<f32>; 2] {
            std::array::from_fn(|_| (0..count).map(|_| f(unit())).collect())
        };
        let a = pair(&|x| 10.0 * x - 5.0);
        let (b, c) = (pair(&|x| 2.0 * x - 1.0), pair(&|x| 2.0 * x - 1.0));
        let a = [a[0].iter().map(|x| -0.01 - x.abs()).collect(), a[1].clone()];
        let zero = |pair: [Vec<f32>; 2]| match complex {
            true => pair,
            false => [pair[0].clone(), vec![0.0; count]],
        };
        Self {
            channels,
            state,
            complex,
            dt: (0..channels).map(|_| 0.001 + 0.2 * unit()).collect(),
            a: zero(a),
            b: zero(b),
            c: zero(c),
            d: (0..channels).map(|_| unit() - 0.5).collect(),
        }
    }

    fn system(&self) -> System<'_> {
        System {
            dt: &self.dt,
            a: &self.a[0],
            a_im: self.complex.then_some(&self.a[1]),
            b: &self.b[0],
            b_im: self.complex.then_some(&self.b[1]),
            c: &self.c[0],
            c_im: self.complex.then_some(&self.c[1]),
            d: Some(&self.d),
        }
    }

    fn reference(&self) -> reference::System {
        let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let pairs = |x: &[Vec<f32>; 2]| wide(&x[0]).into_iter().zip(wide(&x[1])).collect();
        reference::System {
            channels: self.channels,
            state: self.state,
            scale: if self.complex { 2.0 } else { 1.0 },
            dt: wide(&self.dt),
            a: pairs(&self.a),
            b: pairs(&self.b),
            c: pairs(&self.c),
            d: wide(&self.d),
        }
    }

    fn kernel(&self, length: usize) -> Vec<f32> {
        let mut k = vec![0.0; length * self.channels];
        forward(&self.system(), length, &mut k);
        k
    }

    /// Gradients in the order Δ, A, B, C (re, im each), D.
    fn gradients(&self, length: usize, dk: &[f32]) -> Vec<Vec<f32>> {
        let count = self.channels * self.state;
        let mut all: Vec<Vec<f32>> = (0..8)
            .map(|i| vec![9.0; if i % 7 == 0 { self.channels } else { count }])
            .collect();
        let [dt, a, a_im, b, b_im, c, c_im, d] = all.as_mut_slice() else {
            unreachable!("eight were made");
        };
        let grads = Grads {
            dt,
            a,
            a_im: self.complex.then_some(a_im),
            b,
            b_im: self.complex.then_some(b_im),
            c,
            c_im: self.complex.then_some(c_im),
            d: Some(d),
        };
        backward(&self.system(), length, dk, grads);
        all
    }
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| rng.next_u32() as f32 / 2.0_f32.powi(31) - 1.0)
        .collect()
}

/// Within `tolerance` of the largest value.
fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs();
        assert!(
            error <= tolerance * scale,
            "{what}[{i}]: {g} and {w}, largest {scale}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_is_that_of_the_definition(
        length in 1..80_usize, channels in 1..20_usize,
        state in prop::sample::select(vec![1, 3, 16, 64]), complex in any::<bool>(), seed in any::<u64>()
    ) {
        let system = Owned::random(channels, state, complex, seed);
        assert_close("K", &system.kernel(length), &system.reference().kernel(length), 1e-6);
    }

    #[test]
    fn the_recurrence_is_that_of_the_definition_whole_and_in_chunks(
        batch in 1..3_usize, length in 1..40_usize, channels in 1..20_usize,
        state in 1..6_usize, complex in any::<bool>(), seed in any::<u64>()
    ) {
        let system = Owned::random(channels, state, complex, seed);
        let planes = if complex { 2 } else { 1 };
        let h0 = noise(batch * channels * planes * state, seed ^ 1);
        let u = noise(batch * length * channels, seed ^ 2);
        let wide: Vec<f64> = u.iter().map(|v| f64::from(*v)).collect();
        let mut exact: Vec<reference::Complex> = h0
            .chunks(planes * state)
            .flat_map(|row| (0..state).map(|n| {
                let im = if complex { f64::from(row[state + n]) } else { 0.0 };
                (f64::from(row[n]), im)
            }))
            .collect();
        let want = system.reference().run(&wide, length, &mut exact);
        let (mut y, mut h) = (vec![0.0; u.len()], h0.clone());
        recurrence::run(&system.system(), (batch, length), &u, &mut y, &mut h);
        assert_close("y", &y, &want, 2e-6);
        // The same in two chunks, for the first row of the batch.
        let row = length * channels;
        let cut = length / 2 * channels;
        let mut state_of_first = h0[..channels * planes * state].to_vec();
        let mut chunks = vec![0.0; row];
        for (from, to) in [(0, cut), (cut, row)] {
            let steps = (to - from) / channels;
            recurrence::run(
                &system.system(), (1, steps), &u[from..to], &mut chunks[from..to], &mut state_of_first,
            );
        }
        prop_assert_eq!(&chunks[..], &y[..row]);
        prop_assert_eq!(&state_of_first[..], &h[..channels * planes * state]);
    }

    #[test]
    fn convolution_and_recurrence_give_the_same_outputs(
        batch in 1..3_usize, length in 1..150_usize, channels in 1..20_usize,
        complex in any::<bool>(), seed in any::<u64>()
    ) {
        let system = Owned::random(channels, 4, complex, seed);
        let u = noise(batch * length * channels, seed);
        let (mut by_kernel, mut by_steps) = (vec![0.0; u.len()], vec![0.0; u.len()]);
        let dims = LongConvDims { batch, length, channels };
        long_conv::forward(&u, &system.kernel(length), &mut by_kernel, dims);
        let mut h = vec![0.0; batch * channels * if complex { 8 } else { 4 }];
        recurrence::run(&system.system(), (batch, length), &u, &mut by_steps, &mut h);
        let want: Vec<f64> = by_steps.iter().map(|v| f64::from(*v)).collect();
        assert_close("y", &by_kernel, &want, 1e-5);
    }
}

/// Central differences of Σ dK ⊙ K in f64.
fn differences(system: &Owned, length: usize, dk: &[f32]) -> Vec<Vec<f64>> {
    let loss = |system: &reference::System| -> f64 {
        let k = system.kernel(length);
        k.iter().zip(dk).map(|(k, d)| k * f64::from(*d)).sum()
    };
    let base = system.reference();
    let slope = |change: &dyn Fn(&mut reference::System, f64)| {
        let at = |h: f64| {
            let mut moved = base.clone();
            change(&mut moved, h);
            loss(&moved)
        };
        (at(1e-6) - at(-1e-6)) / 2e-6
    };
    let all = system.channels * system.state;
    let of = |count: usize, change: &dyn Fn(&mut reference::System, usize, f64)| {
        (0..count)
            .map(|i| slope(&|s: &mut reference::System, h| change(s, i, h)))
            .collect()
    };
    vec![
        of(system.channels, &|s, i, h| s.dt[i] += h),
        of(all, &|s, i, h| s.a[i].0 += h),
        of(all, &|s, i, h| s.a[i].1 += h),
        of(all, &|s, i, h| s.b[i].0 += h),
        of(all, &|s, i, h| s.b[i].1 += h),
        of(all, &|s, i, h| s.c[i].0 += h),
        of(all, &|s, i, h| s.c[i].1 += h),
        of(system.channels, &|s, i, h| s.d[i] += h),
    ]
}

#[test]
fn gradients_are_the_slopes_of_the_definition() {
    let names = ["Δ", "Re A", "Im A", "Re B", "Im B", "Re C", "Im C", "D"];
    for (channels, state, length) in [(3, 4, 37), (17, 1, 16), (1, 3, 1), (2, 20, 100)] {
        for complex in [false, true] {
            let system = Owned::random(channels, state, complex, 7);
            let dk = noise(length * channels, 8);
            let got = system.gradients(length, &dk);
            let want = differences(&system, length, &dk);
            let wide: Vec<f64> = dk.iter().map(|v| f64::from(*v)).collect();
            let all = system.reference().gradients(length, &wide);
            let narrow = |values: Vec<f64>| values.iter().map(|v| *v as f32).collect();
            let parts = |pairs: Vec<reference::Complex>| -> (Vec<f64>, Vec<f64>) {
                pairs.into_iter().unzip()
            };
            let ((a, a_im), (b, b_im), (c, c_im)) = (parts(all.a), parts(all.b), parts(all.c));
            let defined: Vec<Vec<f32>> = [all.dt, a, a_im, b, b_im, c, c_im, all.d]
                .map(narrow)
                .into();
            for (i, name) in names.iter().enumerate() {
                let imaginary = matches!(i, 2 | 4 | 6);
                if complex || !imaginary {
                    assert_close(name, &got[i], &want[i], 3e-6);
                    assert_close(name, &defined[i], &want[i], 3e-6);
                }
            }
        }
    }
}

#[test]
fn a_near_zero_gives_the_limit_of_the_hold() {
    let mut system = Owned::random(2, 1, false, 3);
    system.a[0] = vec![-1e-3, -0.3];
    let dk = noise(10 * 2, 4);
    let (got, want) = (system.gradients(10, &dk), differences(&system, 10, &dk));
    for i in [0, 1, 3, 5] {
        assert_close("gradient", &got[i], &want[i], 1e-5);
    }

    system.a[0][0] = -1e-7;
    let k_limit = system.kernel(10);
    let limit = system.dt[0] * system.b[0][0] * system.c[0][0] + system.d[0];
    assert!((k_limit[0] - limit).abs() < 1e-6);
}

#[test]
fn a_long_kernel_does_not_gather_rounding_errors() {
    let system = Owned::random(5, 8, true, 11);
    assert_close(
        "K",
        &system.kernel(20_000),
        &system.reference().kernel(20_000),
        1e-6,
    );
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/s4d");
    std::fs::read(path.join(name)).unwrap()
}

fn doubles(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let data = file.tensor(name).unwrap().data();
    let chunks = data.as_chunks::<8>().0.iter();
    chunks.map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

#[test]
fn the_reference_vectors_are_met_by_kernel_convolution_and_recurrence() {
    for (name, complex) in [("complex.safetensors", true), ("real.safetensors", false)] {
        let bytes = fixture(name);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let [batch, length, channels] = file.tensor("u").unwrap().shape().try_into().unwrap();
        let narrow =
            |name: &str| -> Vec<f32> { doubles(&file, name).iter().map(|v| *v as f32).collect() };
        let pair = |name: &str| match complex {
            true => [narrow(&format!("{name}_re")), narrow(&format!("{name}_im"))],
            false => [narrow(name), Vec::new()],
        };
        let a = pair("A");
        let system = Owned {
            channels,
            state: a[0].len() / channels,
            complex,
            dt: narrow("dt"),
            a,
            b: pair("B"),
            c: pair("C"),
            d: vec![0.0; channels],
        };
        // Operands are rounded to f32 here, which moves the kernel by about its own rounding.
        assert_close("K", &system.kernel(length), &doubles(&file, "kernel"), 2e-6);
        let u = narrow("u");
        let mut y = vec![0.0; u.len()];
        let dims = LongConvDims {
            batch,
            length,
            channels,
        };
        long_conv::forward(&u, &system.kernel(length), &mut y, dims);
        assert_close("y by convolution", &y, &doubles(&file, "y"), 3e-6);
        let planes = if complex { 2 } else { 1 };
        let mut h = vec![0.0; batch * channels * planes * system.state];
        recurrence::run(&system.system(), (batch, length), &u, &mut y, &mut h);
        assert_close("y by recurrence", &y, &doubles(&file, "y"), 3e-6);
    }
}

#[test]
fn the_number_of_threads_does_not_change_the_bits() {
    let system = Owned::random(50, 5, true, 13);
    let dk = noise(33 * 50, 14);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| (system.kernel(33), system.gradients(33, &dk)))
    };
    assert_eq!(run(1), run(3));
}

#[test]
#[should_panic(expected = "C")]
fn short_slices_are_refused_before_any_work() {
    let owned = Owned::random(3, 2, false, 1);
    let mut system = owned.system();
    system.c = &system.c[1..];
    recurrence::run(&system, (1, 1), &[0.0; 3], &mut [0.0; 3], &mut [0.0; 6]);
}
