//! AdamW: Adam with decoupled weight decay, and the norm that gradients are clipped by.
//!
//! With g scaled by `clip`, at step t = 1, 2, …:
//!
//! ```text
//! p ← p (1 - lr · weight_decay)
//! m ← β1 m + (1 - β1) g        v ← β2 v + (1 - β2) g²
//! p ← p - lr · (m / (1 - β1^t)) / (√(v / (1 - β2^t)) + eps)
//! ```
//!
//! Source: I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101. All values are f32;
//! on a GPU a step also writes the bf16 shadow of a parameter that has one, which the forward pass reads.

pub mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serpens_core::{DType, Device, Error, Result, Tensor};

use crate::check;

const OP: &str = "adamw";

/// The numbers that stay from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Largest norm of all gradients together; 0 for no limit.
    pub clip: f32,
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

/// The moments of every parameter, by name, and the steps that made them.
pub struct AdamW {
    settings: AdamWSettings,
    steps: u64,
    /// The first and the second; zeros before a parameter's first gradient.
    moments: BTreeMap<String, [Tensor; 2]>,
    fused: Option<cuda::FusedStep>,
}

impl AdamW {
    /// An optimiser that has taken `steps` steps, which left these moments: f32, of the parameters' shapes.
    pub fn new(
        settings: AdamWSettings,
        steps: u64,
        moments: BTreeMap<String, [Tensor; 2]>,
    ) -> Self {
        Self {
            settings,
            steps,
            moments,
            fused: None,
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The first and the second moment of every parameter that has had a gradient.
    pub fn moments(&self) -> &BTreeMap<String, [Tensor; 2]> {
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
        let (settings, step, moments) = (self.settings, self.steps, &mut self.moments);
        let clip = match settings.clip {
            limit if limit > 0.0 => cpu::clip_factor(norm, f64::from(limit)),
            _ => 1.0,
        };
        parameters.each(&mut |parameter| {
            let moments = moments_of(moments, &parameter)?;
            let numbers = cpu::Step {
                lr: lr.min(parameter.max_lr),
                beta1: settings.beta1,
                beta2: settings.beta2,
                eps: settings.eps,
                weight_decay: parameter.weight_decay,
                step,
                clip,
            };
            cpu::step(&numbers, parameter, moments)
        })?;
        Ok(norm)
    }

    /// Brings what a step on a GPU needs there: the learning rate, and the addresses where they are not those of the
    /// last step, which the result tells. The parameters that have gradients now are those of the step.
    ///
    /// # Errors
    /// As [`AdamW::step`]; no parameter has a gradient; gradients on the processor.
    pub fn prepare(&mut self, parameters: &mut dyn Parameters, lr: f32) -> Result<bool> {
        let mut table = Vec::new();
        let (moments, mut device) = (&mut self.moments, Device::Cpu);
        parameters.each(&mut |parameter| {
            device = parameter.gradient.device();
            let moments = moments_of(moments, &parameter)?;
            table.push(cuda::AdamWEntry::new(parameter, moments)?);
            Ok(())
        })?;
        let fused = match self.fused.take() {
            Some(fused) if fused.device() == device => fused,
            _ => cuda::FusedStep::new(device, self.settings)?,
        };
        let fused = self.fused.insert(fused);
        fused.prepare(table, lr, self.steps + 1)
    }

    /// Queues the step that was prepared, on the tensors that [`Parameters`] gave then: they are kept, and not moved,
    /// until it has run. A [`serpens_core::cuda::Graph`] can record it, and is replayed after a [`AdamW::prepare`] that
    /// found nothing moved.
    ///
    /// # Errors
    /// Whatever the device fails with.
    pub fn launch(&mut self) -> Result<()> {
        self.fused.as_mut().map_or(Ok(()), cuda::FusedStep::launch)
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
    moments: &'a mut BTreeMap<String, [Tensor; 2]>,
    parameter: &Parameter<'_>,
) -> Result<&'a mut [Tensor; 2]> {
    let (shape, device) = (parameter.gradient.shape(), parameter.gradient.device());
    let zeros = || Tensor::zeros(shape, DType::F32, device);
    let pair = match moments.entry(parameter.name.to_owned()) {
        Entry::Occupied(there) => there.into_mut(),
        Entry::Vacant(place) => place.insert([zeros()?, zeros()?]),
    };
    check_tensors(parameter, pair)?;
    Ok(pair)
}

fn check_tensors(parameter: &Parameter<'_>, [first, second]: &[Tensor; 2]) -> Result<()> {
    let gradient = parameter.gradient;
    check::dtype(OP, "the gradient", DType::F32, gradient.dtype())?;
    let values = [
        ("the value", &*parameter.value),
        ("the first moment", first),
        ("the second moment", second),
    ];
    let values = values.map(|(what, tensor)| (what, tensor, DType::F32));
    let shadow = parameter.shadow.as_deref();
    let shadow = shadow.map(|shadow| ("the shadow", shadow, DType::BF16));
    for (what, tensor, dtype) in values.into_iter().chain(shadow) {
        check::dtype(OP, what, dtype, tensor.dtype())?;
        check::device(OP, what, gradient.device(), tensor.device())?;
        if tensor.len() != gradient.len() {
            let expected = gradient.shape().to_string();
            return Err(Error::shape(OP, what, expected, tensor.shape()));
        }
    }
    Ok(())
}
