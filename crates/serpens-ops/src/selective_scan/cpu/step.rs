//! One position of many sequences. A state is (channels, N) in memory as the scan leaves it, so that the recurrence has
//! its lanes over the numbers of one channel, and nothing is transposed; Δ, D and the gate have theirs over channels.

use serpens_core::{Mat, MatMut, bf16};

use super::decay::{Rates, Transition, for_range, range_of};
use crate::shared::tasks::for_each_task;
use crate::simd::{Isa, Simd, Stored, WithSimd, load, silu, softplus, store};

/// Channels and slots of one task: the rows of Δ's weight for these channels stay in the first-level cache while all of
/// its slots meet them.
const CHANNELS: usize = 64;
const SLOTS: usize = 16;

/// Where the Δ of a step comes from, before bias and softplus.
#[derive(Clone, Copy, Debug)]
pub enum Delta<'a> {
    /// (slots, channels).
    Given(Mat<'a>),
    /// W low, with low (slots, R) and W (channels, R).
    LowRank(Mat<'a>, Mat<'a>),
    /// The same with W in bf16.
    LowRankBf16(Mat<'a>, Mat<'a, bf16>),
}

/// A step as the kernels of the processor take it. See [`super::super::StepOperands`].
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// (slots, channels).
    pub u: Mat<'a>,
    /// Before bias and softplus.
    pub delta: Delta<'a>,
    /// (channels, N).
    pub a: Mat<'a>,
    /// (slots, N).
    pub b: Mat<'a>,
    /// (slots, N).
    pub c: Mat<'a>,
    /// (channels).
    pub d: Option<&'a [f32]>,
    /// (slots, channels).
    pub z: Option<Mat<'a>>,
    /// (channels).
    pub delta_bias: Option<&'a [f32]>,
    /// See [`super::super::ScanOptions`].
    pub zero_order_hold: bool,
}

impl Step<'_> {
    fn check<H>(&self, state: &MatMut<H>, y: &MatMut) {
        let (slots, channels, n) = (self.u.rows(), self.u.cols(), self.a.cols());
        let shape = |mat: &Mat| (mat.rows(), mat.cols());
        match &self.delta {
            Delta::Given(delta) => assert_eq!(shape(delta), (slots, channels), "delta"),
            Delta::LowRank(low, w) => {
                assert_eq!(
                    (low.rows(), shape(w)),
                    (slots, (channels, low.cols())),
                    "delta"
                );
            }
            Delta::LowRankBf16(low, w) => {
                let shape = (w.rows(), w.cols());
                assert_eq!(
                    (low.rows(), shape),
                    (slots, (channels, low.cols())),
                    "delta"
                );
            }
        }
        assert_eq!(self.a.rows(), channels, "A");
        assert_eq!([shape(&self.b), shape(&self.c)], [(slots, n); 2], "B and C");
        let fits = |vector: Option<&[f32]>| vector.is_none_or(|vector| vector.len() == channels);
        assert!(fits(self.d) && fits(self.delta_bias), "D and the bias");
        assert!(self.z.is_none_or(|z| shape(&z) == (slots, channels)), "z");
        assert_eq!((state.rows(), state.cols()), (slots, channels * n), "state");
        assert_eq!((y.rows(), y.cols()), (slots, channels), "y");
    }
}

/// Moves the state (slots, channels · N) on by a position, rounded to its type, and computes `y` (slots, channels) from
/// what was not rounded.
///
/// # Panics
/// If the shapes disagree.
pub fn step<H: Stored>(operands: &Step, state: MatMut<H>, y: MatMut) {
    step_on(Isa::current(), operands, state, y);
}

/// [`step`] with a given instruction set.
pub(in super::super) fn step_on<H: Stored>(isa: Isa, operands: &Step, state: MatMut<H>, y: MatMut) {
    operands.check(&state, &y);
    let (slots, channels) = (y.rows(), y.cols());
    let of_slots = channels.div_ceil(CHANNELS);
    let tasks = slots.div_ceil(SLOTS) * of_slots;
    // Of each state an exponential, which takes about as long as two values that come from memory and go there.
    for_each_task(2 * state.rows() * state.cols(), tasks, |task| {
        let (slot, channel) = (task / of_slots * SLOTS, task % of_slots * CHANNELS);
        let (state, y) = (&state, &y);
        let slots = (slot, slots.min(slot + SLOTS));
        let channels = (channel, channels.min(channel + CHANNELS));
        let x = operands;
        match x.zero_order_hold {
            false => isa.run(Task::<H, false> {
                x,
                state,
                y,
                slots,
                channels,
            }),
            true => isa.run(Task::<H, true> {
                x,
                state,
                y,
                slots,
                channels,
            }),
        }
    });
}

/// Some channels of some slots.
struct Task<'a, H, const HELD: bool> {
    x: &'a Step<'a>,
    state: &'a MatMut<'a, H>,
    y: &'a MatMut<'a>,
    /// The first of its slots, and the one behind the last.
    slots: (usize, usize),
    /// Likewise its channels.
    channels: (usize, usize),
}

/// A value for each channel of a task, as many as there are vectors' lanes.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Values([f32; CHANNELS]);

impl<H: Stored, const HELD: bool> WithSimd for Task<'_, H, HELD> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (first, end) = self.channels;
        let n = self.x.a.cols();
        let a = |i: usize| self.x.a.row(first + i);
        // As integers, magnitudes are in order too, and a NaN is the largest.
        let magnitudes = (0..end - first).flat_map(|i| a(i).iter().map(|a| a.abs().to_bits()));
        let largest_a = s.splat_f32s(f32::from_bits(magnitudes.max().unwrap_or(0)));
        for slot in self.slots.0..self.slots.1 {
            let mut delta = Values([0.0; CHANNELS]);
            let delta = &mut delta.0[..];
            self.raw_delta(s, slot, &mut delta[..end - first]);
            let mut input = Values([0.0; CHANNELS]);
            let input = &mut input.0[..];
            let u = self.x.u.part(slot, first, end);
            for c in (0..end - first).step_by(S::F32_LANES) {
                let bias = self.x.delta_bias.map(|bias| load(s, &bias[first + c..end]));
                let raw = s.add_f32s(load(s, &delta[c..]), bias.unwrap_or(s.splat_f32s(0.0)));
                let value = softplus(s, raw).0;
                store(s, &mut delta[c..], value);
                let u = load(s, &u[c..]);
                let taken = if HELD { u } else { s.mul_f32s(value, u) };
                store(s, &mut input[c..], taken);
            }
            let range = range_of(s, bytemuck::cast_slice(delta), &[largest_a]);
            // SAFETY: these channels of this slot are the task's own.
            let (h, y) = unsafe {
                let h = self.state.part(slot, first * n, end * n);
                (h, self.y.part(slot, first, end))
            };
            let (b, c) = (self.x.b.row(slot), self.x.c.row(slot));
            for_range!(
                range,
                |RANGE| for (i, h) in h.chunks_exact_mut(n).enumerate() {
                    y[i] = advance::<S, H, RANGE, HELD>(s, a(i), [delta[i], input[i]], [b, c], h);
                }
            );
            self.finish(s, slot, u, y);
        }
    }
}

impl<H, const HELD: bool> Task<'_, H, HELD> {
    /// Δ of its channels before bias and softplus.
    #[inline(always)]
    fn raw_delta<S: Simd>(&self, s: S, slot: usize, delta: &mut [f32]) {
        let (first, end) = self.channels;
        match &self.x.delta {
            Delta::Given(given) => delta.copy_from_slice(given.part(slot, first, end)),
            Delta::LowRank(low, weight) => products(s, low.row(slot), weight, first, delta),
            Delta::LowRankBf16(low, weight) => products(s, low.row(slot), weight, first, delta),
        }
    }

    /// y = (y + D u) silu(z).
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, slot: usize, u: &[f32], y: &mut [f32]) {
        let (first, end) = self.channels;
        for c in (0..y.len()).step_by(S::F32_LANES) {
            let mut value = load(s, &y[c..]);
            if let Some(d) = self.x.d {
                value = s.mul_add_f32s(load(s, &d[first + c..end]), load(s, &u[c..]), value);
            }
            if let Some(z) = self.x.z {
                let z = load(s, &z.part(slot, first, end)[c..]);
                value = s.mul_f32s(value, silu(s, z));
            }
            store(s, &mut y[c..], value);
        }
    }
}

/// The products of some rows of a matrix, from `first` on, with x.
#[inline(always)]
fn products<S: Simd, W: Stored>(s: S, x: &[f32], w: &Mat<W>, first: usize, y: &mut [f32]) {
    const ROWS: usize = 4;
    for (i, y) in y.chunks_mut(ROWS).enumerate() {
        // Beyond the last row it is taken again.
        let row = |r: usize| w.row(first + i * ROWS + r.min(y.len() - 1));
        let rows: [&[W]; ROWS] = std::array::from_fn(row);
        let mut sums = [s.splat_f32s(0.0); ROWS];
        for c in (0..x.len()).step_by(S::F32_LANES) {
            let x = load(s, &x[c..]);
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = s.mul_add_f32s(W::lanes(s, &row[c..]), x, *sum);
            }
        }
        for (y, sum) in y.iter_mut().zip(sums) {
            *y = s.reduce_sum_f32s(sum);
        }
    }
}

/// Moves the state h of one channel on: h = exp(δ a) h + δu b, for δ its weight where u is held. Gives <c, h>.
#[inline(always)]
fn advance<S: Simd, H: Stored, const RANGE: u8, const HELD: bool>(
    s: S,
    a: &[f32],
    [delta, input]: [f32; 2],
    [b, c]: [&[f32]; 2],
    h: &mut [H],
) -> f32 {
    let [delta, input] = [delta, input].map(|value| s.splat_f32s(value));
    let mut sum = s.splat_f32s(0.0);
    let whole = h.len() - h.len() % S::F32_LANES;
    for n in (0..whole).step_by(S::F32_LANES) {
        let n = n..n + S::F32_LANES;
        // SAFETY: a, b, c and h have as many numbers. Checks take a part of the time here.
        unsafe {
            let a = a.get_unchecked(n.clone());
            let b_and_c = [b.get_unchecked(n.clone()), c.get_unchecked(n.clone())];
            let h = h.get_unchecked_mut(n);
            sum = advance_lanes::<S, H, RANGE, HELD>(s, a, [delta, input], b_and_c, h, sum);
        }
    }
    if whole < h.len() {
        let (a, b, c) = (&a[whole..], &b[whole..], &c[whole..]);
        let h = &mut h[whole..];
        sum = advance_lanes::<S, H, RANGE, HELD>(s, a, [delta, input], [b, c], h, sum);
    }
    s.reduce_sum_f32s(sum)
}

/// [`advance`] for a vector of numbers or fewer. Gives `sum` + c h for each lane.
#[inline(always)]
fn advance_lanes<S: Simd, H: Stored, const RANGE: u8, const HELD: bool>(
    s: S,
    a: &[f32],
    [delta, input]: [S::f32s; 2],
    [b, c]: [&[f32]; 2],
    h: &mut [H],
    sum: S::f32s,
) -> S::f32s {
    let rates = Rates::new::<S, 1, HELD>(s, &[[load(s, a)]]);
    let step = Transition::<_, 1>::new::<S, 1, RANGE, HELD>(s, delta, &rates, 0);
    let taken = s.mul_f32s(step.weigh::<S, HELD>(s, input), load(s, b));
    let next = s.mul_add_f32s(step.decay[0], H::lanes(s, h), taken);
    H::store(s, h, next);
    s.mul_add_f32s(load(s, c), next, sum)
}
