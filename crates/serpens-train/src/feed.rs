//! The way of batches to a GPU.

use serpens_core::cuda::{DevicePtr, Staging};
use serpens_core::{DType, Device, Result, Tensor};
use serpens_data::Batch;

/// Steps of one shape after which it is worth recording one: by then every buffer it needs is in the pool.
const STEPS_BEFORE_RECORDING: usize = 2;

/// Where a GPU reads batches of one shape.
pub(crate) struct Feed {
    shape: [usize; 2],
    inputs: Tensor,
    targets: Tensor,
    staging: [Staging; 2],
    /// Batches brought.
    brought: usize,
}

impl Feed {
    pub(crate) fn new(shape: [usize; 2], device: Device) -> Result<Self> {
        let bytes = shape[0] * shape[1] * DType::U32.size();
        Ok(Self {
            shape,
            inputs: Tensor::empty(shape, DType::U32, device)?,
            targets: Tensor::empty(shape, DType::U32, device)?,
            staging: [Staging::new(device, bytes)?, Staging::new(device, bytes)?],
            brought: 0,
        })
    }

    /// Whether batches of this shape come through here.
    pub(crate) fn fits(&self, shape: [usize; 2]) -> bool {
        self.shape == shape
    }

    /// Whether so many batches came through here that a recorded step would be replayed.
    pub(crate) fn is_settled(&self) -> bool {
        self.brought >= STEPS_BEFORE_RECORDING
    }

    /// The batch's inputs and targets, at the addresses of the last batch.
    pub(crate) fn bring(&mut self, batch: &Batch) -> Result<[Tensor; 2]> {
        self.brought += 1;
        let [inputs, targets] = &mut self.staging;
        inputs.upload(&mut self.inputs, &batch.inputs)?;
        targets.upload(&mut self.targets, &batch.targets)?;
        Ok([self.inputs.clone(), self.targets.clone()])
    }
}

/// Where two tensors of a feed are.
pub(crate) fn addresses(tensors: &[Tensor; 2]) -> [DevicePtr; 2] {
    tensors.each_ref().map(|tensor| tensor.view().ptr())
}
