//! AdamW over all parameters of a model.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serpens_core::cuda::{DevicePtr, Staging};
use serpens_core::{DType, Device, Gradients, Tensor};
use serpens_nn::{Module, Param};
use serpens_ops::adamw::cpu::{self, Step};
use serpens_ops::adamw::cuda::{FusedAdamW, Scalars, Segment};

use crate::Result;

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

/// The address of a tensor that belongs to a parameter with this gradient, for a kernel that changes it.
fn address(
    tensor: &mut Tensor,
    gradient: &Tensor,
    dtype: DType,
) -> serpens_core::Result<DevicePtr> {
    let fits = tensor.device() == gradient.device()
        && tensor.dtype() == dtype
        && tensor.len() == gradient.len();
    if !fits {
        let reason = format!("{tensor:?} beside a gradient that is {gradient:?}");
        return Err(serpens_core::Error::argument("adamw", reason));
    }
    Ok(tensor.view_mut()?.ptr())
}

impl AdamWConfig {
    fn decay_of(&self, param: &Param) -> f32 {
        if param.decays() {
            self.weight_decay
        } else {
            0.0
        }
    }
}

/// The moments of every parameter, by name. See [`serpens_ops::adamw`] for the rule.
pub struct AdamW {
    config: AdamWConfig,
    moments: BTreeMap<String, [Tensor; 2]>,
    steps: u64,
    fused: Option<Fused>,
}

/// What a GPU needs besides the moments.
struct Fused {
    update: FusedAdamW,
    segments: Vec<Segment>,
    /// The numbers that change from step to step, on the device, and the way there.
    scalars: Tensor,
    staging: Staging,
}

impl Fused {
    fn new(config: &AdamWConfig, device: Device) -> serpens_core::Result<Self> {
        Ok(Self {
            update: FusedAdamW::new(device, config.beta1, config.beta2, config.eps)?,
            segments: Vec::new(),
            scalars: Tensor::zeros([4], DType::F32, device)?,
            staging: Staging::new(device, 16)?,
        })
    }
}

impl AdamW {
    /// An optimiser that has seen nothing.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            moments: BTreeMap::new(),
            steps: 0,
            fused: None,
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moves the moments to `device`.
    pub fn to(&mut self, device: Device) -> Result<()> {
        for moment in self.moments.values_mut().flatten() {
            *moment = moment.to(device)?;
        }
        self.fused = None;
        Ok(())
    }

    /// One step with learning rate `lr` of a model whose parameters are on one device; gives the norm of all gradients before
    /// clipping. Where that is not finite, nothing is changed.
    pub fn step(
        &mut self,
        model: &mut impl Module,
        gradients: &mut Gradients,
        lr: f32,
    ) -> serpens_core::Result<f64> {
        let mut device = Device::Cpu;
        model.visit("", &mut |_, param| device = param.value().device());
        match device {
            Device::Cpu => self.step_on_cpu(model, gradients, lr),
            Device::Cuda(_) => {
                self.prepare(model, gradients, lr)?;
                self.launch()?;
                self.finish()
            }
        }
    }

    fn step_on_cpu(
        &mut self,
        model: &mut impl Module,
        gradients: &mut Gradients,
        lr: f32,
    ) -> serpens_core::Result<f64> {
        let norm = gradient_norm(model, gradients)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let config = self.config;
        let clip = match config.clip {
            limit if limit > 0.0 => cpu::clip_factor(norm, f64::from(limit)),
            _ => 1.0,
        };
        let step = self.steps;
        self.each(model, gradients, |param, gradient, [first, second]| {
            let settings = Step {
                lr: lr.min(param.max_lr()),
                beta1: config.beta1,
                beta2: config.beta2,
                eps: config.eps,
                weight_decay: config.decay_of(param),
                step,
                clip,
            };
            let value = param.value_mut().make_mut()?;
            let (first, second) = (first.make_mut()?, second.make_mut()?);
            cpu::update(&settings, value, gradient.as_slice()?, first, second);
            Ok(())
        })?;
        Ok(norm)
    }

    /// Calls `f` for every parameter that has a gradient, with it and the moments, which are zero at first.
    fn each(
        &mut self,
        model: &mut impl Module,
        gradients: &mut Gradients,
        mut f: impl FnMut(&mut Param, &Tensor, &mut [Tensor; 2]) -> serpens_core::Result<()>,
    ) -> serpens_core::Result<()> {
        let moments = &mut self.moments;
        let mut result = Ok(());
        model.visit_mut("", &mut |name, param| {
            if result.is_err() {
                return;
            }
            result = (|| {
                let Some(gradient) = gradients.get(param.id())? else {
                    return Ok(()); // the loss did not depend on this parameter
                };
                if !moments.contains_key(name) {
                    let zeros = || Tensor::zeros(gradient.shape(), DType::F32, gradient.device());
                    moments.insert(name.to_owned(), [zeros()?, zeros()?]);
                }
                match moments.get_mut(name) {
                    Some(pair) => f(param, &gradient, pair),
                    None => unreachable!("the moments were made above"),
                }
            })();
        });
        result
    }

    /// Brings what a step on a GPU needs there: the learning rate, and the addresses where they are not those of the last step,
    /// which the result tells. The parameters that had gradients when this was called are those of the step.
    pub(crate) fn prepare(
        &mut self,
        model: &mut impl Module,
        gradients: &mut Gradients,
        lr: f32,
    ) -> serpens_core::Result<bool> {
        let config = self.config;
        let mut segments = Vec::new();
        let mut device = Device::Cpu;
        self.each(model, gradients, |param, gradient, [first, second]| {
            device = gradient.device();
            let shadow = match param.shadow_mut() {
                Some(shadow) => address(shadow, gradient, DType::BF16)?,
                None => DevicePtr::NULL,
            };
            segments.push(Segment {
                value: address(param.value_mut(), gradient, DType::F32)?,
                gradient: gradient.view().ptr(),
                first: address(first, gradient, DType::F32)?,
                second: address(second, gradient, DType::F32)?,
                shadow,
                len: gradient.len() as u64,
                weight_decay: config.decay_of(param),
                max_lr: param.max_lr(),
            });
            Ok(())
        })?;
        if segments.is_empty() {
            return Err(serpens_core::Error::argument(
                "adamw",
                "no parameter has a gradient",
            ));
        }
        let fused = match self.fused.take() {
            Some(fused) if fused.scalars.device() == device => fused,
            _ => Fused::new(&config, device)?,
        };
        let fused = self.fused.insert(fused);
        let moved = fused.segments != segments;
        // SAFETY: the model, the moments and the gradients outlive the step, and the step is prepared anew whenever they move.
        unsafe { fused.update.set_segments(&segments)? };
        fused.segments = segments;
        let scalars = Scalars {
            lr,
            step: self.steps + 1,
            clip: config.clip,
        };
        let values = scalars.values(config.beta1, config.beta2);
        fused.staging.upload(&mut fused.scalars, &values)?;
        Ok(moved)
    }

    /// Queues the step that was prepared.
    pub(crate) fn launch(&mut self) -> serpens_core::Result<()> {
        match &mut self.fused {
            Some(fused) => fused.update.step(&fused.scalars),
            None => Ok(()),
        }
    }

    /// Ends the step that was launched: waits for it and gives the norm of the gradients. Where that is not finite, the device has
    /// changed nothing, and the step does not count.
    pub(crate) fn finish(&mut self) -> serpens_core::Result<f64> {
        let Some(fused) = &self.fused else {
            return Ok(0.0);
        };
        let norm = f64::from(fused.update.outcome().to_vec::<f32>()?[0]);
        self.steps += u64::from(norm.is_finite());
        Ok(norm)
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
    /// [`crate::Error::Malformed`] with the moments' file `path`: a moment without its other half, without a parameter, or of another shape than that.
    pub(crate) fn restore(
        config: AdamWConfig,
        steps: u64,
        mut state: BTreeMap<String, Tensor>,
        model: &impl Module,
        path: &Path,
    ) -> Result<Self> {
        let malformed = |reason: String| crate::Error::Malformed {
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
                fused: None,
            }),
        }
    }
}

/// The 2-norm of the gradients of all parameters together.
fn gradient_norm(model: &impl Module, gradients: &mut Gradients) -> serpens_core::Result<f64> {
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
