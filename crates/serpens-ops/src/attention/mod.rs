//! Causal attention of several heads: each query sees the keys of its sequence up to its own, or the last of them.
//!
//! o\[b, t, h\] = Σ_j p_j v\[b, j, h / g\], p = softmax_j(scale · ⟨q\[b, t, h\], k\[b, j, h / g\]⟩), over the keys j
//! with past + t − window < j ≤ past + t that are of the query's sequence; g = heads / kv_heads heads of q share one
//! of k and v.
//!
//! - q, o: (batch, length, heads · head); k, v: (batch, past + length, kv_heads · head). All f32, on a GPU all f32 or
//!   all bf16, and each may be columns of wider rows, such as of one projection. On a GPU a head has at most 256
//!   columns.
//! - `past`: keys from before the first query, such as a cache has: so many as k has more positions than q. A sequence
//!   in chunks, each with the keys of those before it, is the same as the whole. No gradients go to or through them.
//! - `starts`: where packed sequences start; every row begins with one. No position sees another sequence, but what is
//!   not finite in v or do of one may become NaN in others.
//! - The weights p are never in memory as a whole: a block of queries walks blocks of keys with what is known of the
//!   softmax so far (Milakov and Gimelshein 2018; Dao et al., FlashAttention, 2022). The backward pass computes them
//!   again from q, k and the logarithm of each query's sum of exponentials:
//!
//!   dv = Σ p · do, dS = p (⟨do, v⟩ − ⟨do, o⟩), dq = scale Σ_j dS k, dk = scale Σ_t dS q, the latter and dv over the
//!   heads that share them, in order.
//!
//! [`step`](step()) computes one token of many sequences over caches of keys and values that it moves on in place.
//!
//! With bf16 on Hopper, heads of a multiple of 8 up to 128 columns in rows aligned to 16 bytes go to its tensor cores:
//! sums in f32, p and dS as bf16 where they are multiplied. dq's sums take 4 bytes for each of its values in passing.

pub mod cpu;
pub mod cuda;
mod operands;
mod step;
#[cfg(test)]
pub(crate) mod tests;

use serpens_core::tape::{BackwardContext, tracked};
use serpens_core::{DType, Device, Error, Result, Tensor, Var};

pub use operands::{Attention, AttentionDims, AttentionOperands};
pub use step::{StepDims, StepOperands, StepOptions, step};

use crate::record::record;
use crate::{Starts, check};

const OP: &str = "attention";

/// How [`attention`] reads its operands.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions<'a> {
    /// Columns of a head.
    pub head: usize,
    /// What dot products are multiplied by, 1/√head where it is not said.
    pub scale: Option<f32>,
    /// Keys that a query sees at most, its own among them.
    pub window: Option<usize>,
    /// Where packed sequences start; only where there are no keys from before the queries.
    pub starts: Option<&'a Starts>,
}

/// What each query finds among the keys that it sees; see the head of this module.
///
/// # Shapes
/// q (batch, length, heads · head), k and v (batch, past + length, kv_heads · head) → (batch, length, heads · head)
///
/// # Errors
/// Shapes and types that do not fit; heads of q that those of k do not divide; on a GPU heads of more than 256 columns;
/// a window of 0; a scale that is not positive; beside keys from before the queries packed sequences, or gradients
/// ([`Error::Surplus`]).
pub fn attention(q: &Var, k: &Var, v: &Var, options: &AttentionOptions<'_>) -> Result<Var> {
    let operands = AttentionOperands { q, k, v };
    let dims = sizes(&operands, options.head)?;
    operands.check(OP, &dims)?;
    let device = q.device();
    let scale = scale_of(options.scale, options.head)?;
    // Wider than any sequence is the same as none; and positions are whole numbers of 32 bits.
    let most =
        check::int(OP, "the positions", dims.batch * (dims.past + dims.length))? as usize + 1;
    let window = options.window.unwrap_or(most).min(most);
    check::range(OP, "the window", 1..usize::MAX, window)?;
    let surplus = |what| Err(Error::Surplus { op: OP, what });
    if dims.past > 0 && options.starts.is_some() {
        return surplus("packed sequences beside keys from before the queries");
    }
    if dims.past > 0 && tracked(&operands.into_array()) {
        return surplus("a gradient beside keys from before the queries");
    }
    let attention = Attention {
        dims,
        operands: operands.map(|_, operand| operand.detach()),
        scale,
        window,
        documents: options
            .starts
            .map(|starts| Documents::new(starts, &dims, device))
            .transpose()?,
    };
    let mut o = Tensor::empty(q.shape(), q.dtype(), device)?;
    let mut lse = Tensor::empty([dims.heads, dims.queries()], DType::F32, device)?;
    match device {
        Device::Cpu => cpu::forward(&attention.on_cpu()?, o.mat_mut()?, lse.make_mut()?),
        Device::Cuda(_) => cuda::forward(&attention.on_cuda()?, o.view_mut()?, lse.view_mut()?)?,
    }
    let (y, keep) = (o.clone(), move || (attention, o, lse));
    record(OP, &operands.into_array(), y, keep, backward)
}

/// What dot products are multiplied by.
fn scale_of(scale: Option<f32>, head: usize) -> Result<f32> {
    let scale = scale.unwrap_or((head as f32).sqrt().recip());
    if scale > 0.0 && scale.is_finite() {
        return Ok(scale);
    }
    Err(Error::Value {
        op: OP,
        what: "the scale",
        expected: "a positive number",
        got: scale.into(),
    })
}

/// The sizes, by the operands' last two axes.
fn sizes(operands: &AttentionOperands<&Var>, head: usize) -> Result<AttentionDims> {
    let [batch, length, width] = operands
        .q
        .shape()
        .axes(OP, "q", "(batch, length, columns)")?;
    let [_, keys, kv_width] = operands
        .k
        .shape()
        .axes(OP, "k", "(batch, length, columns)")?;
    check::range(OP, "the columns of a head", 1..usize::MAX, head)?;
    check::multiple(OP, "the number of columns of q", head, width)?;
    check::multiple(OP, "the number of columns of k", head, kv_width)?;
    let (heads, kv_heads) = (width / head, kv_width / head);
    check::range(OP, "the heads of q", 1..usize::MAX, heads)?;
    check::range(OP, "the heads of k", 1..usize::MAX, kv_heads)?;
    check::multiple(OP, "the heads of q", kv_heads, heads)?;
    check::range(OP, "the positions of k", length..usize::MAX, keys)?;
    Ok(AttentionDims {
        batch,
        length,
        past: keys - length,
        heads,
        kv_heads,
        head,
    })
}

/// Where the sequence begins and ends that a position is of, for all positions, as a device's kernels take it.
enum Documents {
    Cpu(Vec<[u32; 2]>),
    /// (batch · length · 2).
    Cuda(Tensor),
}

impl Documents {
    fn new(starts: &Starts, dims: &AttentionDims, device: Device) -> Result<Self> {
        let flags = starts.flags(OP, dims.batch, dims.length, false)?;
        let mut all = vec![[0; 2]; flags.len()];
        let (mut begin, mut end) = (0, flags.len() as u32);
        for (t, &starts) in flags.iter().enumerate() {
            if starts || t % dims.length == 0 {
                begin = t as u32;
            }
            all[t][0] = begin;
        }
        for (t, document) in all.iter_mut().enumerate().rev() {
            document[1] = end;
            if document[0] as usize == t {
                end = document[0];
            }
        }
        Ok(match device {
            Device::Cpu => Self::Cpu(all),
            Device::Cuda(_) => {
                let words = all.as_flattened();
                Self::Cuda(Tensor::from_slice([words.len()], words, device)?)
            }
        })
    }
}

type Recorded = Attention<Var, Documents>;

impl Recorded {
    fn with<T, D>(&self, operands: AttentionOperands<T>, documents: Option<D>) -> Attention<T, D> {
        Attention {
            dims: self.dims,
            operands,
            scale: self.scale,
            window: self.window,
            documents,
        }
    }

    /// As the kernels of the processor take it.
    fn on_cpu(&self) -> Result<cpu::Attention<'_>> {
        let documents = self
            .documents
            .as_ref()
            .and_then(|documents| match documents {
                Documents::Cpu(all) => Some(&all[..]),
                Documents::Cuda(_) => None,
            });
        Ok(self.with(self.operands.mats()?, documents))
    }

    /// As the kernels of a GPU take it.
    fn on_cuda(&self) -> Result<cuda::Attention<'_>> {
        let documents = self
            .documents
            .as_ref()
            .and_then(|documents| match documents {
                Documents::Cpu(_) => None,
                Documents::Cuda(all) => Some(all.view()),
            });
        Ok(self.with(self.operands.views()?, documents))
    }
}

fn backward(
    (attention, o, lse): (Recorded, Tensor, Tensor),
    dy: Tensor,
    context: &mut BackwardContext<'_, '_>,
) -> Result<()> {
    let grads = attention.operands.pick(context.overwrite([0, 1, 2])?);
    match dy.device() {
        Device::Cpu => {
            let grads = grads.try_map(|_, grad| grad.mat())?;
            cpu::backward(
                &attention.on_cpu()?,
                o.mat()?,
                lse.as_slice()?,
                dy.mat()?,
                grads,
            );
            Ok(())
        }
        Device::Cuda(_) => cuda::backward(
            &attention.on_cuda()?,
            o.view(),
            lse.view(),
            dy.view(),
            grads,
        ),
    }
}
