mod packing;
mod properties;
pub(crate) mod reference;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serpens_core::Device;

use super::{Blocks, Packed};

/// The places of a block's numbers in half precision.
fn halves(kind: Blocks) -> &'static [usize] {
    match kind {
        Blocks::Q8_0 | Blocks::Q4_0 => &[0],
        Blocks::Q4_K => &[0, 2],
        Blocks::Q6_K => &[208],
    }
}

/// Blocks of all bits at random, but scales between 2⁻⁶ and 2⁻⁵ of either sign.
fn random_blocks(kind: Blocks, [rows, cols]: [usize; 2], seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = vec![0; rows * cols / kind.values() * kind.bytes()];
    rng.fill_bytes(&mut bytes);
    for block in bytes.chunks_exact_mut(kind.bytes()) {
        for &at in halves(kind) {
            set_half(block, at, 0x2400 | rng.next_u32() as u16 & 0x83ff);
        }
    }
    bytes
}

/// Writes a number in half precision.
fn set_half(block: &mut [u8], at: usize, bits: u16) {
    block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
}

fn packed(kind: Blocks, sizes: [usize; 2], bytes: &[u8]) -> Packed {
    Packed::new(kind, sizes, bytes, Device::Cpu).unwrap()
}
