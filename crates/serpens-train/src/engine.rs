//! One step of training on a device: gradients of some batches, then the optimiser.
//!
//! On a GPU a step whose batch has the shape of the last ones is recorded once as a CUDA graph and replayed from then on: the host
//! then only brings the tokens and the learning rate, and reads four numbers back.

use serpens_core::cuda::{self, DevicePtr, Graph};
use serpens_core::{Device, Gradients, Result, Tape, Tensor};
use serpens_data::Batch;
use serpens_nn::Recompute;
use serpens_ops::cross_entropy::Totals;

use crate::feed::{Feed, addresses};
use crate::objective::Learner;
use crate::{Loss, Objective, TrainedModel};

/// What a step measured.
pub(crate) struct Measured {
    /// Of each batch.
    pub(crate) losses: Vec<Totals>,
    /// The gradients' norm before clipping; nothing was changed where it is not finite, or a loss is not.
    pub(crate) norm: f64,
}

/// Takes steps.
pub(crate) struct Engine {
    recompute: Recompute,
    gradients: Gradients,
    feed: Option<Feed>,
    recorded: Option<Recorded>,
    /// Whether the kernels of a step have been compiled.
    compiled: bool,
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
            compiled: false,
        }
    }

    /// A step with learning rate `lr` on the mean of the batches' losses.
    pub(crate) fn step<O: Objective>(
        &mut self,
        learner: &mut Learner<O>,
        batches: &[Batch],
        lr: f32,
    ) -> Result<Measured> {
        match batches {
            [batch] if self.is_settled(batch) => self.replay(learner, batch, lr),
            _ => self.run(learner, batches, lr),
        }
    }

    /// Whether the last steps had the shape of this batch often enough, on a GPU, to replay a recorded one.
    fn is_settled(&self, batch: &Batch) -> bool {
        let shape = [batch.batch, batch.length];
        let settled = |feed: &Feed| feed.fits(shape) && feed.is_settled();
        self.feed.as_ref().is_some_and(settled)
    }

    /// A step, operation by operation.
    fn run<O: Objective>(
        &mut self,
        learner: &mut Learner<O>,
        batches: &[Batch],
        lr: f32,
    ) -> Result<Measured> {
        self.gradients.clear();
        let mut totals = Vec::with_capacity(batches.len());
        let read = |totals: &[Tensor]| totals.iter().map(Totals::read).collect::<Result<Vec<_>>>();
        for batch in batches {
            let [inputs, targets] = self.bring(learner, batch)?;
            self.compile_ahead(learner, &inputs, &targets)?;
            let loss = self.add_gradients(learner, inputs, &targets, batches.len())?;
            // A GPU would have to be waited for; where the norm is not finite it changes nothing.
            let on_gpu = learner.model.device() != Device::Cpu;
            let finite = on_gpu || Totals::read(&loss.totals)?.mean().is_finite();
            totals.push(loss.totals);
            if !finite {
                let losses = read(&totals)?;
                let norm = f64::NAN;
                return Ok(Measured { losses, norm });
            }
        }
        let model = &mut learner.model;
        let norm = learner.optimizer.step(model, &mut self.gradients, lr)?;
        let losses = read(&totals)?;
        Ok(Measured { losses, norm })
    }

    /// A step that is recorded, where it is not yet, and replayed.
    fn replay<O: Objective>(
        &mut self,
        learner: &mut Learner<O>,
        batch: &Batch,
        lr: f32,
    ) -> Result<Measured> {
        let tokens = self.bring(learner, batch)?;
        let reads = addresses(&tokens);
        let model = &mut learner.model;
        let moved = learner.optimizer.prepare(model, &mut self.gradients, lr)?;
        let recorded = match self.recorded.take() {
            Some(recorded) if !moved && recorded.reads == reads => recorded,
            stale => {
                drop(stale); // the new one may need its memory
                self.record(learner, tokens, reads)?
            }
        };
        let recorded = self.recorded.insert(recorded);
        recorded.graph.replay()?;
        let losses = vec![Totals::read(&recorded.totals)?];
        let norm = learner.optimizer.finish()?;
        Ok(Measured { losses, norm })
    }

    /// Records a step; it is not run.
    fn record<O: Objective>(
        &mut self,
        learner: &mut Learner<O>,
        [inputs, targets]: [Tensor; 2],
        reads: [DevicePtr; 2],
    ) -> Result<Recorded> {
        let mut totals = None;
        let graph = Graph::capture(learner.model.device(), || {
            self.gradients.clear();
            totals = Some(self.add_gradients(learner, inputs, &targets, 1)?.totals);
            learner.optimizer.launch()
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
    fn bring<O: Objective>(&mut self, learner: &Learner<O>, batch: &Batch) -> Result<[Tensor; 2]> {
        let device = learner.model.device();
        let shape = [batch.batch, batch.length];
        if device == Device::Cpu {
            let tensor = |ids: &[u32]| Tensor::from_slice(shape, ids, device);
            return Ok([tensor(&batch.inputs)?, tensor(&batch.targets)?]);
        }
        learner.objective.check_batch(&learner.model, batch)?;
        let feed = match self.feed.take() {
            Some(feed) if feed.fits(shape) => feed,
            _ => {
                self.recorded = None;
                Feed::new(shape, device)?
            }
        };
        self.feed.insert(feed).bring(batch)
    }

    /// Gives up the recorded step and the memory it runs in; the next step is recorded again. Says whether there was one.
    pub(crate) fn forget_recorded(&mut self) -> bool {
        self.recorded.take().is_some()
    }

    /// Compiles what the gradients need on a GPU, all at once, before the first step.
    fn compile_ahead<O: Objective>(
        &mut self,
        learner: &Learner<O>,
        inputs: &Tensor,
        targets: &Tensor,
    ) -> Result<()> {
        let device = learner.model.device();
        if device == Device::Cpu || std::mem::replace(&mut self.compiled, true) {
            return Ok(());
        }
        cuda::compile_ahead(device, || {
            self.add_gradients(learner, inputs.clone(), targets, 1)?;
            self.gradients.clear();
            Ok(())
        })
    }

    /// Adds the gradients of a batch's loss over `count`.
    fn add_gradients<O: Objective>(
        &mut self,
        learner: &Learner<O>,
        inputs: Tensor,
        targets: &Tensor,
        count: usize,
    ) -> Result<Loss> {
        let tape = Tape::new();
        let (model, inputs) = (&learner.model, tape.constant(inputs));
        let loss = learner
            .objective
            .loss(model, &inputs, targets, self.recompute)?;
        tape.backward(&loss.value, 1.0 / count as f32, &mut self.gradients)?;
        Ok(loss)
    }
}
