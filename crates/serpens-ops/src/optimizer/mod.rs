//! Optimisers: how values follow from gradients, and the norm that these are clipped by.
//!
//! With g scaled by the clipping factor, a step is
//!
//! ```text
//! p ← p (1 - lr · weight_decay) - Δ(g, lr, moments, t)          t = 1, 2, …
//! ```
//!
//! where a [`Rule`] says what Δ is, and how the moments that it keeps of each value go on: [`AdamW`], [`Sgd`],
//! [`Lion`], or one of a program's own. All values are f32; on a GPU a step also writes the bf16 shadow of a parameter
//! that has one, which the forward pass reads.
//!
//! ```
//! use serpens_ops::optimizer::cpu::{Block, Step};
//! use serpens_ops::optimizer::Rule;
//!
//! /// The sign of the gradient, without any moment.
//! #[derive(Debug)]
//! struct Sign;
//!
//! impl Rule for Sign {
//!     fn name(&self) -> &'static str {
//!         "sign"
//!     }
//!
//!     fn moments(&self) -> &'static [&'static str] {
//!         &[]
//!     }
//!
//!     fn update(&self, step: &Step, block: Block<'_>) {
//!         let lr = step.lr;
//!         block.each(move |g, []| lr * g.signum());
//!     }
//! }
//! ```

mod adamw;
pub mod cpu;
mod cuda;
mod lion;
mod sgd;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Debug;

use serpens_core::{DType, Device, Error, Result, Tensor};

pub use adamw::AdamW;
pub use cuda::Program;
pub use lion::Lion;
pub use sgd::Sgd;

use crate::check;

const OP: &str = "optimizer";

/// Numbers of a [`Rule`] on a GPU.
pub const NUMBERS: usize = 6;

/// What a step makes of gradients, value by value.
pub trait Rule: Debug + Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// What the moments are called that it keeps of a value, which begin at 0. Files tell by these names whose moments
    /// they hold.
    fn moments(&self) -> &'static [&'static str];

    /// A step of some values on the processor: [`cpu::Block::each`] with what it takes off one.
    fn update(&self, step: &cpu::Step, block: cpu::Block<'_>);

    /// The numbers that [`Rule::program`] reads in step `t`, from 1.
    fn numbers(&self, _t: u64) -> [f32; NUMBERS] {
        [0.0; NUMBERS]
    }

    /// The same on a GPU; none for a rule of the processor alone.
    fn program(&self) -> Option<&'static Program> {
        None
    }
}

/// One parameter of a step. All its tensors are of one size and on one device.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// What its moments are kept under.
    pub name: &'a str,
    /// The value that the step changes: f32.
    pub value: &'a mut Tensor,
    /// The value in bf16, which a GPU writes with it.
    pub shadow: Option<&'a mut Tensor>,
    /// Its gradient: f32.
    pub gradient: &'a Tensor,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// The largest learning rate it takes.
    pub max_lr: f32,
}

/// The parameters of a step, all on one device.
pub trait Parameters {
    /// Calls `f` for every parameter that has a gradient, always in the same order.
    ///
    /// # Errors
    /// Those of `f`, and whatever keeps a parameter or a gradient from being read.
    fn each(&mut self, f: &mut dyn FnMut(Parameter<'_>) -> Result<()>) -> Result<()>;
}

/// The moments of parameters by name, each as many as the rule keeps.
pub type Moments = BTreeMap<String, Vec<Tensor>>;

/// A rule, the moments of every parameter, and the steps that made them.
pub struct Optimizer {
    rule: Box<dyn Rule>,
    /// Largest norm of all gradients together; 0 for no limit.
    clip: f32,
    steps: u64,
    /// Zeros before a parameter's first gradient.
    moments: Moments,
    fused: Option<cuda::FusedStep>,
}

impl Optimizer {
    /// An optimiser that has seen nothing. It scales gradients down where the norm of all together exceeds `clip`, if
    /// that is not 0.
    pub fn new(rule: Box<dyn Rule>, clip: f32) -> Self {
        Self {
            rule,
            clip,
            steps: 0,
            moments: BTreeMap::new(),
            fused: None,
        }
    }

    /// Goes on after `steps` steps, which left these moments: f32, of the parameters' shapes.
    pub fn resume(&mut self, steps: u64, moments: Moments) {
        (self.steps, self.moments) = (steps, moments);
    }

    /// How values follow from gradients.
    pub fn rule(&self) -> &dyn Rule {
        &*self.rule
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments of every parameter that has had a gradient.
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// Moves the moments to `device`.
    ///
    /// # Errors
    /// Memory of the device.
    pub fn to(&mut self, device: Device) -> Result<()> {
        for moment in self.moments.values_mut().flatten() {
            *moment = moment.to(device)?;
        }
        self.fused = None;
        Ok(())
    }

    /// One step with learning rate `lr`; gives the norm of all gradients before clipping. Where that is not finite,
    /// nothing is changed.
    ///
    /// # Errors
    /// Tensors of a parameter that do not fit each other; memory.
    pub fn step(&mut self, parameters: &mut dyn Parameters, lr: f32) -> Result<f64> {
        let (mut device, mut squares) = (Device::Cpu, 0.0);
        parameters.each(&mut |parameter| {
            device = parameter.gradient.device();
            if device == Device::Cpu {
                squares += cpu::sum_of_squares(parameter.gradient.as_slice()?);
            }
            Ok(())
        })?;
        if device == Device::Cpu {
            return self.step_on_cpu(parameters, lr, squares.sqrt());
        }
        self.prepare(parameters, lr)?;
        self.launch()?;
        self.finish()
    }

    fn step_on_cpu(&mut self, parameters: &mut dyn Parameters, lr: f32, norm: f64) -> Result<f64> {
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let (rule, t, moments) = (&*self.rule, self.steps, &mut self.moments);
        let clip = match self.clip {
            limit if limit > 0.0 => cpu::clip_factor(norm, f64::from(limit)),
            _ => 1.0,
        };
        parameters.each(&mut |parameter| {
            let moments = moments_of(moments, rule, &parameter)?;
            let step = cpu::Step {
                lr: lr.min(parameter.max_lr),
                weight_decay: parameter.weight_decay,
                step: t,
                clip,
            };
            cpu::step(rule, &step, parameter, moments)
        })?;
        Ok(norm)
    }

    /// Brings what a step on a GPU needs there: the learning rate, and the addresses where they are not those of the
    /// last step, which the result tells. The parameters that have gradients now are those of the step.
    ///
    /// # Errors
    /// As [`Optimizer::step`]; no parameter has a gradient; gradients on the processor.
    pub fn prepare(&mut self, parameters: &mut dyn Parameters, lr: f32) -> Result<bool> {
        let mut table = Vec::new();
        let (rule, moments, mut first) = (&*self.rule, &mut self.moments, None);
        parameters.each(&mut |parameter| {
            let here = parameter.gradient.device();
            check::device(OP, "the gradient", *first.get_or_insert(here), here)?;
            let moments = moments_of(moments, rule, &parameter)?;
            table.push(cuda::OptimizerEntry::new(parameter, moments)?);
            Ok(())
        })?;
        let device = first.unwrap_or(Device::Cpu);
        let fused = match self.fused.take() {
            Some(fused) if fused.device() == device => fused,
            _ => cuda::FusedStep::new(device)?,
        };
        let fused = self.fused.insert(fused);
        fused.prepare(table, [lr, self.clip], rule.numbers(self.steps + 1))
    }

    /// Queues the step that was prepared, on the tensors that [`Parameters`] gave then: they are kept, and not moved,
    /// until it has run. A [`serpens_core::cuda::Graph`] can record it, and is replayed after a [`Optimizer::prepare`]
    /// that found nothing moved.
    ///
    /// # Errors
    /// Whatever the device fails with.
    pub fn launch(&mut self) -> Result<()> {
        let rule = &*self.rule;
        let fused = self.fused.as_mut();
        fused.map_or(Ok(()), |fused| fused.launch(rule))
    }

    /// Ends the step that was launched: waits for it and gives the norm of the gradients. Where that is not finite, the
    /// device has changed nothing, and the step does not count.
    ///
    /// # Errors
    /// Whatever the device fails with.
    pub fn finish(&mut self) -> Result<f64> {
        let Some(fused) = &self.fused else {
            return Ok(0.0);
        };
        let norm = f64::from(fused.outcome()?[0]);
        self.steps += u64::from(norm.is_finite());
        Ok(norm)
    }
}

/// The moments of a parameter, made where there are none, after a check that all its tensors fit its gradient.
fn moments_of<'a>(
    moments: &'a mut Moments,
    rule: &dyn Rule,
    parameter: &Parameter<'_>,
) -> Result<&'a mut [Tensor]> {
    let (shape, device) = (parameter.gradient.shape(), parameter.gradient.device());
    let zeros = |_: &&str| Tensor::zeros(shape, DType::F32, device);
    let kept = match moments.entry(parameter.name.to_owned()) {
        Entry::Occupied(there) => there.into_mut(),
        Entry::Vacant(place) => {
            place.insert(rule.moments().iter().map(zeros).collect::<Result<_>>()?)
        }
    };
    check_tensors(parameter, rule, kept)?;
    Ok(kept)
}

fn check_tensors(parameter: &Parameter<'_>, rule: &dyn Rule, moments: &[Tensor]) -> Result<()> {
    let gradient = parameter.gradient;
    check::dtype(OP, "the gradient", DType::F32, gradient.dtype())?;
    if moments.len() != rule.moments().len() {
        let what = "one of the rule's moments";
        return Err(Error::Missing { op: OP, what });
    }
    let moments = moments.iter().map(|moment| ("a moment", moment));
    let values = moments.chain([("the value", &*parameter.value)]);
    let values = values.map(|(what, tensor)| (what, tensor, DType::F32));
    let shadow = parameter.shadow.as_deref();
    let shadow = shadow.map(|shadow| ("the shadow", shadow, DType::BF16));
    for (what, tensor, dtype) in values.chain(shadow) {
        check::dtype(OP, what, dtype, tensor.dtype())?;
        check::device(OP, what, gradient.device(), tensor.device())?;
        if tensor.len() != gradient.len() {
            let expected = gradient.shape().to_string();
            return Err(Error::shape(OP, what, expected, tensor.shape()));
        }
    }
    Ok(())
}
