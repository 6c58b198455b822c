//! What an attention reads, and its sizes.

use crate::shared::operands::{Required, operands};

/// The sizes of one attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionDims {
    /// Number of sequences, or of rows of packed ones.
    pub batch: usize,
    /// Queries of each.
    pub length: usize,
    /// Keys of each from before its first query.
    pub past: usize,
    /// Heads of q.
    pub heads: usize,
    /// Heads of k and v, which divide those of q.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head: usize,
}

impl AttentionDims {
    /// Queries of all sequences.
    pub(super) fn queries(&self) -> usize {
        self.batch * self.length
    }

    /// Heads of q that share one of k and v.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

operands! {
    /// What an attention reads, or the gradients of that, each as a `T`.
    pub struct AttentionOperands(s: AttentionDims) {
        /// (batch, length, heads · head).
        q: Required "q" Rows [s.batch, s.length, s.heads * s.head],
        /// (batch, past + length, kv_heads · head).
        k: Required "k" Rows [s.batch, s.past + s.length, s.kv_heads * s.head],
        /// (batch, past + length, kv_heads · head).
        v: Required "v" Rows [s.batch, s.past + s.length, s.kv_heads * s.head],
    }
}

/// One attention: its sizes, what it reads, and what a query sees. `D` has, for every position, where the packed
/// sequence begins and ends that it is of.
#[derive(Clone, Copy, Debug)]
pub struct Attention<T, D> {
    /// The sizes.
    pub dims: AttentionDims,
    /// What is read.
    pub operands: AttentionOperands<T>,
    /// What dot products are multiplied by.
    pub scale: f32,
    /// Keys that a query sees at most, its own among them.
    pub window: usize,
    /// (batch · length): the first position of its sequence and the one behind the last.
    pub documents: Option<D>,
}
