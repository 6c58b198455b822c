//! An optimiser over all parameters of a model.

use std::collections::BTreeMap;
use std::path::Path;

use serpens_core::{DType, Device, Gradients, Result as CoreResult, Tensor};
use serpens_formats::Verify;
use serpens_formats::safetensors::{read_tensors, write_tensors};
use serpens_nn::Module;
use serpens_ops::optimizer::{self, Moments, Parameter, Parameters, Rule};

use crate::{Damage, Error, OptimizerConfig, Result};

/// The parameters of a model with their gradients.
pub(crate) struct Trained<'a, M> {
    model: &'a mut M,
    gradients: &'a mut Gradients,
    weight_decay: f32,
}

impl<M: Module> Parameters for Trained<'_, M> {
    fn each(&mut self, f: &mut dyn FnMut(Parameter<'_>) -> CoreResult<()>) -> CoreResult<()> {
        self.model.visit_mut("", &mut |name, param| {
            let Some(gradient) = self.gradients.get(param.id())? else {
                return Ok(()); // the loss did not depend on this parameter
            };
            let (max_lr, decays) = (param.max_lr, param.decay);
            let (value, shadow) = param.tensors_mut()?;
            f(Parameter {
                name,
                value,
                shadow,
                gradient: &gradient,
                weight_decay: if decays { self.weight_decay } else { 0.0 },
                max_lr,
            })?;
            Ok(())
        })?;
        Ok(())
    }
}

/// [`serpens_ops::optimizer`] over the parameters of a model.
pub struct Optimizer {
    weight_decay: f32,
    /// What moves values and moments, and keeps these.
    pub(crate) inner: optimizer::Optimizer,
}

impl Optimizer {
    /// An optimiser that has seen nothing.
    pub fn new(config: OptimizerConfig) -> Self {
        Self::of(config.rule(), config)
    }

    /// The same with a rule of one's own in place of the settings'.
    pub fn of(rule: Box<dyn Rule>, config: OptimizerConfig) -> Self {
        Self {
            weight_decay: config.weight_decay,
            inner: optimizer::Optimizer::new(rule, config.clip),
        }
    }

    /// One step with learning rate `lr` of a model whose parameters are on one device; gives the norm of all gradients
    /// before clipping. Where that is not finite, nothing is changed.
    pub fn step(
        &mut self,
        model: &mut impl Module,
        gradients: &mut Gradients,
        lr: f32,
    ) -> CoreResult<f64> {
        let mut parameters = self.parameters(model, gradients);
        self.inner.step(&mut parameters, lr)
    }

    /// The parameters of a step.
    pub(crate) fn parameters<'a, M: Module>(
        &self,
        model: &'a mut M,
        gradients: &'a mut Gradients,
    ) -> Trained<'a, M> {
        Trained {
            model,
            gradients,
            weight_decay: self.weight_decay,
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.inner.steps()
    }

    /// Moves the moments to `device`, where the model is.
    ///
    /// # Errors
    /// Memory of the device.
    pub fn to(&mut self, device: Device) -> CoreResult<()> {
        self.inner.to(device)
    }

    /// Writes the moments to a safetensors file; how many steps made them is for the caller to keep.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(write_tensors(path, &self.state())?)
    }

    /// The same optimiser of `model` as [`Optimizer::save`] wrote it after `steps` steps, onto the processor.
    ///
    /// # Errors
    /// [`Error::Damaged`] for moments of another rule, and for a moment that is missing, without a parameter, or of
    /// another shape than that; a file that cannot be read.
    pub fn load<M: Module>(
        mut self,
        steps: u64,
        path: &Path,
        model: &M,
        verify: Verify,
    ) -> Result<Self> {
        let saved = read_tensors(path, Device::cpu(), verify)?;
        let moments = restore(self.inner.rule(), saved, model);
        let moments = moments.map_err(|e| Error::damaged(path, e))?;
        self.inner.resume(steps, moments);
        Ok(self)
    }

    /// The moments as named tensors: each parameter's name after that of the moment.
    pub(crate) fn state(&self) -> Vec<(String, &Tensor)> {
        let kinds = self.inner.rule().moments();
        let named = self.inner.moments().iter().flat_map(|(name, moments)| {
            let named = kinds.iter().zip(moments);
            named.map(move |(kind, moment)| (format!("{kind}.{name}"), moment))
        });
        named.collect()
    }
}

/// The moments that a rule keeps of the parameters of a model, out of a file's tensors.
fn restore(
    rule: &dyn Rule,
    mut saved: BTreeMap<String, Tensor>,
    model: &impl Module,
) -> Result<Moments, Damage> {
    let mut parameters = BTreeMap::new();
    let visited = model.visit("", &mut |name, param| {
        let is_kept = param.trained && !param.frozen;
        parameters.insert(name.to_owned(), (param.shape(), is_kept));
        Ok(())
    });
    visited.map_err(Box::new)?;
    let is_known = |name: &&String| {
        let named = |kind| name.strip_prefix(kind)?.strip_prefix('.');
        let mut parameter = rule.moments().iter().filter_map(|kind| named(*kind));
        parameter.any(|parameter| parameters.contains_key(parameter))
    };
    if let Some(name) = saved.keys().find(|name| !is_known(name)).cloned() {
        let rule = rule.name();
        return Err(Damage::SurplusMoment { name, rule });
    }
    let mut moments = Moments::new();
    for (parameter, (shape, is_kept)) in parameters {
        let mut kept = Vec::new();
        for kind in rule.moments() {
            let name = format!("{kind}.{parameter}");
            match saved.remove(&name) {
                Some(it) if it.shape() == shape && it.dtype() == DType::F32 => kept.push(it),
                None if !is_kept => {}
                _ => return Err(Damage::WrongMoment { name, shape }),
            }
        }
        if kept.len() == rule.moments().len() {
            moments.insert(parameter, kept);
        }
    }
    Ok(moments)
}
