//! NEON with dot products: one instruction sums four products of bytes for four rows.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Lanes, OnLanes};

#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// Runs `op`.
///
/// # Safety
/// The processor has these.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run<Op: OnLanes>(op: Op) {
    op.run(Neon(()));
}

/// Expressions of intrinsics of this file's instruction set.
macro_rules! on_neon {
    ($expression:expr) => {
        // SAFETY: a `Neon` exists only inside `run`, whose caller has promised the instruction set.
        unsafe { $expression }
    };
}

/// Rows 0 to 3, 4 to 7, and so on.
type Four<T> = [T; 4];

#[inline(always)]
fn four<T>(f: impl Fn(usize) -> T) -> Four<T> {
    [f(0), f(1), f(2), f(3)]
}

impl Neon {
    /// `sum` + the sums of four products of signed bytes.
    #[inline(always)]
    fn add_products(self, mut sum: int32x4_t, q: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: registers alone are read and written, and the processor has the instruction; the compiler's own name
        // for it is not stable.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {q:v}.16b, {x:v}.16b",
                sum = inout(vreg) sum,
                q = in(vreg) q,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    /// Sixteen numbers of 16 bits as floats.
    #[inline(always)]
    fn wide(self, halves: [int16x8_t; 2]) -> Four<float32x4_t> {
        on_neon!({
            let [low, high] = halves;
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        })
    }
}

impl Lanes for Neon {
    type Quants = Four<uint8x16_t>;
    type Ints = Four<int32x4_t>;
    type Floats = Four<float32x4_t>;

    const SUMS: usize = 4;
    const ASKS: bool = false;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn quants(self, from: *const u8) -> Self::Quants {
        // SAFETY: 64 bytes, as the caller promises.
        four(|i| unsafe { vld1q_u8(from.add(16 * i)) })
    }

    #[inline(always)]
    fn low(self, q: Self::Quants) -> Self::Quants {
        four(|i| on_neon!(vandq_u8(q[i], vdupq_n_u8(15))))
    }

    #[inline(always)]
    fn high(self, q: Self::Quants) -> Self::Quants {
        four(|i| on_neon!(vshrq_n_u8::<4>(q[i])))
    }

    #[inline(always)]
    fn six<const ROW: usize>(self, q: Self::Quants, upper: Self::Quants) -> Self::Quants {
        let lower = if ROW < 2 { self.low(q) } else { self.high(q) };
        four(|i| {
            on_neon!({
                let upper = match ROW {
                    0 => vshlq_n_u8::<4>(upper[i]),
                    1 => vshlq_n_u8::<2>(upper[i]),
                    2 => upper[i],
                    _ => vshrq_n_u8::<2>(upper[i]),
                };
                vorrq_u8(lower[i], vandq_u8(upper, vdupq_n_u8(0x30)))
            })
        })
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::Ints {
        [on_neon!(vdupq_n_s32(value)); 4]
    }

    #[inline(always)]
    fn dot(self, sum: Self::Ints, q: Self::Quants, x: u32) -> Self::Ints {
        let x = on_neon!(vreinterpretq_s8_u32(vdupq_n_u32(x)));
        let signed = |q| on_neon!(vreinterpretq_s8_u8(q));
        four(|i| self.add_products(sum[i], signed(q[i]), x))
    }

    #[inline(always)]
    fn dot_bytes(self, sum: Self::Ints, q: Self::Quants, x: u32) -> Self::Ints {
        let flipped = four(|i| on_neon!(veorq_u8(q[i], vdupq_n_u8(0x80))));
        self.dot(sum, flipped, x)
    }

    #[inline(always)]
    unsafe fn halves(self, from: *const u8) -> Self::Floats {
        four(|i| {
            // SAFETY: 32 bytes, as the caller promises.
            let halves = unsafe { from.add(8 * i).cast::<uint16x4_t>().read_unaligned() };
            on_neon!(vcvt_f32_f16(vreinterpret_f16_u16(halves)))
        })
    }

    #[inline(always)]
    fn unsigned(self, bytes: [u8; 16]) -> Self::Floats {
        self.wide(on_neon!({
            let bytes = vld1q_u8(bytes.as_ptr());
            [
                vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))),
                vreinterpretq_s16_u16(vmovl_high_u8(bytes)),
            ]
        }))
    }

    #[inline(always)]
    fn signed(self, bytes: [u8; 16]) -> Self::Floats {
        self.wide(on_neon!({
            let bytes = vreinterpretq_s8_u8(vld1q_u8(bytes.as_ptr()));
            [vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)]
        }))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        [on_neon!(vdupq_n_f32(value)); 4]
    }

    #[inline(always)]
    fn floats(self, ints: Self::Ints) -> Self::Floats {
        four(|i| on_neon!(vcvtq_f32_s32(ints[i])))
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        four(|i| on_neon!(vmulq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        four(|i| on_neon!(vfmaq_f32(c[i], a[i], b[i])))
    }

    #[inline(always)]
    fn to_array(self, floats: Self::Floats) -> [f32; 16] {
        // SAFETY: both are sixteen f32.
        unsafe { std::mem::transmute(floats) }
    }
}
