//! Whether a model and its training fit the memory, told from their settings before anything is allocated.
//!
//! Everything is a lower bound, so that what is refused could never have been; in f64, as no product of sizes overflows it.

use serpens_core::{Device, cuda};
use serpens_nn::blocks::BlockConfig;
use serpens_nn::{MambaLmConfig, Recompute};
use serpens_train::Compute;

use crate::machine;

/// Bytes that a training step keeps for the gradients of this many tokens, or fewer.
pub(crate) fn activations(config: &MambaLmConfig, tokens: f64, compute: &Compute) -> f64 {
    let d = config.d_model as f64;
    let layer = match compute.recompute {
        Recompute::Block => d,
        Recompute::None | Recompute::Scan => d * (1.0 + expand(&config.block)),
    };
    let values = tokens * (config.n_layer as f64 * layer + config.vocab_size as f64);
    values * compute.precision.activations().size() as f64
}

fn expand(block: &BlockConfig) -> f64 {
    let expand = match block {
        BlockConfig::Mamba(block) => block.expand,
        BlockConfig::H3(block) => block.expand,
        BlockConfig::Plain(block) => block.expand,
    };
    expand as f64
}

/// Whether this many bytes fit the device; true where the system does not tell its memory.
pub(crate) fn fits(bytes: f64, device: Device) -> bool {
    let memory = match device {
        Device::Cpu => machine::memory(),
        Device::Cuda(_) => cuda::properties(device).ok().map(|card| card.memory as u64),
    };
    memory.is_none_or(|memory| bytes <= memory as f64)
}

/// Whose memory it is, in words.
pub(crate) fn owner(device: Device) -> &'static str {
    match device {
        Device::Cpu => "this machine's memory",
        Device::Cuda(_) => "the GPU's memory",
    }
}
