//! Who looked at whom in a layer of attention.

use std::ops::Range;

use serpens_core::{Tensor, Var};
use serpens_ops::elementwise::scale;
use serpens_ops::linear::{ProductPrecision, linear};
use serpens_ops::softmax::softmax;

use crate::Result;

/// What the tokens of a sequence, or of a chunk of one, looked at. All weights of a long sequence fit no memory: what
/// they are computed from is kept, and they are made of some queries at a time.
#[derive(Clone, Debug)]
pub struct AttentionTrace {
    /// The place of the first query in the sequence.
    pub first: usize,
    pub(super) window: Option<usize>,
    pub(super) head: usize,
    pub(super) queries: Tensor, // (queries, heads · head), turned as they are multiplied
    pub(super) keys: Tensor, // (keys, kv_heads · head), likewise: the queries' own and those before that they see
}

impl AttentionTrace {
    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.queries.shape().cols() / self.head
    }

    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.queries.shape()[0]
    }

    /// The place of the first key in the sequence.
    pub fn first_key(&self) -> usize {
        self.first + self.queries() - self.keys.shape()[0]
    }

    /// What a head gives: softmax_j(⟨q_t, k_j⟩ / √head) of some of the queries t over the keys j from the first to that
    /// of the last of them; 0 where a query does not see the key.
    ///
    /// # Shapes
    /// (rows, keys) of f32
    ///
    /// # Errors
    /// A head or queries that there are not; values that are not f32 on the processor, where traces are taken; memory.
    pub fn weights(&self, head: usize, rows: Range<usize>) -> Result<Tensor> {
        let columns = |head: usize| head * self.head..(head + 1) * self.head;
        let shared_by = self.queries.shape().cols() / self.keys.shape().cols();
        let past = self.first - self.first_key();
        let keys = past + rows.end;
        let q = Var::from(self.queries.narrow(rows.clone())?).columns(columns(head))?;
        let k = Var::from(self.keys.narrow(0..keys)?).columns(columns(head / shared_by))?;
        let scores = linear(&q, &k, None, ProductPrecision::Full)?;
        let mut scores = scale(&scores, (self.head as f32).sqrt().recip())?.into_tensor()?;
        let each = scores.make_mut::<f32>()?.chunks_mut(keys);
        for (scores, own) in each.zip(past + rows.start..) {
            let out_of_sight = self
                .window
                .map_or(0, |window| (own + 1).saturating_sub(window));
            scores[..out_of_sight].fill(f32::NEG_INFINITY);
            scores[own + 1..].fill(f32::NEG_INFINITY);
        }
        Ok(softmax(&scores.into())?.into_tensor()?)
    }
}
