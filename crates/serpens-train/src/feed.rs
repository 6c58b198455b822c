//! The way of batches to a GPU.

use serpens_core::cuda::Staging;
use serpens_core::{DType, Device, Result, Shape, Tensor};
use serpens_data::{Batch, Numbers};

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
    /// For batches of the shapes of this one.
    pub(crate) fn new(batch: &Batch<Numbers>, device: Device) -> Result<Self> {
        let tensor = |(shape, dtype)| Tensor::empty(shape, dtype, device);
        let [inputs, targets] = forms(batch).map(tensor);
        let tensors = [inputs?, targets?];
        let bytes = |tensor: &Tensor| tensor.len() * tensor.dtype().size();
        let staging = |tensor: &Tensor| Staging::new(device, bytes(tensor));
        Ok(Self {
            staging: [staging(&tensors[0])?, staging(&tensors[1])?],
            tensors,
            brought: 0,
        })
    }

    /// Whether batches of these shapes come through here.
    pub(crate) fn fits(&self, batch: &Batch<Numbers>) -> bool {
        let here = self.tensors.each_ref();
        here.map(|tensor| (tensor.shape(), tensor.dtype())) == forms(batch)
    }

    /// Whether so many batches came through here that a recorded step would be replayed.
    pub(crate) fn is_settled(&self) -> bool {
        self.brought >= STEPS_BEFORE_RECORDING
    }

    /// The batch's inputs and targets, at the addresses of the last batch.
    pub(crate) fn bring(&mut self, batch: &Batch<Numbers>) -> Result<[Tensor; 2]> {
        self.brought += 1;
        let ways = self.staging.iter_mut().zip(&mut self.tensors);
        for ((staging, tensor), values) in ways.zip([&batch.inputs, &batch.targets]) {
            match values {
                Numbers::Ids(ids) => staging.upload(tensor, ids)?,
                Numbers::Values(values) => staging.upload(tensor, values)?,
            }
        }
        Ok(self.tensors.clone())
    }
}

/// The inputs and the targets on the processor.
pub(crate) fn tensors(batch: &Batch<Numbers>) -> Result<[Tensor; 2]> {
    let [_, targets] = forms(batch);
    Ok([inputs(batch)?, tensor(&batch.targets, targets)?])
}

/// The inputs alone.
pub(crate) fn inputs(batch: &Batch<Numbers>) -> Result<Tensor> {
    let [inputs, _] = forms(batch);
    tensor(&batch.inputs, inputs)
}

fn tensor(numbers: &Numbers, (shape, _): (Shape, DType)) -> Result<Tensor> {
    match numbers {
        Numbers::Ids(ids) => Tensor::from_slice(shape, ids, Device::Cpu),
        Numbers::Values(values) => Tensor::from_slice(shape, values, Device::Cpu),
    }
}

/// Shapes and types of the inputs, which may have several channels, and of the targets: one for each position, or
/// whatever the objective takes.
fn forms(batch: &Batch<Numbers>) -> [(Shape, DType); 2] {
    let (rows, length) = (batch.batch, batch.length);
    let channels = batch.inputs.len().checked_div(rows * length).unwrap_or(0);
    let each_position = Shape::new(&[rows, length]);
    let inputs = match &batch.inputs {
        Numbers::Ids(_) => (each_position, DType::U32),
        Numbers::Values(_) => (Shape::new(&[rows, length, channels]), DType::F32),
    };
    let targets = match batch.targets.len() {
        count if count == rows * length => each_position,
        count => Shape::new(&[count]),
    };
    let dtype = match &batch.targets {
        Numbers::Ids(_) => DType::U32,
        Numbers::Values(_) => DType::F32,
    };
    [inputs, (targets, dtype)]
}
