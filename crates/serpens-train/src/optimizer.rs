//! AdamW over all parameters of a model.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Gradients, Result as CoreResult, Tensor};
use serpens_formats::Verify;
use serpens_formats::safetensors::{read_tensors, write_tensors};
use serpens_nn::Module;
use serpens_ops::adamw::{self, AdamWSettings, Parameter, Parameters};

use crate::{Damage, Error, Result};

/// Settings of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Peak learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, of the parameters that take it.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; 0 for no limit.
    pub clip: f32,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
        }
    }
}

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

/// [`serpens_ops::adamw`] over the parameters of a model.
pub struct AdamW {
    weight_decay: f32,
    /// What moves values and moments, and keeps these.
    pub(crate) rule: adamw::AdamW,
}

impl AdamW {
    /// An optimiser that has seen nothing.
    pub fn new(config: AdamWConfig) -> Self {
        Self::resumed(config, 0, BTreeMap::new())
    }

    fn resumed(config: AdamWConfig, steps: u64, moments: BTreeMap<String, [Tensor; 2]>) -> Self {
        let settings = AdamWSettings {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            clip: config.clip,
        };
        Self {
            weight_decay: config.weight_decay,
            rule: adamw::AdamW::new(settings, steps, moments),
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
        self.rule.step(&mut parameters, lr)
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
        self.rule.steps()
    }

    /// Moves the moments to `device`, where the model is.
    ///
    /// # Errors
    /// Memory of the device.
    pub fn to(&mut self, device: Device) -> CoreResult<()> {
        self.rule.to(device)
    }

    /// Writes the moments to a safetensors file; how many steps made them is for the caller to keep.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(write_tensors(path, &self.state())?)
    }

    /// The optimiser of `model` as [`AdamW::save`] wrote it after `steps` steps, onto the processor.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a moment without its other half, without a parameter, or of another shape than that; a
    /// file that cannot be read.
    pub fn load(config: AdamWConfig, steps: u64, path: &Path, model: &impl Module) -> Result<Self> {
        let moments = read_tensors(path, Device::cpu(), Verify::Digests)?;
        Self::restore(config, steps, moments, model).map_err(|e| Error::damaged(path, e))
    }

    /// The moments as named tensors: `m.NAME` and `v.NAME`.
    pub(crate) fn state(&self) -> Vec<(String, &Tensor)> {
        let moments = self.rule.moments().iter();
        moments
            .flat_map(|(name, [m, v])| [(format!("m.{name}"), m), (format!("v.{name}"), v)])
            .collect()
    }

    fn restore(
        config: AdamWConfig,
        steps: u64,
        mut state: BTreeMap<String, Tensor>,
        model: &impl Module,
    ) -> Result<Self, Damage> {
        let mut parameters = Vec::new();
        let visited = model.visit("", &mut |name, param| {
            parameters.push((
                name.to_owned(),
                param.shape(),
                param.trained && !param.frozen,
            ));
            Ok(())
        });
        visited.map_err(Box::new)?;
        let mut moments = BTreeMap::new();
        for (parameter, shape, trained) in parameters {
            let pair = ["m", "v"].map(|kind| state.remove(&format!("{kind}.{parameter}")));
            let [Some(m), Some(v)] = pair else {
                if trained {
                    return Err(Damage::MissingMoments { parameter });
                }
                continue;
            };
            if let Some(moment) = [&m, &v]
                .into_iter()
                .find(|moment| moment.shape() != shape || moment.dtype() != DType::F32)
            {
                let (dtype, shape) = (moment.dtype(), moment.shape());
                return Err(Damage::WrongMoment {
                    parameter,
                    dtype,
                    shape,
                });
            }
            moments.insert(parameter, [m, v]);
        }
        match state.into_keys().next() {
            Some(name) => Err(Damage::SurplusMoment { name }),
            None => Ok(Self::resumed(config, steps, moments)),
        }
    }
}
