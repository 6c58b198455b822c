//! Reused working memory: each thread keeps the buffers it has needed, so that a steady state allocates nothing.

use std::cell::RefCell;

use crate::selective_scan::operands::CHUNK;

/// One cache line; buffers are made of these so that vectors never straddle two.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` aligned values of unspecified content. May be nested.
pub(super) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // The largest buffer is last. It is taken out while in use: a thread that waits inside `f` may start on another
    // scan.
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let lines = len.div_ceil(LINE);
    if buffer.len() < lines {
        buffer.resize(lines, Line([0.0; LINE]));
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut buffer)[..len]);
    FREE.with_borrow_mut(|free| {
        free.push(buffer);
        free.sort_by_key(Vec::len);
    });
    result
}

/// Hands out a buffer, aligned values after aligned values.
pub(super) struct Arena<'a>(pub &'a mut [f32]);

/// The room that `len` values take in an [`Arena`].
pub(super) fn room(len: usize) -> usize {
    len.next_multiple_of(LINE)
}

impl<'a> Arena<'a> {
    /// The next `len` values.
    #[inline(always)]
    pub(super) fn take(&mut self, len: usize) -> &'a mut [f32] {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut(room(len));
        self.0 = rest;
        &mut taken[..len]
    }

    /// The next `len` vectors.
    #[inline(always)]
    pub(super) fn vectors<V: bytemuck::Pod>(&mut self, len: usize) -> &'a mut [V] {
        bytemuck::cast_slice_mut(self.take(len * (size_of::<V>() / size_of::<f32>())))
    }

    /// A vector for each step of a chunk.
    #[inline(always)]
    pub(super) fn steps<V: bytemuck::Pod>(&mut self) -> &'a mut [V; CHUNK] {
        let vectors = self.vectors(CHUNK);
        vectors.try_into().expect("taken with this length")
    }
}
