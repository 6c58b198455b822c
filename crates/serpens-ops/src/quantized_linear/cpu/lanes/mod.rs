//! Vectors over the sixteen rows of a panel, on each instruction set that has integer products of its own.
//!
//! The sets beside [`crate::simd`]'s: what matters here is how four products of bytes are summed, which its lanes know
//! nothing of. Every function is exact or rounded once as IEEE 754 says, so all sets give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::sync::OnceLock;

use crate::simd::Isa;

/// Sixteen rows of W beside each other.
///
/// # Safety
/// Values of a set other than the portable one exist only where [`Set::run`] has seen that the processor has it.
/// Pointers given to the unsafe methods are valid for what these read or write; none need be aligned.
pub(crate) trait Lanes: Copy {
    /// Four bytes of each row: quants of four columns.
    type Quants: Copy;
    /// An i32 for each row.
    type Ints: Copy;
    /// An f32 for each row.
    type Floats: Copy;

    /// Sums of integers for which there are registers, besides what else is needed.
    const SUMS: usize;
    /// Whether memory has to be asked for bytes ahead: the processor does not see by itself where reads of few bytes
    /// go.
    const ASKS: bool;
    /// What [`Lanes::dot_bytes`] takes quants to be larger by than they are.
    const OFFSET: i32;

    /// 64 bytes.
    unsafe fn quants(self, from: *const u8) -> Self::Quants;
    /// The lower four bits of every byte.
    fn low(self, q: Self::Quants) -> Self::Quants;
    /// The upper four bits of every byte.
    fn high(self, q: Self::Quants) -> Self::Quants;
    /// The lower four bits of every byte of `q`, or the upper ones for `ROW` 2 and 3, and above them the bits
    /// 2·`ROW` and 2·`ROW` + 1 of `upper`.
    fn six<const ROW: usize>(self, q: Self::Quants, upper: Self::Quants) -> Self::Quants;

    /// The same number for each row.
    fn splat_int(self, value: i32) -> Self::Ints;
    /// `sum` + Σ q x over the four columns; q below 64, x four signed bytes, none -128.
    fn dot(self, sum: Self::Ints, q: Self::Quants, x: u32) -> Self::Ints;
    /// `sum` + Σ (q - 128 + [`Lanes::OFFSET`]) x over the four columns; x as for [`Lanes::dot`].
    fn dot_bytes(self, sum: Self::Ints, q: Self::Quants, x: u32) -> Self::Ints;

    /// Sixteen numbers in half precision.
    unsafe fn halves(self, from: *const u8) -> Self::Floats;
    /// Unsigned bytes.
    fn unsigned(self, bytes: [u8; 16]) -> Self::Floats;
    /// Signed bytes.
    fn signed(self, bytes: [u8; 16]) -> Self::Floats;
    /// The same number for each row.
    fn splat(self, value: f32) -> Self::Floats;
    /// The nearest floats.
    fn floats(self, ints: Self::Ints) -> Self::Floats;
    /// a b.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a b + c, rounded once.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The numbers in order.
    fn to_array(self, floats: Self::Floats) -> [f32; 16];
}

/// What runs on the lanes of a set. Everything below must be `#[inline(always)]`, so that it is compiled for the set.
pub(crate) trait OnLanes {
    /// Does it.
    fn run<L: Lanes>(self, lanes: L);
}

/// An instruction set with a [`Lanes`] of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// Any machine.
    Portable,
    /// AVX2, with products of bytes in two steps.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// NEON with dot products.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Set {
    /// The best set of a general one; `None` where this machine lacks what it needs.
    fn of(isa: Isa) -> Option<Set> {
        match isa {
            Isa::Portable => Some(Set::Portable),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(Set::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512vnni").then_some(Set::Vnni),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("dotprod").then_some(Set::Neon),
        }
    }

    /// The sets that this machine can run, the best last.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Set> {
        Isa::available().into_iter().filter_map(Set::of).collect()
    }

    /// The best set that is no better than [`Isa::current`].
    pub(crate) fn current() -> Set {
        static CURRENT: OnceLock<Set> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let (current, all) = (Isa::current(), Isa::available());
            let upto = all.iter().take_while(|isa| **isa != current);
            let sets = upto.chain([&current]).filter_map(|isa| Set::of(*isa));
            sets.last().unwrap_or(Set::Portable)
        })
    }

    /// Runs `op` on the lanes of this set.
    ///
    /// # Safety
    /// The set is one of those [`Set::available`].
    #[inline]
    pub(crate) unsafe fn run<Op: OnLanes>(self, op: Op) {
        match self {
            Set::Portable => op.run(portable::Portable),
            // SAFETY: the processor has the set, as the caller promises.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { avx2::run(op) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Vnni => unsafe { vnni::run(op) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Set::Neon => unsafe { neon::run(op) },
        }
    }
}
