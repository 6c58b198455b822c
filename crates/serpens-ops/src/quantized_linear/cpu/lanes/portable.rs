//! Plain loops, for any machine.

use half::f16;

use super::Lanes;

#[derive(Clone, Copy)]
pub(super) struct Portable;

type Quants = [u8; 64];
type Ints = [i32; 16];
type Floats = [f32; 16];

/// `sum` + Σ q x with the four bytes of x.
#[inline(always)]
fn dot(mut sum: Ints, q: Quants, x: u32, value: impl Fn(u8) -> i32) -> Ints {
    let x = x.to_le_bytes().map(|x| i32::from(x as i8));
    for (sum, q) in sum.iter_mut().zip(q.as_chunks::<4>().0) {
        for i in 0..4 {
            *sum += value(q[i]) * x[i];
        }
    }
    sum
}

impl Lanes for Portable {
    type Quants = Quants;
    type Ints = Ints;
    type Floats = Floats;

    const SUMS: usize = 1;
    const ASKS: bool = false;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn quants(self, from: *const u8) -> Quants {
        // SAFETY: 64 bytes, as the caller promises.
        unsafe { from.cast::<Quants>().read_unaligned() }
    }

    #[inline(always)]
    fn low(self, q: Quants) -> Quants {
        q.map(|q| q & 15)
    }

    #[inline(always)]
    fn high(self, q: Quants) -> Quants {
        q.map(|q| q >> 4)
    }

    #[inline(always)]
    fn six<const ROW: usize>(self, q: Quants, upper: Quants) -> Quants {
        std::array::from_fn(|i| (q[i] >> (ROW / 2 * 4) & 15) | (upper[i] >> (2 * ROW) & 3) << 4)
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Ints {
        [value; 16]
    }

    #[inline(always)]
    fn dot(self, sum: Ints, q: Quants, x: u32) -> Ints {
        dot(sum, q, x, i32::from)
    }

    #[inline(always)]
    fn dot_bytes(self, sum: Ints, q: Quants, x: u32) -> Ints {
        dot(sum, q, x, |q| i32::from(q) - 128)
    }

    #[inline(always)]
    unsafe fn halves(self, from: *const u8) -> Floats {
        // SAFETY: 32 bytes, as the caller promises.
        let halves = unsafe { from.cast::<[[u8; 2]; 16]>().read_unaligned() };
        halves.map(|half| f16::from_le_bytes(half).to_f32())
    }

    #[inline(always)]
    fn unsigned(self, bytes: [u8; 16]) -> Floats {
        bytes.map(f32::from)
    }

    #[inline(always)]
    fn signed(self, bytes: [u8; 16]) -> Floats {
        bytes.map(|byte| f32::from(byte as i8))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Floats {
        [value; 16]
    }

    #[inline(always)]
    fn floats(self, ints: Ints) -> Floats {
        ints.map(|int| int as f32)
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn to_array(self, floats: Floats) -> [f32; 16] {
        floats
    }
}
