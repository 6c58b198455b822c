//! AVX2: products of bytes in pairs, which fit into 16 bits here, and the pairs summed.

use std::arch::x86_64::*;

use super::{Lanes, OnLanes};

#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Runs `op`.
///
/// # Safety
/// The processor has these.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<Op: OnLanes>(op: Op) {
    op.run(Avx2(()));
}

/// Expressions of intrinsics of this file's instruction set.
macro_rules! on_avx2 {
    ($expression:expr) => {
        // SAFETY: an `Avx2` exists only inside `run`, whose caller has promised the instruction set.
        unsafe { $expression }
    };
}

/// Rows 0 to 7, and 8 to 15.
type Pair<T> = [T; 2];

#[inline(always)]
fn both<T>(f: impl Fn(usize) -> T) -> Pair<T> {
    [f(0), f(1)]
}

impl Avx2 {
    /// `sum` + the sums of four products, of unsigned by signed bytes, where those of two are below 2¹⁵.
    #[inline(always)]
    fn add_products(self, sum: __m256i, q: __m256i, x: __m256i) -> __m256i {
        on_avx2!({
            let pairs = _mm256_maddubs_epi16(q, x);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }

    /// Both halves of sixteen bytes, widened.
    #[inline(always)]
    fn widened(self, bytes: [u8; 16], widen: impl Fn(__m128i) -> __m256i) -> Pair<__m256> {
        on_avx2!({
            let bytes = std::mem::transmute::<[u8; 16], __m128i>(bytes);
            let halves = [bytes, _mm_unpackhi_epi64(bytes, bytes)];
            both(|i| _mm256_cvtepi32_ps(widen(halves[i])))
        })
    }
}

impl Lanes for Avx2 {
    type Quants = Pair<__m256i>;
    type Ints = Pair<__m256i>;
    type Floats = Pair<__m256>;

    const SUMS: usize = 4;
    const ASKS: bool = true;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn quants(self, from: *const u8) -> Self::Quants {
        // SAFETY: 64 bytes, as the caller promises.
        unsafe { from.cast::<Self::Quants>().read_unaligned() }
    }

    #[inline(always)]
    fn low(self, q: Self::Quants) -> Self::Quants {
        both(|i| on_avx2!(_mm256_and_si256(q[i], _mm256_set1_epi8(15))))
    }

    #[inline(always)]
    fn high(self, q: Self::Quants) -> Self::Quants {
        self.low(both(|i| on_avx2!(_mm256_srli_epi16::<4>(q[i]))))
    }

    #[inline(always)]
    fn six<const ROW: usize>(self, q: Self::Quants, upper: Self::Quants) -> Self::Quants {
        let lower = if ROW < 2 { self.low(q) } else { self.high(q) };
        both(|i| {
            on_avx2!({
                let upper = match ROW {
                    0 => _mm256_slli_epi16::<4>(upper[i]),
                    1 => _mm256_slli_epi16::<2>(upper[i]),
                    2 => upper[i],
                    _ => _mm256_srli_epi16::<2>(upper[i]),
                };
                let upper = _mm256_and_si256(upper, _mm256_set1_epi8(0x30));
                _mm256_or_si256(lower[i], upper)
            })
        })
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::Ints {
        [on_avx2!(_mm256_set1_epi32(value)); 2]
    }

    #[inline(always)]
    fn dot(self, sum: Self::Ints, q: Self::Quants, x: u32) -> Self::Ints {
        let x = on_avx2!(_mm256_set1_epi32(x as i32));
        both(|i| self.add_products(sum[i], q[i], x))
    }

    /// |q| times x with the sign of q: at most 128 · 127 · 2 for two.
    #[inline(always)]
    fn dot_bytes(self, sum: Self::Ints, q: Self::Quants, x: u32) -> Self::Ints {
        both(|i| {
            on_avx2!({
                let q = _mm256_xor_si256(q[i], _mm256_set1_epi8(-128));
                let x = _mm256_sign_epi8(_mm256_set1_epi32(x as i32), q);
                self.add_products(sum[i], _mm256_abs_epi8(q), x)
            })
        })
    }

    #[inline(always)]
    unsafe fn halves(self, from: *const u8) -> Self::Floats {
        // SAFETY: 32 bytes, as the caller promises.
        let [low, high] = unsafe { from.cast::<Pair<__m128i>>().read_unaligned() };
        on_avx2!([_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)])
    }

    #[inline(always)]
    fn unsigned(self, bytes: [u8; 16]) -> Self::Floats {
        self.widened(bytes, |half| on_avx2!(_mm256_cvtepu8_epi32(half)))
    }

    #[inline(always)]
    fn signed(self, bytes: [u8; 16]) -> Self::Floats {
        self.widened(bytes, |half| on_avx2!(_mm256_cvtepi8_epi32(half)))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        [on_avx2!(_mm256_set1_ps(value)); 2]
    }

    #[inline(always)]
    fn floats(self, ints: Self::Ints) -> Self::Floats {
        both(|i| on_avx2!(_mm256_cvtepi32_ps(ints[i])))
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        both(|i| on_avx2!(_mm256_mul_ps(a[i], b[i])))
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        both(|i| on_avx2!(_mm256_fmadd_ps(a[i], b[i], c[i])))
    }

    #[inline(always)]
    fn to_array(self, floats: Self::Floats) -> [f32; 16] {
        // SAFETY: both are sixteen f32.
        unsafe { std::mem::transmute(floats) }
    }
}
