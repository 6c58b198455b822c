//! SIMD lanes over channels, with the instruction set chosen at run time.
//!
//! A kernel is a struct that implements [`WithSimd`]: its `with_simd<S: Simd>` is compiled once for AVX-512 (16 lanes),
//! AVX2 (8 lanes), NEON (4 lanes) and a portable form (1 lane), and [`dispatch`] runs the best that this machine has.
//! Everything called from it must be `#[inline(always)]`, so that it is compiled with the instruction set of its
//! caller.

mod math;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

pub(crate) use math::{EXP2, Exp2, LOG2_E, LOG2_E_REST, clamp, exp2_product_less_one};
pub use math::{
    exp, exp2_product, ln, log1p, range, sigmoid, silu, silu_and_slope, sin_cos, softplus,
};
pub use pulp::{Simd, WithSimd};
use serpens_core::{Element, bf16};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// One lane, any machine.
    Portable,
    /// x86-64-v3: AVX2 and FMA, 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64-v4: AVX-512, 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Arm NEON, 4 lanes.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The sets that this machine can run, the best last.
    pub fn available() -> Vec<Isa> {
        #[cfg_attr(
            not(any(target_arch = "x86_64", target_arch = "aarch64")),
            expect(unused_mut, reason = "only these targets add a set")
        )]
        let mut sets = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if pulp::x86::V3::try_new().is_some() {
                sets.push(Isa::Avx2);
            }
            if pulp::x86::V4::try_new().is_some() {
                sets.push(Isa::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if pulp::aarch64::Neon::try_new().is_some() {
            sets.push(Isa::Neon);
        }
        sets
    }

    /// The set that [`dispatch`] uses: the best available, or the one named by the environment variable `SERPENS_SIMD`
    /// (`portable`, `avx2`, `avx512`, `neon`) where this machine has it.
    pub fn current() -> Isa {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let available = Isa::available();
            let wanted = std::env::var("SERPENS_SIMD").ok();
            wanted
                .and_then(|name| {
                    available
                        .iter()
                        .find(|isa| isa.name().eq_ignore_ascii_case(&name))
                        .copied()
                })
                .unwrap_or_else(|| available.last().copied().unwrap_or(Isa::Portable))
        })
    }

    /// The name as `SERPENS_SIMD` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
        }
    }

    /// Number of f32 lanes of one vector.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Portable => 1,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 8,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => 4,
        }
    }

    /// Runs `op` compiled for this set; the portable form where the machine lacks it.
    pub fn run<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                if let Some(simd) = pulp::x86::V4::try_new() {
                    return Simd::vectorize(simd, op);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                if let Some(simd) = pulp::x86::V3::try_new() {
                    return Simd::vectorize(simd, op);
                }
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => {
                if let Some(simd) = pulp::aarch64::Neon::try_new() {
                    return Simd::vectorize(simd, op);
                }
            }
            Isa::Portable => {}
        }
        Simd::vectorize(pulp::Scalar, op)
    }
}

/// Runs `op` with the instruction set of [`Isa::current`].
#[inline]
pub fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    Isa::current().run(op)
}

/// Loads the first `S::F32_LANES` values of `x`; where `x` is shorter, the missing lanes are zero.
#[inline(always)]
pub fn load<S: Simd>(s: S, x: &[f32]) -> S::f32s {
    if x.len() >= S::F32_LANES {
        // SAFETY: the slice holds at least one vector of plain f32 values, and the read asks for no alignment.
        unsafe { x.as_ptr().cast::<S::f32s>().read_unaligned() }
    } else {
        s.partial_load_f32s(x)
    }
}

/// Stores `v` to the first `S::F32_LANES` values of `x`; where `x` is shorter, the surplus lanes are dropped.
#[inline(always)]
pub fn store<S: Simd>(s: S, x: &mut [f32], v: S::f32s) {
    if x.len() >= S::F32_LANES {
        // SAFETY: the slice has room for one vector of plain f32 values, and the write asks for no alignment.
        unsafe { x.as_mut_ptr().cast::<S::f32s>().write_unaligned(v) }
    } else {
        s.partial_store_f32s(x, v);
    }
}

/// Asks for the cache line of an address, which need not be valid, to be brought from memory; does nothing where the
/// processor cannot be asked.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which changes nothing but the caches.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// How many bytes ahead of what is read a stream asks for, where the processor does not do so well enough by itself.
pub(crate) const AHEAD: usize = 2048;

/// A type that weights or states are stored in, with lanes of f32.
pub trait Stored: Element {
    /// The first `S::F32_LANES` values of `x`; where `x` is shorter, the missing lanes are zero.
    fn lanes<S: Simd>(s: S, x: &[Self]) -> S::f32s;

    /// Stores `v`, rounded to nearest even, to the first `S::F32_LANES` values of `x`; where `x` is shorter, the
    /// surplus lanes are dropped.
    fn store<S: Simd>(s: S, x: &mut [Self], v: S::f32s);
}

/// Lanes of the widest vectors.
const MOST_LANES: usize = 16;

impl Stored for f32 {
    #[inline(always)]
    fn lanes<S: Simd>(s: S, x: &[Self]) -> S::f32s {
        load(s, x)
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, x: &mut [Self], v: S::f32s) {
        store(s, x, v);
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn lanes<S: Simd>(s: S, x: &[Self]) -> S::f32s {
        const { assert!(S::F32_LANES <= MOST_LANES) };
        // Registers alone: what compilers make of an array goes through memory.
        #[cfg(target_arch = "x86_64")]
        if x.len() >= S::F32_LANES {
            use std::arch::x86_64::*;
            use std::mem::transmute_copy;
            // SAFETY: the slice holds as many values, and on this target lanes of as many are those of an instruction
            // set that has the instructions.
            unsafe {
                if S::F32_LANES == 16 {
                    let x = x.as_ptr().cast::<__m256i>().read_unaligned();
                    return transmute_copy(&_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)));
                }
                if S::F32_LANES == 8 {
                    let x = x.as_ptr().cast::<__m128i>().read_unaligned();
                    return transmute_copy(&_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)));
                }
            }
        }
        // Of fixed length, which compilers turn into a load that widens.
        let mut wide = [0.0_f32; MOST_LANES];
        let widen = |wide: &mut f32, x: &bf16| *wide = f32::from_bits(u32::from(x.to_bits()) << 16);
        if x.len() >= S::F32_LANES {
            (0..S::F32_LANES).for_each(|i| widen(&mut wide[i], &x[i]));
        } else {
            wide.iter_mut().zip(x).for_each(|(wide, x)| widen(wide, x));
        }
        load(s, &wide)
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, x: &mut [Self], v: S::f32s) {
        let mut wide = [0.0_f32; MOST_LANES];
        store(s, &mut wide, v);
        let narrow = |x: &mut bf16, wide: &f32| {
            let bits = wide.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            // A NaN stays one, whatever its lower half is.
            *x = bf16::from_bits(if wide.is_nan() {
                0x7fff
            } else {
                rounded as u16
            });
        };
        if x.len() >= S::F32_LANES {
            (0..S::F32_LANES).for_each(|i| narrow(&mut x[i], &wide[i]));
        } else {
            x.iter_mut()
                .zip(&wide)
                .for_each(|(x, wide)| narrow(x, wide));
        }
    }
}

/// One instance of an elementwise function over lanes, for [`map`].
pub trait Elementwise: Copy {
    /// The function on one vector.
    fn apply<S: Simd>(self, s: S, x: S::f32s) -> S::f32s;
}

struct Map<'a, F> {
    f: F,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<F: Elementwise> WithSimd for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for (x, y) in self
            .x
            .chunks(S::F32_LANES)
            .zip(self.y.chunks_mut(S::F32_LANES))
        {
            store(s, y, self.f.apply(s, load(s, x)));
        }
    }
}

/// y = f(x) on the shorter of both slices, on this thread.
pub fn map<F: Elementwise>(f: F, x: &[f32], y: &mut [f32]) {
    dispatch(Map { f, x, y });
}
