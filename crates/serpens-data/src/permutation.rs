//! A random permutation of `0..count` that is never stored: any element is computed in constant time.

use rand::{Rng, RngExt};

use crate::random::{Purpose, counter_rng};

/// Four rounds are enough for a Feistel network to look random; a fifth and sixth make up for tiny halves.
const ROUNDS: usize = 6;

/// A keyed permutation of `0..count`.
///
/// A Feistel network maps pairs (left, right) one to one, whatever its round function: each round makes
/// `(left, right)` into `(right, left ⊕ f(right, key))`. It permutes `0..4^k`, the smallest such power that
/// holds `count`; results of `count` and above are sent through again until they fall inside (cycle walking:
/// fewer than four passes on average, and still one to one).
#[derive(Debug, Clone)]
pub(crate) struct Permutation {
    count: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// A permutation of `0..count` (`count` ≥ 1), keyed from `rng`.
    pub(crate) fn new(count: u64, rng: &mut impl Rng) -> Self {
        let bits = u64::BITS - (count - 1).leading_zeros();
        Permutation {
            count,
            half_bits: bits.div_ceil(2),
            keys: std::array::from_fn(|_| rng.next_u64()),
        }
    }

    /// Where `index` (below `count`) is sent.
    pub(crate) fn apply(&self, index: u64) -> u64 {
        let mut image = self.pass(index);
        while image >= self.count {
            image = self.pass(image);
        }
        image
    }

    fn pass(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// Spreads every bit of the input over the output (multiplications by odd constants and shifts to the right).
fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 32;
    bits = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits ^= bits >> 29;
    bits = bits.wrapping_mul(0xd1b5_4a32_d192_ed03);
    bits ^ bits >> 32
}

/// The `number`-th visit of an endless stream in which each of `count` places is visited once, in an order that is
/// drawn anew, before one is visited again; and a share of 1 that is drawn with the order. `stream` gives the epoch's own
/// numbers.
pub(crate) fn visit(
    seed: u64,
    number: u128,
    count: u64,
    stream: impl Fn(u64) -> u64,
) -> (usize, f64) {
    let of = u128::from(count);
    let (epoch, index) = ((number / of) as u64, (number % of) as u64);
    let mut rng = counter_rng(seed, Purpose::EpochOrder, stream(epoch));
    let share = rng.random();
    let place = Permutation::new(count, &mut rng).apply(index);
    (place as usize, share)
}

/// That share of what a window may be moved by at most.
pub(crate) fn moved(share: f64, most: usize) -> usize {
    ((share * (most + 1) as f64) as usize).min(most)
}

/// Of more than `most`, so many spread evenly.
pub(crate) fn spread<T: Clone>(all: Vec<T>, most: usize) -> Vec<T> {
    let (count, most) = (all.len(), most.max(1));
    match count > most {
        true => (0..most).map(|i| all[i * count / most].clone()).collect(),
        false => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, counter_rng};

    fn permutation(count: u64, index: u64) -> Permutation {
        Permutation::new(count, &mut counter_rng(5, Purpose::EpochOrder, index))
    }

    #[test]
    fn every_index_is_reached_exactly_once() {
        for count in (1..70).chain([255, 256, 257, 1023, 1024, 1025, 4096, 10_000]) {
            let mut reached = vec![false; count as usize];
            let permutation = permutation(count, count);
            for index in 0..count {
                let image = permutation.apply(index) as usize;
                assert!(!reached[image], "{count}: {image} is reached twice");
                reached[image] = true;
            }
        }
    }

    #[test]
    fn the_largest_counts_stay_in_range() {
        for count in [u64::MAX, 1 << 63, (1 << 62) + 1, 1 << 62] {
            assert!(permutation(count, 0).apply(count - 1) < count);
        }
    }

    /// Over many keys, each of ten indices should land on each of ten places about equally often:
    /// the statistic has mean 9 per index and standard deviation about 4.2.
    #[test]
    fn places_are_uniform_over_keys() {
        let keys = 4000;
        for index in 0..10 {
            let mut seen = [0f64; 10];
            for key in 0..keys {
                seen[permutation(10, key).apply(index) as usize] += 1.0;
            }
            let expected = keys as f64 / 10.0;
            let chi_square: f64 = seen.iter().map(|n| (n - expected).powi(2) / expected).sum();
            assert!(chi_square < 32.0, "index {index}: {seen:?}");
        }
    }

    #[test]
    fn neighbours_are_torn_apart() {
        let permutation = permutation(10_000, 1);
        let kept = (1..10_000)
            .filter(|&i| permutation.apply(i) == permutation.apply(i - 1) + 1)
            .count();
        assert!(
            kept < 10,
            "{kept} neighbours of 10000 stay neighbours (about 1 by chance)"
        );
    }
}
