//! Some of the tokens, of which some are kept and one is drawn, without sorting them.

use std::cmp::Reverse;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Larger of a larger logit, and of equal ones of the lower token.
    pub rank: u64,
    /// In fixed point.
    pub weight: u64,
}

impl Candidate {
    pub fn new(x: f32, token: u32) -> Self {
        let rank = u64::from(key(x)) << 32 | u64::from(!token);
        Self { rank, weight: 0 }
    }

    pub fn token(&self) -> u32 {
        !(self.rank as u32)
    }

    /// Larger of a lower token.
    pub fn place(&self) -> u64 {
        u64::from(self.rank as u32)
    }
}

/// A number that is ordered as x is, the same of both zeros.
pub(in crate::sampling) fn key(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    let negative = bits >> 31 == 1;
    bits ^ if negative { u32::MAX } else { 1 << 31 }
}

/// Moves the `n` of the largest ranks to the front, and drops the others.
pub(super) fn keep_largest(candidates: &mut Vec<Candidate>, n: usize) {
    if n < candidates.len() {
        candidates.select_nth_unstable_by_key(n, |one| Reverse(one.rank));
        candidates.truncate(n);
    }
}

/// Going down from the largest `order`, how many weights it takes until their sum reaches `need`; those are moved to
/// the front, the last of them last. All where there is less.
pub(super) fn reach(
    candidates: &mut [Candidate],
    order: fn(&Candidate) -> u64,
    mut need: u64,
) -> usize {
    let (mut from, mut to) = (0, candidates.len());
    while to - from > 1 {
        let half = (to - from) / 2;
        let left = &mut candidates[from..to];
        left.select_nth_unstable_by_key(half, |one| Reverse(order(one)));
        let sum = left[..half].iter().map(|one| one.weight).sum();
        if need <= sum {
            to = from + half;
        } else {
            need -= sum;
            from += half;
        }
    }
    to
}
