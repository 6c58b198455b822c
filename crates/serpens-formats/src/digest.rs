//! Digests of tensors, by which damage is noticed when they are read.
//!
//! A tensor's bytes are cut into chunks of 256 KiB, so that all threads can work on one tensor. Its digest is the XXH3
//! (64 bits, seed 0) of the chunks' XXH3, little-endian one after the other, and of the tensor's type, shape and name
//! as the text `F32 [2, 3] name`. It finds damage, not forgery: whoever changes a file can change its digests too.

use rayon::prelude::*;
use twox_hash::XxHash3_64;

use crate::Encoding;

/// Bytes that are hashed, and read, at once: they stay in a thread's cache meanwhile.
pub(crate) const CHUNK: usize = 1 << 18;

/// The XXH3-64 of bytes in 16 hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    format!("{:016x}", XxHash3_64::oneshot(bytes))
}

/// The hash of one chunk.
pub(crate) fn of_chunk(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The hashes of all chunks of a tensor's bytes.
pub(crate) fn of_chunks(bytes: &[u8]) -> Vec<u64> {
    bytes.par_chunks(CHUNK).map(of_chunk).collect()
}

/// The digest of a tensor, in 16 hexadecimal digits.
pub(crate) fn of_tensor(name: &str, encoding: Encoding, shape: &[usize], chunks: &[u64]) -> String {
    let mut bytes: Vec<u8> = chunks.iter().flat_map(|hash| hash.to_le_bytes()).collect();
    bytes.extend(format!("{encoding} {shape:?} {name}").bytes());
    digest(&bytes)
}
