//! Counter-based randomness: what is drawn depends on (seed, purpose, index) and on nothing drawn before.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What the numbers are for. Two purposes never share numbers, whatever their seeds and indices.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Training = 1,
    Evaluation = 2,
    EpochOrder = 3,
    Strand = 4,
}

/// A generator for one index: seed and purpose are ChaCha's key, the index is its stream.
pub(crate) fn counter_rng(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = purpose as u8;
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(index);
    rng
}
