//! What a scan's task works on, cut from one buffer of scratch.

use crate::selective_scan::operands::CHUNK;
use crate::shared::scratch::LINE;

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
