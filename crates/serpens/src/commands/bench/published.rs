//! What is to be beaten on one NVIDIA H200: medians of the official PyTorch implementation there (mamba_ssm 2.3.2 with
//! the CUDA extension of causal_conv1d, both built for sm_90; PyTorch 2.11, CUDA 13.0; bf16 unless said, states in
//! f32), and what is wanted of Serpens. Its rows are what the benches measure where no shape is given.

use serpens_core::DType::{self, BF16, F32};

/// (official, wanted) of some work; the unit is the row's.
pub(super) type Published = (f64, f64);

/// A forward pass and its backward to measure: (batch, length, width), the type, and what its two rows are held against
/// where they are as published.
pub(super) type Case = ([usize; 3], DType, [Published; 2]);

/// States of each channel in all of them.
pub(super) const STATES: usize = 16;

/// The scan with gate, D, bias and softplus: (batch, length, channels), type, forward and backward.
pub(super) const SCANS: [Case; 7] = [
    ([8, 2048, 1536], BF16, [(0.442, 0.18), (1.745, 0.60)]),
    ([8, 2048, 1536], F32, [(0.872, 0.25), (2.040, 0.80)]),
    ([1, 512, 1024], BF16, [(0.064, 0.02), (0.48, 0.06)]),
    ([1, 2048, 1024], BF16, [(0.071, 0.03), (0.40, 0.09)]),
    ([1, 131_072, 1024], BF16, [(2.92, 1.1), (11.27, 3.6)]),
    ([1, 524_288, 1024], BF16, [(11.6, 4.4), (45.8, 14.5)]),
    ([8, 2048, 4096], BF16, [(1.155, 0.48), (4.52, 1.6)]),
];

/// The convolution with SiLU: (batch, length, channels) to forward, and forward and backward together.
pub(super) const CONVOLUTIONS: [Case; 1] =
    [([8, 2048, 1536], BF16, [(0.065, 0.055), (0.641, 0.25)])];

/// A Mamba block: (batch, length, width) to forward, and forward and backward together.
pub(super) const BLOCKS: [Case; 2] = [
    ([8, 2048, 768], BF16, [(1.11, 0.45), (4.01, 1.7)]),
    ([8, 2048, 2048], BF16, [(2.50, 1.15), (10.2, 4.6)]),
];

/// A language model that is trained with AdamW and clipping: its name, (width, layers, batch), tokens per second, and
/// the most memory in GiB.
pub(super) type Training = (&'static str, [usize; 3], Published, f64);

/// Positions of a sequence in training.
pub(super) const TRAINING_LENGTH: usize = 2048;
/// Tokens that the models know.
pub(super) const VOCABULARY: usize = 50_280;

pub(super) const TRAININGS: [Training; 3] = [
    ("130m", [768, 24, 8], (170e3, 320e3), 18.8),
    ("370m", [1024, 48, 8], (70e3, 120e3), 30.6),
    ("1.4b", [2048, 48, 4], (29e3, 46e3), 38.2),
];

/// Tokens per second of a prompt of this length through the backbone of the 130m, by the fastest of the other Rust
/// programs (mamba-rs 0.8.2, on the same card).
pub(super) const PROMPT: (usize, f64) = (4096, 0.3e6);
