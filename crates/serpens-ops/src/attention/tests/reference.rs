//! The definition, one weight after the other: in f64 the truth, in f32 the yardstick.

use crate::attention::AttentionDims;
use crate::shared::tests::real::{Real, zero};

/// One attention on dense operands.
#[derive(Clone, Debug)]
pub struct Attention<'a, R> {
    /// The sizes.
    pub dims: AttentionDims,
    /// What dot products are multiplied by.
    pub scale: R,
    /// Keys that a query sees at most.
    pub window: usize,
    /// (batch, length): where packed sequences start.
    pub starts: Option<&'a [bool]>,
    /// What becomes of a weight, of its gradient and of o: the rounding of a low precision.
    pub round: fn(R) -> R,
    /// (batch · length, heads · head).
    pub q: &'a [R],
    /// (batch · (past + length), kv_heads · head).
    pub k: &'a [R],
    /// As k.
    pub v: &'a [R],
}

impl<R: Real> Attention<'_, R> {
    /// Every (row, head) of q.
    fn queries(&self) -> impl Iterator<Item = (usize, usize)> + use<R> {
        let heads = self.dims.heads;
        (0..self.dims.queries() * heads).map(move |i| (i / heads, i % heads))
    }

    /// The rows of k that a row of q sees.
    fn seen(&self, query: usize) -> Vec<usize> {
        let AttentionDims { length, past, .. } = self.dims;
        let (sequence, t) = (query / length, query % length);
        let key = |j: usize| sequence * (length + past) + j;
        let started = |j: usize| {
            let later = j + 1..=past + t;
            self.starts
                .is_some_and(|starts| later.into_iter().any(|i| starts[sequence * length + i]))
        };
        let near = |j: usize| past + t - j < self.window;
        (0..=past + t)
            .filter(|&j| near(j) && !started(j))
            .map(key)
            .collect()
    }

    fn place(&self, row: usize, head: usize, heads: usize) -> usize {
        (row * heads + head) * self.dims.head
    }

    fn of_q(&self, row: usize, head: usize) -> usize {
        self.place(row, head, self.dims.heads)
    }

    /// The place of the head of k that a head of q reads.
    fn of_k(&self, row: usize, head: usize) -> usize {
        self.place(row, head / self.dims.group(), self.dims.kv_heads)
    }

    fn dot(&self, a: &[R], b: &[R]) -> R {
        (0..self.dims.head).map(|c| a[c] * b[c]).sum()
    }

    /// The rows that a query sees, with e^(their dot product − the largest), the sum of these, and the largest.
    fn powers(&self, query: usize, head: usize) -> (Vec<(usize, R)>, R, R) {
        let q = &self.q[self.of_q(query, head)..];
        let dot = |j| self.scale * self.dot(q, &self.k[self.of_k(j, head)..]);
        let dots: Vec<(usize, R)> = self.seen(query).into_iter().map(|j| (j, dot(j))).collect();
        let most = dots
            .iter()
            .fold(dots[0].1, |most, &(_, s)| if s > most { s } else { most });
        let powers: Vec<(usize, R)> = dots
            .into_iter()
            .map(|(j, s)| (j, (s - most).exp()))
            .collect();
        let sum = powers.iter().map(|&(_, power)| power).sum();
        (powers, sum, most)
    }

    /// (batch · length, heads · head).
    pub fn forward(&self) -> Vec<R> {
        let mut o = vec![zero(); self.q.len()];
        for (query, head) in self.queries() {
            let (powers, sum, _) = self.powers(query, head);
            for c in 0..self.dims.head {
                let value =
                    |&(j, power): &(usize, R)| (self.round)(power) * self.v[self.of_k(j, head) + c];
                o[self.of_q(query, head) + c] = powers.iter().map(value).sum::<R>() / sum;
            }
        }
        o
    }

    /// The gradients of q, k and v from that of o.
    pub fn backward(&self, dy: &[R]) -> [Vec<R>; 3] {
        let o: Vec<R> = self.forward().into_iter().map(self.round).collect();
        let mut dq = vec![zero(); self.q.len()];
        let (mut dk, mut dv) = (vec![zero(); self.k.len()], vec![zero(); self.v.len()]);
        for (query, head) in self.queries() {
            let at = self.of_q(query, head);
            let delta = self.dot(&dy[at..], &o[at..]);
            let (powers, sum, most) = self.powers(query, head);
            let lse = most + sum.ln();
            for (j, _) in powers {
                let of_k = self.of_k(j, head);
                let dot = self.scale * self.dot(&self.q[at..], &self.k[of_k..]);
                let weight = (self.round)((dot - lse).exp());
                let slope = (self.round)(weight * (self.dot(&dy[at..], &self.v[of_k..]) - delta));
                for c in 0..self.dims.head {
                    dq[at + c] += self.scale * slope * self.k[of_k + c];
                    dk[of_k + c] += self.scale * slope * self.q[at + c];
                    dv[of_k + c] += weight * dy[at + c];
                }
            }
        }
        [dq, dk, dv]
    }
}
