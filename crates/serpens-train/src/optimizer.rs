//! AdamW over all parameters of a model.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Gradients, Tensor};
use serpens_nn::Module;
use serpens_ops::adamw::cpu::{self, Step};

use crate::{Error, Result};

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

/// The moments of every parameter, by name. See [`serpens_ops::adamw`] for the rule.
pub struct AdamW {
    config: AdamWConfig,
    moments: BTreeMap<String, [Tensor; 2]>,
    steps: u64,
}

impl AdamW {
    /// An optimiser that has seen nothing.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            moments: BTreeMap::new(),
            steps: 0,
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step with learning rate `lr`; gives the norm of all gradients before clipping. Where that is not finite, nothing is
    /// changed.
    pub fn step(
        &mut self,
        model: &mut impl Module,
        gradients: &mut Gradients,
        lr: f32,
    ) -> Result<f64> {
        let norm = gradient_norm(model, gradients)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let clip = match self.config.clip {
            limit if limit > 0.0 => cpu::clip_factor(norm, f64::from(limit)),
            _ => 1.0,
        };
        let (config, moments, step) = (&self.config, &mut self.moments, self.steps);
        let mut result = Ok(());
        model.visit_mut("", &mut |name, param| {
            if result.is_err() {
                return;
            }
            let decay = if param.decays() {
                config.weight_decay
            } else {
                0.0
            };
            let settings = Step {
                lr: lr.min(param.max_lr()),
                beta1: config.beta1,
                beta2: config.beta2,
                eps: config.eps,
                weight_decay: decay,
                step,
                clip,
            };
            result = (|| {
                if !moments.contains_key(name) {
                    let zeros = || Tensor::zeros(param.value().shape(), DType::F32, Device::cpu());
                    moments.insert(name.to_owned(), [zeros()?, zeros()?]);
                }
                let pair = moments.get_mut(name);
                let (Some(gradient), Some([first, second])) = (gradients.get(param.id())?, pair)
                else {
                    return Ok(()); // the loss did not depend on this parameter
                };
                cpu::update(
                    &settings,
                    param.value_mut().make_mut()?,
                    gradient.as_slice()?,
                    first.make_mut()?,
                    second.make_mut()?,
                );
                Ok(())
            })();
        });
        result.map(|()| norm)
    }

    /// The moments as named tensors: `m.NAME` and `v.NAME`.
    pub(crate) fn state(&self) -> Vec<(String, &Tensor)> {
        self.moments
            .iter()
            .flat_map(|(name, [m, v])| [(format!("m.{name}"), m), (format!("v.{name}"), v)])
            .collect()
    }

    /// The optimiser of `model` as it was after `steps` steps.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the moments' file `path`: a moment without its other half, without a parameter, or of another shape than that.
    pub(crate) fn restore(
        config: AdamWConfig,
        steps: u64,
        mut state: BTreeMap<String, Tensor>,
        model: &impl Module,
        path: &Path,
    ) -> Result<Self> {
        let malformed = |reason: String| Error::Malformed {
            path: path.to_owned(),
            reason,
        };
        if steps == 0 && state.is_empty() {
            return Ok(Self::new(config));
        }
        let mut moments = BTreeMap::new();
        let mut result = Ok(());
        model.visit("", &mut |name, param| {
            let pair = ["m", "v"].map(|kind| state.remove(&format!("{kind}.{name}")));
            let [Some(m), Some(v)] = pair else {
                result = Err(malformed(format!("the moments of {name} are missing")));
                return;
            };
            for moment in [&m, &v] {
                if moment.shape() != param.value().shape() || moment.dtype() != DType::F32 {
                    result = Err(malformed(format!("a moment of {name} is {moment:?}")));
                }
            }
            moments.insert(name.to_owned(), [m, v]);
        });
        result?;
        match state.keys().next() {
            Some(name) => Err(malformed(format!("{name} belongs to no parameter"))),
            None => Ok(Self {
                config,
                moments,
                steps,
            }),
        }
    }
}

/// The 2-norm of the gradients of all parameters together.
fn gradient_norm(model: &impl Module, gradients: &mut Gradients) -> Result<f64> {
    let mut sum = 0.0;
    let mut result = Ok(());
    model.visit("", &mut |_, param| {
        if result.is_err() {
            return;
        }
        result = (|| {
            if let Some(gradient) = gradients.get(param.id())? {
                sum += cpu::sum_of_squares(gradient.as_slice()?);
            }
            Ok(())
        })();
    });
    result.map(|()| sum.sqrt())
}
