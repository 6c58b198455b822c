//! AVX-512 with VNNI: one instruction sums four products of bytes for sixteen rows.

use std::arch::x86_64::*;

use super::{Lanes, OnLanes};

#[derive(Clone, Copy)]
pub(super) struct Vnni(());

/// Runs `op`.
///
/// # Safety
/// The processor has these.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run<Op: OnLanes>(op: Op) {
    op.run(Vnni(()));
}

/// Expressions of intrinsics of this file's instruction set.
macro_rules! on_vnni {
    ($expression:expr) => {
        // SAFETY: a `Vnni` exists only inside `run`, whose caller has promised the instruction set.
        unsafe { $expression }
    };
}

impl Lanes for Vnni {
    type Quants = __m512i;
    type Ints = __m512i;
    type Floats = __m512;

    const SUMS: usize = 16;
    const ASKS: bool = false;
    // The instruction takes quants without a sign.
    const OFFSET: i32 = 128;

    #[inline(always)]
    unsafe fn quants(self, from: *const u8) -> __m512i {
        // SAFETY: 64 bytes, as the caller promises.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn low(self, q: __m512i) -> __m512i {
        on_vnni!(_mm512_and_si512(q, _mm512_set1_epi8(15)))
    }

    #[inline(always)]
    fn high(self, q: __m512i) -> __m512i {
        self.low(on_vnni!(_mm512_srli_epi16::<4>(q)))
    }

    #[inline(always)]
    fn six<const ROW: usize>(self, q: __m512i, upper: __m512i) -> __m512i {
        let lower = if ROW < 2 { self.low(q) } else { self.high(q) };
        let upper = on_vnni!(match ROW {
            0 => _mm512_slli_epi16::<4>(upper),
            1 => _mm512_slli_epi16::<2>(upper),
            2 => upper,
            _ => _mm512_srli_epi16::<2>(upper),
        });
        // lower | upper & mask
        on_vnni!(_mm512_ternarylogic_epi32::<0xf8>(
            lower,
            upper,
            _mm512_set1_epi8(0x30)
        ))
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> __m512i {
        on_vnni!(_mm512_set1_epi32(value))
    }

    #[inline(always)]
    fn dot(self, sum: __m512i, q: __m512i, x: u32) -> __m512i {
        on_vnni!(_mm512_dpbusd_epi32(sum, q, _mm512_set1_epi32(x as i32)))
    }

    #[inline(always)]
    fn dot_bytes(self, sum: __m512i, q: __m512i, x: u32) -> __m512i {
        self.dot(sum, q, x)
    }

    #[inline(always)]
    unsafe fn halves(self, from: *const u8) -> __m512 {
        // SAFETY: 32 bytes, as the caller promises.
        unsafe { _mm512_cvtph_ps(from.cast::<__m256i>().read_unaligned()) }
    }

    #[inline(always)]
    fn unsigned(self, bytes: [u8; 16]) -> __m512 {
        on_vnni!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(
            bytes.as_ptr().cast()
        ))))
    }

    #[inline(always)]
    fn signed(self, bytes: [u8; 16]) -> __m512 {
        on_vnni!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(
            bytes.as_ptr().cast()
        ))))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        on_vnni!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn floats(self, ints: __m512i) -> __m512 {
        on_vnni!(_mm512_cvtepi32_ps(ints))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        on_vnni!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        on_vnni!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn to_array(self, floats: __m512) -> [f32; 16] {
        // SAFETY: both are sixteen f32.
        unsafe { std::mem::transmute(floats) }
    }
}
