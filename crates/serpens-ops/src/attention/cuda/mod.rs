//! Attention on a GPU: by Hopper's tensor cores where they take the operands, else plainly.

mod hopper;
mod plain;
mod step;

pub use step::step;

use serpens_core::cuda::{DevicePtr, Properties, properties};
use serpens_core::{DType, Device, Result, View, ViewMut, kernel_params};

use super::{AttentionDims, AttentionOperands, OP};
use crate::check::{self, accessible};

/// An attention as the kernels of a GPU take it: of each position two words say where its sequence begins and ends.
pub type Attention<'a> = super::Attention<View<'a>, View<'a>>;

/// Columns of a head that the plain kernels, and the others, have registers for.
const MOST_COLUMNS: usize = 256;
const MOST_FAST_COLUMNS: usize = 128;
/// Positions of a sequence below which several share a tile.
const SHORT: usize = 64;

kernel_params! {
    struct AttentionParams {
        q: DevicePtr as "const IO*", // (queries, heads · HEAD)
        k: DevicePtr as "const IO*", // (keys, heads / group · HEAD)
        v: DevicePtr as "const IO*", // as k
        o: DevicePtr as "IO*", // as q
        lse: DevicePtr as "float*", // (heads, queries)
        documents: DevicePtr as "const int2*", // (queries): begin and end; unused without DOCUMENTS
        grad: DevicePtr as "const IO*", // of o
        rows: DevicePtr as "float*", // what the way back knows of each row of q
        dq_sums: DevicePtr as "float*", // (heads, tiles, SUMS)
        turns: DevicePtr as "int*", // (heads, tiles)
        ticket: DevicePtr as "int*",
        dq: DevicePtr as "IO*",
        dk: DevicePtr as "IO*",
        dv: DevicePtr as "IO*",
        q_stride: i64,
        k_stride: i64,
        v_stride: i64,
        o_stride: i64,
        grad_stride: i64,
        dq_stride: i64,
        dk_stride: i64,
        dv_stride: i64,
        queries: i32,
        length: i32, // queries of a sequence
        past: i32, // keys of each from before them
        stretch: i32, // queries after which tiles begin anew: those of a sequence, or all
        window: i32,
        heads: i32,
        group: i32, // heads of q that share one of k and v
        scale: f32,
    }
}

/// What each query finds, and the logarithms of the sums of exponentials: (heads, queries).
///
/// # Errors
/// More columns of a head than [`attention`](crate::attention::attention) says; whatever the device fails with.
pub fn forward(attention: &Attention, o: ViewMut, lse: ViewMut) -> Result<()> {
    let mut problem = Problem::new(attention, &[o.as_view()])?;
    problem.params.o = o.ptr();
    problem.params.o_stride = o.stride() as i64;
    problem.params.lse = lse.ptr();
    if problem.params.queries == 0 {
        return Ok(());
    }
    match problem.fast {
        true => hopper::forward(&problem),
        false => plain::forward(&problem),
    }
}

/// The gradients of q, k and v from `dy`, that of o.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    attention: &Attention,
    o: View,
    lse: View,
    dy: View,
    grads: AttentionOperands<ViewMut>,
) -> Result<()> {
    let AttentionOperands { q, k, v } = grads;
    let others = [o, dy, q.as_view(), k.as_view(), v.as_view()];
    let problem = Problem::new(attention, &others)?;
    if problem.params.queries == 0 {
        return Ok(());
    }
    let params = AttentionParams {
        o: o.ptr(),
        lse: lse.ptr(),
        grad: check::address(
            OP,
            "the output's gradient",
            &dy,
            problem.dtype,
            problem.device,
        )?,
        dq: q.ptr(),
        dk: k.ptr(),
        dv: v.ptr(),
        o_stride: o.stride() as i64,
        grad_stride: dy.stride() as i64,
        dq_stride: q.stride() as i64,
        dk_stride: k.stride() as i64,
        dv_stride: v.stride() as i64,
        ..problem.params
    };
    let problem = Problem { params, ..problem };
    match problem.fast {
        true => hopper::backward(&problem),
        false => plain::backward(&problem),
    }
}

/// An attention with what its kernels are told.
struct Problem {
    dims: AttentionDims,
    params: AttentionParams,
    dtype: DType,
    device: Device,
    documents: bool,
    /// Whether Hopper's tensor cores take it.
    fast: bool,
}

impl Problem {
    /// `others` are the matrices beside q, k and v that are read or written.
    fn new(attention: &Attention, others: &[View<'_>]) -> Result<Self> {
        let (dims, AttentionOperands { q, k, v }) = (attention.dims, attention.operands);
        let (dtype, device) = (q.dtype(), q.device());
        check::float(OP, "q", dtype)?;
        check::range(OP, "the columns of a head", 1..MOST_COLUMNS + 1, dims.head)?;
        let positions = dims.batch * (dims.past + dims.length);
        // No sequence is longer, and neither end of a span may pass 2³¹.
        let window = attention.window.min(dims.past + dims.length);
        check::int(OP, "the positions and the window", positions + window)?;
        let Properties { capability, .. } = properties(device)?;
        let reach = |views: &[View<'_>]| accessible(views, dims.head, 8);
        let fast = capability.0 == 9
            && dtype == DType::BF16
            && dims.head <= MOST_FAST_COLUMNS
            && reach(&[q, k, v])
            && reach(others);
        let (queries, documents) = (dims.queries(), attention.documents);
        let alone = documents.is_none() && dims.past + dims.length >= SHORT;
        let params = AttentionParams {
            q: q.ptr(),
            k: check::address(OP, "k", &k, dtype, device)?,
            v: check::address(OP, "v", &v, dtype, device)?,
            o: DevicePtr::NULL,
            lse: DevicePtr::NULL,
            documents: documents.map_or(DevicePtr::NULL, |documents| documents.ptr()),
            grad: DevicePtr::NULL,
            rows: DevicePtr::NULL,
            dq_sums: DevicePtr::NULL,
            turns: DevicePtr::NULL,
            ticket: DevicePtr::NULL,
            dq: DevicePtr::NULL,
            dk: DevicePtr::NULL,
            dv: DevicePtr::NULL,
            q_stride: q.stride() as i64,
            k_stride: k.stride() as i64,
            v_stride: v.stride() as i64,
            o_stride: 0,
            grad_stride: 0,
            dq_stride: 0,
            dk_stride: 0,
            dv_stride: 0,
            queries: queries as i32,
            length: dims.length as i32,
            past: dims.past as i32,
            stretch: if alone { dims.length } else { queries } as i32,
            window: window as i32,
            heads: dims.heads as i32,
            group: dims.group() as i32,
            scale: attention.scale,
        };
        Ok(Self {
            dims,
            params,
            dtype,
            device,
            documents: documents.is_some(),
            fast,
        })
    }

    /// Tiles of so many queries or keys, of all stretches.
    fn tiles(&self, rows: usize) -> usize {
        let stretch = self.params.stretch as usize;
        self.dims.queries() / stretch * stretch.div_ceil(rows)
    }

    /// What every program of the operation is told, with some numbers of its own.
    fn defines<const N: usize>(
        &self,
        own: [(&'static str, usize); N],
    ) -> Vec<(&'static str, String)> {
        let mut defines = vec![
            ("IO", self.dtype.cuda_name().to_owned()),
            ("HEAD", self.dims.head.to_string()),
            ("DOCUMENTS", u8::from(self.documents).to_string()),
        ];
        defines.extend(own.map(|(name, number)| (name, number.to_string())));
        defines
    }
}
