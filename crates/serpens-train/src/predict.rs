//! Answers: of classes, labels and values.

use serpens_core::{Device, Error as CoreError, Tensor, Var};
use serpens_data::{Batch, Bounds, Numbers};
use serpens_nn::layers::Sequence;
use serpens_nn::{Answer, Error as ModelError, Predictor};
use serpens_ops::cross_entropy::{ClassOptions, check_targets, weighted_cross_entropy};
use serpens_ops::elementwise::{abs, binary_cross_entropy, broadcast_rows, mul, scale, sub};
use serpens_ops::embedding::check_ids;
use serpens_ops::reduce::mean;

use crate::{Error, Loss, Objective, Result};

const OP: &str = "Predict";

/// What is made small where values are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deviation {
    /// (value − target)², which the mean of what may come makes least.
    #[default]
    Squared,
    /// |value − target|, which its median makes least.
    Absolute,
}

/// The answers of a [`Predictor`]:
///
/// | answer | targets | loss |
/// |---|---|---|
/// | a class | u32: below outputs, or `IGNORE` | cross-entropy of the softmax, weighted over Σ of the weights |
/// | labels | f32 in 0..=1: a probability for each output | mean of w · −(t ln p + (1 − t) ln (1 − p)), p = σ(output) |
/// | values | f32: one for each output | mean of w · (output − t)², or w · \|output − t\| |
///
/// There is one answer for each sequence where the model pools, otherwise one for each position. A mean is over all that
/// is answered; that of classes is divided by Σ w of their targets.
#[derive(Clone, Debug, Default)]
pub struct Predict {
    weights: Option<Tensor>,
    smoothing: f32,
    deviation: Deviation,
}

impl Predict {
    /// The same with a weight w ≥ 0 for each output.
    ///
    /// # Errors
    /// [`Error::Config`] for weights that are negative or no numbers; memory.
    pub fn weighted(mut self, weights: &[f32]) -> Result<Self> {
        let refused = weights.iter().find(|w| !w.is_finite() || **w < 0.0);
        if let Some(weight) = refused {
            return Err(Error::Config {
                field: "weights",
                value: weight.to_string(),
                reason: "weights are numbers from 0 on",
            });
        }
        if weights.iter().all(|&weight| weight == 0.0) {
            return Err(Error::Config {
                field: "weights",
                value: "all of them 0".to_owned(),
                reason: "nothing would be learnt",
            });
        }
        self.weights = Some(Tensor::from_slice([weights.len()], weights, Device::Cpu)?);
        Ok(self)
    }

    /// The same with a share ε of each target spread over all classes, or over a label and its absence.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no share below 1.
    pub fn smoothed(mut self, smoothing: f32) -> Result<Self> {
        if !(0.0..1.0).contains(&smoothing) {
            return Err(Error::Config {
                field: "smoothing",
                value: smoothing.to_string(),
                reason: "it is a share from 0 to below 1",
            });
        }
        self.smoothing = smoothing;
        Ok(self)
    }

    /// The same with another measure of how far values are off.
    pub fn by(mut self, deviation: Deviation) -> Self {
        self.deviation = deviation;
        self
    }

    /// The mean of w · losses.
    fn mean(&self, losses: Var) -> serpens_core::Result<Var> {
        match &self.weights {
            Some(weights) => {
                let weights = broadcast_rows(&weights.clone().into(), losses.shape())?;
                mean(&mul(&losses, &weights)?)
            }
            None => mean(&losses),
        }
    }
}

impl Objective for Predict {
    type Model = Predictor;

    fn check_source(&self, model: &Predictor, bounds: Bounds) -> Result<()> {
        let config = model.config();
        let outputs = config.head.outputs;
        let fits = |field: &str, found: usize, needed: usize, most: f64| {
            let allowed = needed as f64..=most;
            let field = field.to_owned();
            let found = found as f64;
            match allowed.contains(&found) {
                true => Ok(()),
                false => Err(Error::Model(ModelError::Config {
                    field,
                    found,
                    allowed,
                })),
            }
        };
        match config.channels {
            0 => fits(
                "model.vocab_size",
                config.model.vocab_size,
                bounds.inputs,
                f64::MAX,
            )?,
            channels if bounds.inputs > 0 => fits("channels", channels, 0, 0.0)?, // these are tokens
            _ => {}
        }
        let most = match config.head.answer {
            Answer::Class => f64::MAX,
            Answer::Labels | Answer::Values => bounds.targets as f64,
        };
        fits("head.outputs", outputs, bounds.targets, most)?;
        match &self.weights {
            Some(weights) if weights.len() != outputs => Err(Error::Config {
                field: "weights",
                value: format!("{} of them", weights.len()),
                reason: "there is one for each output of the model",
            }),
            _ => Ok(()),
        }
    }

    fn check_batch(&self, model: &Predictor, batch: &Batch<Numbers>) -> serpens_core::Result<()> {
        let config = model.config();
        check_ids(batch.inputs.ids(), config.model.vocab_size)?;
        check_targets(batch.targets.ids(), config.head.outputs)?;
        let is_probability = |value: &f32| (0.0..=1.0).contains(value);
        match (&batch.targets, config.head.answer) {
            (Numbers::Values(labels), Answer::Labels) => {
                let wrong = labels.iter().find(|label| !is_probability(label));
                let wrong = wrong.map(|&got| CoreError::Value {
                    op: OP,
                    what: "a label",
                    expected: "a probability",
                    got: got.into(),
                });
                wrong.map_or(Ok(()), Err)
            }
            _ => Ok(()),
        }
    }

    fn loss(
        &self,
        model: &Predictor,
        inputs: &Var,
        targets: &Tensor,
        sequence: &Sequence<'_>,
    ) -> serpens_core::Result<Loss> {
        let outputs = model.forward(inputs, sequence, None)?;
        let alike = || {
            let (expected, got) = (outputs.shape(), targets.shape());
            let other = CoreError::shape(OP, "the targets", expected.to_string(), got);
            targets.reshape(expected).map_err(|_| other)
        };
        let value = match model.config().head.answer {
            Answer::Class => {
                let options = ClassOptions {
                    weights: self.weights.as_ref(),
                    smoothing: self.smoothing,
                };
                let loss = weighted_cross_entropy(outputs, targets, &options)?;
                return Ok(Loss {
                    value: loss.loss,
                    totals: Some(loss.totals),
                });
            }
            Answer::Labels => {
                // Linear in the target: what is spread is added apart.
                let kept = scale(&alike()?.into(), 1.0 - self.smoothing)?.into_tensor()?;
                let losses = binary_cross_entropy(&outputs, &kept)?;
                match self.smoothing {
                    0.0 => losses,
                    spread => sub(&losses, &scale(&outputs, spread / 2.0)?)?,
                }
            }
            Answer::Values => {
                let off = sub(&outputs, &alike()?.into())?;
                match self.deviation {
                    Deviation::Squared => mul(&off, &off)?,
                    Deviation::Absolute => abs(&off)?,
                }
            }
        };
        Ok(Loss {
            value: self.mean(value)?,
            totals: None,
        })
    }

    fn description(&self) -> String {
        let weights = self.weights.as_ref();
        let weights = weights.and_then(|weights| weights.to_vec::<f32>().ok());
        let (smoothing, deviation) = (self.smoothing, self.deviation);
        match (&weights, smoothing, deviation) {
            (None, 0.0, Deviation::Squared) => String::new(),
            _ => format!(", weights {weights:?}, smoothing {smoothing}, {deviation:?}"),
        }
    }

    fn to(&mut self, device: Device) -> serpens_core::Result<()> {
        let weights = self.weights.take().map(|weights| weights.to(device));
        self.weights = weights.transpose()?;
        Ok(())
    }
}
