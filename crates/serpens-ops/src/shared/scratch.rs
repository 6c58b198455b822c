//! Reused working memory: each thread keeps the buffers it has needed, so that a steady state allocates nothing.

use std::cell::RefCell;

/// One cache line; buffers are made of these so that vectors never straddle two.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Values of a cache line.
pub(crate) const LINE: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` aligned values of unspecified content. May be nested.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // The largest buffer is last. It is taken out while in use: a thread that waits for others inside `f` may be
    // given a task that asks for scratch too.
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
