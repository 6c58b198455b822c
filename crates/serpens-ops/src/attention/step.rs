//! One token of each of many sequences.

use serpens_core::{DType, Device, Result, View, ViewMut};

use super::{OP, cpu, cuda, scale_of};
use crate::check;
use crate::rope::check_head;

/// How [`step`] reads its operands.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    /// Columns of a head.
    pub head: usize,
    /// Heads of k and v, which divide those of q.
    pub kv_heads: usize,
    /// What dot products are multiplied by, 1/√head where it is not said.
    pub scale: Option<f32>,
    /// Tokens that a query sees at most, its own among them.
    pub window: Option<usize>,
    /// The base of the angles by which q and k are turned first, as [`rope`](crate::rope::rope) says.
    pub rope: Option<f32>,
}

/// What a step reads and moves on, for S slots.
#[derive(Debug)]
pub struct StepOperands<'a> {
    /// (S, heads · head): the query of each slot's token.
    pub q: View<'a>,
    /// (S, kv_heads · head): its key.
    pub k: View<'a>,
    /// (S, kv_heads · head): its value.
    pub v: View<'a>,
    /// (S, 2) of u32: how many tokens each slot's sequence has read before, one more afterwards; and a number with
    /// which a GPU's blocks count themselves, 0 between steps.
    pub read: ViewMut<'a>,
    /// (S, capacity · kv_heads · head): the keys of the tokens that were read, turned.
    pub keys: ViewMut<'a>,
    /// Their values, as the keys.
    pub values: ViewMut<'a>,
}

/// The sizes of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepDims {
    /// Sequences.
    pub slots: usize,
    /// Heads of q.
    pub heads: usize,
    /// Heads of k and v.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head: usize,
    /// Tokens that a cache holds.
    pub capacity: usize,
    /// Tokens that a query sees at most, no more than the capacity.
    pub window: usize,
}

impl StepDims {
    /// Heads of q that share one of k and v.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Columns of a token's keys, or values.
    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head
    }
}

/// The next token of S sequences (slots), without a tape: its key and value go into the caches, and each head of its
/// query finds what [`attention`](super::attention()) says among the last tokens that it sees. A slot has the same bits
/// among any others; on a GPU among as many.
///
/// A cache is a ring: the token read as the n-th is in place n mod capacity. So sequences have no end where there is a
/// window of at most the capacity. Else whoever calls stops them at the capacity: beyond it a query sees so many of
/// the last tokens, which is no window that was asked for.
///
/// # Shapes
/// o (S, heads · head); rows of all operands may be parts of wider ones. All f32; on a GPU q, k, v and o may be bf16
/// together, and so may both caches
///
/// # Errors
/// Shapes that do not fit; operands of other types, or on different devices; heads of q that those of k do not divide;
/// what [`attention`](super::attention()) refuses of head, scale and window, and [`rope`](crate::rope::rope) of the head
/// and the base.
pub fn step(operands: StepOperands<'_>, o: ViewMut<'_>, options: &StepOptions) -> Result<()> {
    let dims = sizes(&operands, options)?;
    let scale = scale_of(options.scale, options.head)?;
    if let Some(base) = options.rope {
        check_head(OP, options.head, base)?;
    }
    check_views(&operands, &o.as_view(), &dims)?;
    match o.device() {
        Device::Cpu => {
            let step = cpu::Step {
                dims,
                token: [operands.q.mat()?, operands.k.mat()?, operands.v.mat()?],
                read: operands.read.as_view().mat_of()?,
                scale,
                rope: options.rope,
            };
            cpu::step(
                &step,
                operands.keys.mat()?,
                operands.values.mat()?,
                o.mat()?,
            );
            let mut read = operands.read.mat_of::<u32>()?;
            for slot in 0..dims.slots {
                let read = &mut read.row(slot)[0];
                *read = read.wrapping_add(1);
            }
            Ok(())
        }
        Device::Cuda(_) => cuda::step(&dims, operands, o, scale, options.rope),
    }
}

fn sizes(operands: &StepOperands<'_>, options: &StepOptions) -> Result<StepDims> {
    let StepOptions { head, kv_heads, .. } = *options;
    let (slots, width) = (operands.q.rows(), operands.q.cols());
    check::range(OP, "the columns of a head", 1..usize::MAX, head)?;
    check::range(OP, "the heads of k", 1..usize::MAX, kv_heads)?;
    check::multiple(OP, "the number of columns of q", head, width)?;
    let heads = width / head;
    check::range(OP, "the heads of q", 1..usize::MAX, heads)?;
    check::multiple(OP, "the heads of q", kv_heads, heads)?;
    let cached = operands.keys.cols();
    check::multiple(OP, "the columns of the cached k", kv_heads * head, cached)?;
    let capacity = cached / (kv_heads * head);
    check::range(OP, "the capacity", 1..1 << 30, capacity)?;
    let window = options.window.unwrap_or(capacity);
    check::range(OP, "the window", 1..usize::MAX, window)?;
    Ok(StepDims {
        slots,
        heads,
        kv_heads,
        head,
        capacity,
        window: window.min(capacity),
    })
}

/// Fails unless the operands of a step have these sizes and types that go together.
fn check_views(operands: &StepOperands<'_>, o: &View<'_>, dims: &StepDims) -> Result<()> {
    let (device, dtype) = (o.device(), operands.q.dtype());
    let (keys, values) = (operands.keys.as_view(), operands.values.as_view());
    let [width, kv_width] = [dims.heads * dims.head, dims.kv_width()];
    let cached = [dims.slots, dims.capacity * kv_width];
    check::float(OP, "q", dtype)?;
    check::float(OP, "the cached k", keys.dtype())?;
    let (own, stored) = ((dtype, device), (keys.dtype(), device));
    let read = operands.read.as_view();
    check::view(OP, "q", [dims.slots, width], own, &operands.q)?;
    check::view(OP, "k", [dims.slots, kv_width], own, &operands.k)?;
    check::view(OP, "v", [dims.slots, kv_width], own, &operands.v)?;
    check::view(
        OP,
        "the tokens read",
        [dims.slots, 2],
        (DType::U32, device),
        &read,
    )?;
    check::view(OP, "the cached k", cached, stored, &keys)?;
    check::view(OP, "the cached v", cached, stored, &values)?;
    check::view(OP, "o", [dims.slots, width], own, o)
}
