//! One step of training on a device: gradients of some batches, then the optimiser.
//!
//! On a GPU a step whose batch has the shape of the last ones is recorded once as a CUDA graph and replayed from then
//! on: the host then only brings the tokens and the learning rate, and reads four numbers back.

use serpens_core::cuda::{self, DevicePtr, Graph};
use serpens_core::{DType, Device, Gradients, Result as CoreResult, Tape, Tensor};
use serpens_data::{Batch, Numbers};
use serpens_nn::Recompute;
use serpens_nn::layers::Sequence;
use serpens_ops::Starts;
use serpens_ops::cross_entropy::Totals;

use crate::feed::{Feed, tensors};
use crate::objective::{Learner, starts};
use crate::{Objective, Result, TrainedModel};

/// A learner, and what it takes steps with.
pub(crate) struct Engine<O: Objective> {
    pub(crate) learner: Learner<O>,
    recompute: Recompute,
    gradients: Gradients,
    feed: Option<Feed>,
    /// Without it, the next step is recorded again.
    pub(crate) recorded: Option<Recorded>,
    /// Whether the kernels of a step have been compiled.
    compiled: bool,
}

/// A recorded step, and where it leaves what is told of the loss.
pub(crate) struct Recorded {
    graph: Graph,
    /// The addresses of the feed that it reads.
    reads: [DevicePtr; 2],
    told: Tensor,
}

impl<O: Objective> Engine<O> {
    pub(crate) fn new(learner: Learner<O>, recompute: Recompute) -> Self {
        Self {
            learner,
            recompute,
            gradients: Gradients::new(),
            feed: None,
            recorded: None,
            compiled: false,
        }
    }

    /// A step with learning rate `lr` on the mean of the batches' losses: the loss of each, and the gradients' norm
    /// before clipping. Nothing is changed where the norm or a loss is not finite. An error of the batches leaves no
    /// trace.
    pub(crate) fn step(
        &mut self,
        batches: impl ExactSizeIterator<Item = Result<Batch<Numbers>>>,
        lr: f32,
    ) -> Result<(Vec<Totals>, f64)> {
        let count = batches.len();
        let (mut told, mut finite) = (Vec::with_capacity(count), true);
        for batch in batches {
            let batch = batch?;
            if count == 1 && self.is_settled(&batch) {
                let (loss, norm) = self.replay(&batch, lr)?;
                return Ok((vec![loss], norm));
            }
            if told.is_empty() {
                self.gradients.clear(); // a replay needs them: they tell its parameters
            }
            let loss = self.run(&batch, count)?;
            // A GPU would have to be waited for; where the norm is not finite it changes nothing.
            let on_gpu = self.learner.model.device() != Device::Cpu;
            finite = on_gpu || read(&loss)?.mean().is_finite();
            told.push(loss);
            if !finite {
                break;
            }
        }
        let (learner, gradients) = (&mut self.learner, &mut self.gradients);
        let norm = match finite {
            true => learner.optimizer.step(&mut learner.model, gradients, lr)?,
            false => f64::NAN,
        };
        let losses = told.iter().map(read).collect::<CoreResult<_>>()?;
        Ok((losses, norm))
    }

    /// Whether the last steps had the shape of this batch often enough, on a GPU, to replay a recorded one.
    fn is_settled(&self, batch: &Batch<Numbers>) -> bool {
        let settled = |feed: &Feed| feed.fits(batch) && feed.is_settled();
        // A recorded step would read where the sequences of its own batch start.
        batch.starts.is_none() && self.feed.as_ref().is_some_and(settled)
    }

    /// The gradients of one of `count` batches, operation by operation.
    fn run(&mut self, batch: &Batch<Numbers>, count: usize) -> CoreResult<Tensor> {
        let tokens = self.bring(batch)?;
        let starts = starts(batch, 0..batch.length)?;
        self.compile_ahead(&tokens, starts.as_ref())?;
        self.add_gradients(&tokens, starts.as_ref(), count)
    }

    /// A step that is recorded, where it is not yet, and replayed.
    fn replay(&mut self, batch: &Batch<Numbers>, lr: f32) -> CoreResult<(Totals, f64)> {
        let tokens = self.bring(batch)?;
        let reads = tokens.each_ref().map(|tensor| tensor.view().ptr());
        let (learner, gradients) = (&mut self.learner, &mut self.gradients);
        let mut parameters = learner.optimizer.parameters(&mut learner.model, gradients);
        let moved = learner.optimizer.inner.prepare(&mut parameters, lr)?;
        let recorded = match self.recorded.take() {
            Some(recorded) if !moved && recorded.reads == reads => recorded,
            stale => {
                drop(stale); // the new one may need its memory
                self.record(tokens, reads)?
            }
        };
        let recorded = self.recorded.insert(recorded);
        recorded.graph.replay()?;
        let loss = read(&recorded.told)?;
        Ok((loss, self.learner.optimizer.inner.finish()?))
    }

    /// Records a step; it is not run.
    fn record(&mut self, tokens: [Tensor; 2], reads: [DevicePtr; 2]) -> CoreResult<Recorded> {
        let mut told = None;
        let graph = Graph::capture(self.learner.model.device(), || {
            self.gradients.clear();
            told = Some(self.add_gradients(&tokens, None, 1)?);
            self.learner.optimizer.inner.launch()
        })?;
        let told = told.expect("a recording that succeeded has set it");
        Ok(Recorded { graph, reads, told })
    }

    /// The batch's tokens on the model's device; on a GPU at the addresses of the last batch where the shape is the
    /// same.
    fn bring(&mut self, batch: &Batch<Numbers>) -> CoreResult<[Tensor; 2]> {
        let learner = &self.learner;
        let device = learner.model.device();
        learner.objective.check_batch(&learner.model, batch)?;
        if device == Device::Cpu {
            return tensors(batch);
        }
        let feed = match self.feed.take() {
            Some(feed) if feed.fits(batch) => feed,
            _ => {
                self.recorded = None;
                Feed::new(batch, device)?
            }
        };
        self.feed.insert(feed).bring(batch)
    }

    /// Compiles what the gradients need on a GPU, all at once, before the first step.
    fn compile_ahead(&mut self, tokens: &[Tensor; 2], starts: Option<&Starts>) -> CoreResult<()> {
        let device = self.learner.model.device();
        if device == Device::Cpu || std::mem::replace(&mut self.compiled, true) {
            return Ok(());
        }
        cuda::compile_ahead(device, || {
            self.add_gradients(tokens, starts, 1)?;
            self.gradients.clear();
            Ok(())
        })
    }

    /// Adds the gradients of a batch's loss over `count`, and gives what is told of it.
    fn add_gradients(
        &mut self,
        [inputs, targets]: &[Tensor; 2],
        starts: Option<&Starts>,
        count: usize,
    ) -> CoreResult<Tensor> {
        let (learner, tape) = (&self.learner, Tape::new());
        let inputs = tape.constant(inputs.clone());
        let sequence = Sequence {
            starts,
            recompute: self.recompute,
            ..Sequence::default()
        };
        let loss = (learner.objective).loss(&learner.model, &inputs, targets, &sequence)?;
        tape.backward(&loss.value, 1.0 / count as f32, &mut self.gradients)?;
        loss.totals.map_or_else(|| loss.value.into_tensor(), Ok)
    }
}

/// Totals as they were told, or those of a single target where it was a loss's value.
fn read(told: &Tensor) -> CoreResult<Totals> {
    if told.dtype() != DType::F32 {
        return Totals::read(told);
    }
    let values = told.to_vec::<f32>()?.into_iter();
    Ok(Totals {
        sum: values.map(f64::from).sum(),
        count: 1,
        correct: 0,
    })
}
