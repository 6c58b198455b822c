//! What a model must offer to be trained.

use std::path::Path;

use serpens_core::Device;
use serpens_nn::checkpoint::{self, Verify};
use serpens_nn::{MambaLm, Module, Predictor, Result};

/// A model that can be trained and is kept in checkpoints.
pub trait TrainedModel: Module + Sized {
    /// Where the parameters are.
    fn device(&self) -> Device;

    /// Operations of a forward pass for each token besides those of its matrices, in sequences of this length.
    fn attention_flops(&self, _length: usize) -> f64 {
        0.0
    }

    /// Writes the model to the folder `dir`, made where it is missing.
    ///
    /// # Errors
    /// What the file system says.
    fn save(&self, dir: &Path) -> Result<()>;

    /// Reads the model in the folder `dir`, onto the processor, and verifies the digests of its files where that is
    /// asked.
    ///
    /// # Errors
    /// A file that is missing, damaged or foreign.
    fn load(dir: &Path, verify: Verify) -> Result<Self>;
}

impl TrainedModel for Predictor {
    fn device(&self) -> Device {
        self.device()
    }

    fn attention_flops(&self, length: usize) -> f64 {
        self.backbone().attention_flops(length)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        checkpoint::save_predictor(self, dir)
    }

    fn load(dir: &Path, verify: Verify) -> Result<Self> {
        checkpoint::load_predictor(dir, Device::cpu(), verify)
    }
}

impl TrainedModel for MambaLm {
    fn device(&self) -> Device {
        self.device()
    }

    fn attention_flops(&self, length: usize) -> f64 {
        self.backbone().attention_flops(length)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        checkpoint::save(self, dir)
    }

    fn load(dir: &Path, verify: Verify) -> Result<Self> {
        checkpoint::load(dir, Device::cpu(), verify)
    }
}
