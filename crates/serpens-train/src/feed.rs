//! The way of batches to a GPU.

use serpens_core::cuda::Staging;
use serpens_core::{DType, Device, Result, Tensor};
use serpens_data::Batch;

/// Steps of one shape after which it is worth recording one: by then every buffer it needs is in the pool.
const STEPS_BEFORE_RECORDING: usize = 2;

/// Where a GPU reads batches of one shape.
pub(crate) struct Feed {
    /// The inputs and the targets.
    tensors: [Tensor; 2],
    staging: [Staging; 2],
    /// Batches brought.
    brought: usize,
}

impl Feed {
    pub(crate) fn new(shape: [usize; 2], device: Device) -> Result<Self> {
        let bytes = shape[0] * shape[1] * DType::U32.size();
        let tensor = || Tensor::empty(shape, DType::U32, device);
        Ok(Self {
            tensors: [tensor()?, tensor()?],
            staging: [Staging::new(device, bytes)?, Staging::new(device, bytes)?],
            brought: 0,
        })
    }

    /// Whether batches of this shape come through here.
    pub(crate) fn fits(&self, shape: [usize; 2]) -> bool {
        self.tensors[0].shape()[..] == shape
    }

    /// Whether so many batches came through here that a recorded step would be replayed.
    pub(crate) fn is_settled(&self) -> bool {
        self.brought >= STEPS_BEFORE_RECORDING
    }

    /// The batch's inputs and targets, at the addresses of the last batch.
    pub(crate) fn bring(&mut self, batch: &Batch) -> Result<[Tensor; 2]> {
        self.brought += 1;
        let ways = self.staging.iter_mut().zip(&mut self.tensors);
        for ((staging, tensor), values) in ways.zip([&batch.inputs, &batch.targets]) {
            staging.upload(tensor, values)?;
        }
        Ok(self.tensors.clone())
    }
}
