//! What the GPU's kernel computes, step by step on the processor: the same tokens. It shares no code with the
//! processor's kernel but the constants.

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::history;
use super::properties::{adjusted, case};
use crate::sampling::cpu::{FEW, FIXED, Law, MORE, Sampler};
use crate::sampling::{Broken, SampleOptions};
use crate::simd::EXP2;

const SEGMENT: usize = 128;
const BINS: usize = 2048;
const DIGIT: u32 = 11;
const PLACE: u32 = 18;

fn key(x: f32) -> u32 {
    let bits = if x == 0.0 { 0 } else { x.to_bits() };
    let flipped = bits ^ if (bits as i32) < 0 { u32::MAX } else { 1 << 31 };
    if x.is_nan() { u32::MAX } else { flipped }
}

fn rank(x: f32, token: usize) -> u64 {
    u64::from(key(x)) << PLACE | ((1 << PLACE) - 1 - token as u64)
}

fn weight(law: Law, max: f32, x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let [scale, rest] = law.scale;
    let distance = law.lowest.max(x - max);
    let shifted = distance.mul_add(scale, ROUND);
    let f = distance.mul_add(scale, ROUND - shifted);
    let f = distance.mul_add(rest, f);
    let power = EXP2
        .iter()
        .rev()
        .copied()
        .reduce(|sum, c| sum.mul_add(f, c));
    let power = power.unwrap().to_bits();
    f32::from_bits(power.wrapping_add(shifted.to_bits() << 23))
}

/// As the conversion of a GPU: to the nearest, of two the even one.
fn fixed(weight: f32) -> u64 {
    let wide = f64::from(weight) * 2.0_f64.powi(FIXED as i32);
    let (whole, rest) = (wide.trunc() as u64, wide.fract());
    whole + u64::from(rest > 0.5 || rest == 0.5 && whole % 2 == 1)
}

/// A sum of weights in halves.
#[derive(Default)]
struct Sum {
    upper: u32,
    lower: i32,
}

impl Sum {
    fn add(&mut self, weight: f32) {
        const UPPER: f32 = 12.0;
        const LOWER: f32 = 12_582_912.0;
        let above = weight + UPPER;
        let rest = weight - (above - UPPER);
        let below = rest.mul_add(2.0_f32.powi(FIXED as i32), LOWER);
        self.upper += above.to_bits() - UPPER.to_bits();
        self.lower += below.to_bits() as i32 - LOWER.to_bits() as i32;
    }

    fn total(&self) -> u64 {
        (u64::from(self.upper) << (FIXED / 2)).wrapping_add_signed(self.lower.into())
    }
}

fn high(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

/// The first bin with which the sum reaches the need, what is left of it there, and what is there.
fn search(bins: &[u64], need: u64) -> (usize, u64, u64) {
    let mut before = 0;
    for (bin, own) in bins.iter().enumerate() {
        if before < need && need <= before + own {
            return (bin, need - before, *own);
        }
        before += own;
    }
    panic!("{need} of {before}");
}

/// One slot's logits, and what its block keeps of them.
struct Block<'a> {
    x: &'a [f32],
    law: Law,
    max: f32,
    maxima: Vec<u32>,
}

impl Block<'_> {
    fn each(&self, least: u64, mut visit: impl FnMut(usize, usize, f32)) {
        let segments = self.x.chunks(SEGMENT).zip(&self.maxima).enumerate();
        for (segment, (x, largest)) in segments {
            if u64::from(*largest) >= least >> PLACE {
                for (i, x) in x.iter().enumerate() {
                    visit(segment, segment * SEGMENT + i, *x);
                }
            }
        }
    }

    fn keeps(&self, bound: u64, floor: f32, token: usize, x: f32) -> bool {
        rank(x, token) >= bound && weight(self.law, self.max, x) >= floor
    }

    fn weigh(&self, bound: u64, floor: f32) -> Vec<u64> {
        let mut sums: Vec<Sum> = (0..BINS).map(|_| Sum::default()).collect();
        self.each(bound, |segment, token, x| {
            if self.keeps(bound, floor, token, x) {
                sums[segment].add(weight(self.law, self.max, x));
            }
        });
        sums.iter().map(Sum::total).collect()
    }

    fn items(&self, least: u64, weigh: impl Fn(f32) -> u64) -> Vec<(u64, u64)> {
        let mut items = Vec::new();
        self.each(least, |_, token, x| {
            if rank(x, token) >= least {
                items.push((rank(x, token), weigh(x)));
            }
        });
        items
    }

    fn bound_of(&self, count: u64) -> u64 {
        if count >= self.maxima.len() as u64 {
            return 0;
        }
        let maxima = self.maxima.iter().enumerate();
        let item =
            |(i, key): (usize, &u32)| (u64::from(*key) << PLACE | ((1 << PLACE) - 1 - i as u64), 1);
        reach(count, 0, &maxima.map(item).collect::<Vec<_>>()) >> PLACE << PLACE
    }

    fn draw(&self, options: &SampleOptions, number: u64) -> usize {
        let (top_k, mut bound) = (options.top_k as u64, 0);
        if top_k > 0 && top_k < self.x.len() as u64 {
            let least = self.bound_of(top_k);
            bound = reach(top_k, least, &self.items(least, |_| 1));
        }
        if self.law.nucleus > 0 {
            let all: u64 = self.weigh(bound, 0.0).iter().sum();
            let low = self.law.nucleus.wrapping_mul(all);
            let need = (high(self.law.nucleus, all) + u64::from(low != 0)).max(1);
            let mut few = FEW as u64;
            while bound == 0 && self.bound_of(few) > 0 {
                let least = self.bound_of(few);
                if self.weigh(least, 0.0).iter().sum::<u64>() >= need {
                    bound = least;
                }
                few *= MORE as u64;
            }
            let items = self.items(bound, |x| fixed(weight(self.law, self.max, x)));
            bound = reach(need, bound, &items);
        }
        let floor = self.law.floor;
        let bins = self.weigh(bound, floor);
        let total = bins.iter().sum();
        let (bin, mut left, _) = search(&bins, high(number, total) + 1);
        for (token, x) in (bin * SEGMENT..).zip(self.x.chunks(SEGMENT).nth(bin).unwrap()) {
            let w = match self.keeps(bound, floor, token, *x) {
                true => fixed(weight(self.law, self.max, *x)),
                false => 0,
            };
            if left <= w {
                return token;
            }
            left -= w;
        }
        panic!("{left} left");
    }
}

fn reach(mut need: u64, least: u64, items: &[(u64, u64)]) -> u64 {
    let (mut prefix, mut above) = (0, 32 + PLACE);
    loop {
        let below = above.saturating_sub(DIGIT);
        let mask = (1 << (above - below)) - 1;
        let mut bins = vec![0; BINS];
        for (rank, weight) in items {
            if rank >> above == prefix {
                bins[(mask - (rank >> below & mask)) as usize] += weight;
            }
        }
        let (bin, left, here) = search(&bins, need);
        prefix = prefix << (above - below) | (mask - bin as u64);
        (need, above) = (left, below);
        if above == 0 || left == here {
            return (prefix << above).max(least);
        }
    }
}

fn sample(options: &SampleOptions, x: &[f32], number: u64) -> Result<u32, Broken> {
    let maxima = x
        .chunks(SEGMENT)
        .map(|x| x.iter().map(|x| key(*x)).max().unwrap());
    let best = (0..)
        .zip(x)
        .map(|(token, x)| rank(*x, token))
        .max()
        .unwrap();
    let key = (best >> PLACE) as u32;
    let max = f32::from_bits(if key >> 31 == 1 { key ^ 1 << 31 } else { !key });
    if key == u32::MAX {
        return Err(Broken::Nan);
    } else if max.is_infinite() {
        return Err(Broken::NotFinite);
    } else if options.temperature == 0.0 {
        return Ok(((1 << PLACE) - 1 - (best & ((1 << PLACE) - 1))) as u32);
    }
    let block = Block {
        x,
        law: Law::new(options),
        max,
        maxima: maxima.collect(),
    };
    Ok(block.draw(options, number) as u32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_kernels_draws_are_those_of_the_processor((logits, options, before, numbers) in case()) {
        let x = adjusted(&options, &logits, &before);
        let mut sampler = Sampler::new(options.clone()).unwrap();
        let history = history(&before);
        for number in numbers.into_iter().chain([0, u64::MAX]) {
            let drawn = sampler.sample(&logits, &history, number);
            // A kernel does not say whether the options are to blame.
            let drawn = drawn.map_err(|broken| match broken {
                Broken::Adjusted => Broken::NotFinite,
                broken => broken,
            });
            prop_assert_eq!(drawn, sample(&options, &x, number));
        }
    }
}

proptest! {
    #[test]
    fn sums_in_halves_are_those_of_rounded_weights(weights in prop::collection::vec(
        prop_oneof![0.0_f32..=1.0, (0..60_i32).prop_map(|n| 2.0_f32.powi(-n)), 0.0_f32..1e-9], 0..128,
    )) {
        let mut sum = Sum::default();
        weights.iter().for_each(|weight| sum.add(*weight));
        prop_assert_eq!(sum.total(), weights.iter().map(|weight| fixed(*weight)).sum::<u64>());
    }

    #[test]
    fn the_floor_is_the_least_float_that_can_be_drawn(
        min_p in prop_oneof![0.0_f32..1.0, 0.0_f32..1e-11, Just(0.0)],
    ) {
        let options = SampleOptions { min_p, ..SampleOptions::default() };
        let law = Law::new(&options);
        let floor = law.floor;
        prop_assert!(fixed(floor) >= law.least);
        prop_assert!(floor == 0.0 || fixed(floor.next_down()) < law.least);
    }
}

/// The kernel's random numbers.
fn random(key: [u32; 8], place: u64) -> u64 {
    let block = place / 8;
    let mut from = [0; 16];
    from[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    from[4..12].copy_from_slice(&key);
    (from[12], from[13]) = (block as u32, (block >> 32) as u32);
    let mut x = from;
    let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
        for (to, by, with, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
            x[to] = u32::wrapping_add(x[to], x[by]);
            x[with] = u32::rotate_left(x[with] ^ x[to], turn);
        }
    };
    for _ in 0..4 {
        for i in 0..4 {
            quarter(i, 4 + i, 8 + i, 12 + i);
        }
        for i in 0..4 {
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
        }
    }
    let word = |i: usize| u64::from(x[i].wrapping_add(from[i]));
    let i = 2 * (place % 8) as usize;
    word(i + 1) << 32 | word(i)
}

#[test]
fn the_kernels_random_numbers_are_those_of_the_stream() {
    for seed in [0, 7, u64::MAX] {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let bytes = rng.get_seed();
        let word = |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
        let key = std::array::from_fn(word);
        for place in (0..100).chain([1 << 33, 1 << 40]) {
            rng.set_word_pos(2 * u128::from(place));
            assert_eq!(
                random(key, place),
                rng.next_u64(),
                "place {place} of {seed}"
            );
        }
    }
}
