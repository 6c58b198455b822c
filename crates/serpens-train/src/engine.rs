//! One step of training on a device: gradients of some batches, then the optimiser.
//!
//! On a GPU a step whose batch has the shape of the last ones is recorded once as a CUDA graph and replayed from then on: the host
//! then only brings the tokens and the learning rate, and reads four numbers back.

use serpens_core::cuda::{self, DevicePtr, Graph, Staging};
use serpens_core::{DType, Device, Gradients, Result, Tape, Tensor};
use serpens_data::Batch;
use serpens_nn::layers::Sequence;
use serpens_nn::{MambaLm, Recompute};
use serpens_ops::cross_entropy::{CrossEntropy, Totals, check_targets, cross_entropy};
use serpens_ops::embedding::check_ids;

use crate::AdamW;

/// Steps of one shape after which it is worth recording: by then every buffer it needs is in the pool.
const STEPS_BEFORE_RECORDING: usize = 2;

/// What a step measured.
pub(crate) struct Measured {
    /// Of each batch.
    pub(crate) losses: Vec<Totals>,
    /// The gradients' norm before clipping; nothing was changed where it is not finite, or a loss is not.
    pub(crate) norm: f64,
}

impl Measured {
    /// The mean loss of each batch, in nats.
    pub(crate) fn means(&self) -> impl Iterator<Item = f64> {
        self.losses.iter().map(Totals::mean)
    }
}

/// Takes steps.
pub(crate) struct Engine {
    recompute: Recompute,
    gradients: Gradients,
    feed: Option<Feed>,
    recorded: Option<Recorded>,
    /// How many of the last steps had the feed's shape.
    repeats: usize,
    /// Whether the kernels of a step have been compiled.
    compiled: bool,
}

/// Where a GPU reads batches of one shape.
struct Feed {
    shape: [usize; 2],
    inputs: Tensor,
    targets: Tensor,
    staging: [Staging; 2],
}

/// A recorded step, and where it leaves the loss.
struct Recorded {
    graph: Graph,
    /// The addresses of the feed that it reads.
    reads: [DevicePtr; 2],
    totals: Tensor,
}

impl Engine {
    pub(crate) fn new(recompute: Recompute) -> Self {
        Self {
            recompute,
            gradients: Gradients::new(),
            feed: None,
            recorded: None,
            repeats: 0,
            compiled: false,
        }
    }

    /// A step with learning rate `lr` on the mean of the batches' losses.
    pub(crate) fn step(
        &mut self,
        model: &mut MambaLm,
        optimizer: &mut AdamW,
        batches: &[Batch],
        lr: f32,
    ) -> Result<Measured> {
        match batches {
            [batch] if self.is_settled(batch) => self.replay(model, optimizer, batch, lr),
            _ => self.run(model, optimizer, batches, lr),
        }
    }

    /// Whether the last steps had the shape of this batch often enough, on a GPU, to replay a recorded one.
    fn is_settled(&self, batch: &Batch) -> bool {
        let shape = [batch.batch, batch.length];
        let same = |feed: &Feed| feed.shape == shape;
        self.repeats >= STEPS_BEFORE_RECORDING && self.feed.as_ref().is_some_and(same)
    }

    /// A step, operation by operation.
    fn run(
        &mut self,
        model: &mut MambaLm,
        optimizer: &mut AdamW,
        batches: &[Batch],
        lr: f32,
    ) -> Result<Measured> {
        self.gradients.clear();
        let mut totals = Vec::with_capacity(batches.len());
        let read = |totals: &[Tensor]| totals.iter().map(Totals::read).collect::<Result<Vec<_>>>();
        for batch in batches {
            let [inputs, targets] = self.bring(model, batch)?;
            self.compile_ahead(model, &inputs, &targets)?;
            let loss = self.add_gradients(model, inputs, &targets, batches.len())?;
            // A GPU would have to be waited for; where the norm is not finite it changes nothing.
            let finite = model.device() != Device::Cpu || loss.read()?.mean().is_finite();
            totals.push(loss.totals);
            if !finite {
                let losses = read(&totals)?;
                let norm = f64::NAN;
                return Ok(Measured { losses, norm });
            }
        }
        let norm = optimizer.step(model, &mut self.gradients, lr)?;
        let losses = read(&totals)?;
        Ok(Measured { losses, norm })
    }

    /// A step that is recorded, where it is not yet, and replayed.
    fn replay(
        &mut self,
        model: &mut MambaLm,
        optimizer: &mut AdamW,
        batch: &Batch,
        lr: f32,
    ) -> Result<Measured> {
        let [inputs, targets] = self.bring(model, batch)?;
        let reads = [inputs.view().ptr(), targets.view().ptr()];
        let moved = optimizer.prepare(model, &mut self.gradients, lr)?;
        let stale = |recorded: &Recorded| moved || recorded.reads != reads;
        if self.recorded.as_ref().is_none_or(stale) {
            self.recorded = None;
            self.recorded = Some(self.record(model, optimizer, [inputs, targets], reads)?);
        }
        let Some(recorded) = &self.recorded else {
            unreachable!("the step was recorded above");
        };
        recorded.graph.replay()?;
        let losses = vec![Totals::read(&recorded.totals)?];
        let norm = optimizer.finish()?;
        Ok(Measured { losses, norm })
    }

    /// Records a step; it is not run.
    fn record(
        &mut self,
        model: &mut MambaLm,
        optimizer: &mut AdamW,
        [inputs, targets]: [Tensor; 2],
        reads: [DevicePtr; 2],
    ) -> Result<Recorded> {
        let mut totals = None;
        let graph = Graph::capture(model.device(), || {
            self.gradients.clear();
            totals = Some(self.add_gradients(model, inputs, &targets, 1)?.totals);
            optimizer.launch()
        })?;
        let Some(totals) = totals else {
            unreachable!("a recording that succeeded has set the totals");
        };
        Ok(Recorded {
            graph,
            reads,
            totals,
        })
    }

    /// The batch's tokens on the model's device; on a GPU at the addresses of the last batch where the shape is the same.
    fn bring(&mut self, model: &MambaLm, batch: &Batch) -> Result<[Tensor; 2]> {
        let device = model.device();
        let shape = [batch.batch, batch.length];
        if device == Device::Cpu {
            let tensor = |ids: &[u32]| Tensor::from_slice(shape, ids, device);
            return Ok([tensor(&batch.inputs)?, tensor(&batch.targets)?]);
        }
        check_ids(&batch.inputs, model.config().vocab_size)?;
        check_targets(&batch.targets, model.config().vocab_size)?;
        let feed = match self.feed.take() {
            Some(feed) if feed.shape == shape => {
                self.repeats += 1;
                feed
            }
            _ => {
                self.repeats = 1;
                self.recorded = None;
                Feed::new(shape, device)?
            }
        };
        let feed = self.feed.insert(feed);
        let [inputs, targets] = &mut feed.staging;
        inputs.upload(&mut feed.inputs, &batch.inputs)?;
        targets.upload(&mut feed.targets, &batch.targets)?;
        Ok([feed.inputs.clone(), feed.targets.clone()])
    }

    /// Gives up the recorded step and the memory it runs in; the next step is recorded again. Says whether there was one.
    pub(crate) fn forget_recorded(&mut self) -> bool {
        self.recorded.take().is_some()
    }

    /// Compiles what the gradients need on a GPU, all at once, before the first step.
    fn compile_ahead(&mut self, model: &MambaLm, inputs: &Tensor, targets: &Tensor) -> Result<()> {
        if model.device() == Device::Cpu || std::mem::replace(&mut self.compiled, true) {
            return Ok(());
        }
        cuda::compile_ahead(model.device(), || {
            self.add_gradients(model, inputs.clone(), targets, 1)?;
            self.gradients.clear();
            Ok(())
        })
    }

    /// Adds the gradients of a batch's mean loss over `count`.
    fn add_gradients(
        &mut self,
        model: &MambaLm,
        inputs: Tensor,
        targets: &Tensor,
        count: usize,
    ) -> Result<CrossEntropy> {
        let tape = Tape::new();
        let sequence = Sequence {
            recompute: self.recompute,
            ..Sequence::default()
        };
        let logits = model
            .forward(&tape.constant(inputs), &sequence, None)
            .map_err(serpens_nn::Error::into_core)?;
        let loss = cross_entropy(logits, targets)?;
        tape.backward(&loss.loss, 1.0 / count as f32, &mut self.gradients)?;
        Ok(loss)
    }
}

impl Feed {
    fn new(shape: [usize; 2], device: Device) -> Result<Self> {
        let bytes = shape[0] * shape[1] * DType::U32.size();
        Ok(Self {
            shape,
            inputs: Tensor::empty(shape, DType::U32, device)?,
            targets: Tensor::empty(shape, DType::U32, device)?,
            staging: [Staging::new(device, bytes)?, Staging::new(device, bytes)?],
        })
    }
}
