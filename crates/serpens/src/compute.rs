//! Where and in which types the command computes.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serpens_core::{DType, Device};
use serpens_formats::Encoding;
use serpens_nn::{Precision, Recompute, ToInfer};
use serpens_train::Compute;

use crate::refusal::Refusal;
use crate::{Error, Result};

/// Options of the commands that compute.
#[derive(Debug, Args)]
pub struct ComputeArgs {
    /// cpu, cuda, cuda:N, or auto: a GPU where one can be used.
    #[arg(long, default_value = "auto", value_parser = device)]
    device: Choice,
    /// In which types; f32 on the processor and bf16 on a GPU where it is left out.
    #[arg(long, value_parser = one_of(Precision::ALL))]
    pub(crate) precision: Option<Precision>,
}

/// What `--device` says: a device, or `None` for auto.
type Choice = Option<Device>;

fn device(text: &str) -> Result<Choice, String> {
    let named = match text {
        "auto" => return Ok(None),
        _ => text.parse().map(Some),
    };
    named.map_err(|_| "known are auto, cpu, cuda and cuda:N, N from 0".into())
}

/// The types that states may have.
pub(crate) const STATES: &[DType] = &[DType::F32, DType::BF16];

/// Reads the name of one of these values, in small letters.
pub(crate) fn one_of<T>(values: &'static [T]) -> impl TypedValueParser<Value = T>
where
    T: ToString + Clone + Send + Sync,
{
    let name = |value: &T| value.to_string().to_lowercase();
    PossibleValuesParser::new(values.iter().map(name)).map(move |word| {
        let named = values.iter().find(|value| name(value) == word);
        named.cloned().expect("only their names are let through")
    })
}

/// Options of the commands that ask a model.
#[derive(Debug, Args)]
pub struct InferArgs {
    /// The device and its types.
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// How matrices are held, all else in f32, with q4_k the table and the head in q6_k, on a GPU W_x and W_delta of
    /// blocks in bf16; as the model's file has them where it is left out.
    #[arg(long, value_name = "TYPE", value_parser = one_of(&ToInfer::WEIGHTS))]
    weights: Option<Encoding>,
}

impl InferArgs {
    /// Where and in which types a model is asked, all known to be there.
    pub(crate) fn resolve(&self) -> Result<ToInfer> {
        let compute = self.compute.resolve()?;
        let how = ToInfer {
            device: compute.device,
            precision: compute.precision,
            weights: self.weights,
        };
        let wrong = |error| Error::refused("--weights", Refusal::Weights(Box::new(error)));
        how.check().map_err(wrong)?;
        Ok(how)
    }
}

impl ComputeArgs {
    /// The device and the types, both known to be there; nothing is computed again.
    pub(crate) fn resolve(&self) -> Result<Compute> {
        let device = match self.device {
            None => Device::best(),
            Some(Device::Cpu) => Device::Cpu,
            Some(Device::Cuda(ordinal)) => {
                let device = Device::cuda(ordinal);
                device.map_err(|e| Error::refused("--device", Refusal::NoDevice(Box::new(e))))?
            }
        };
        let precision = match (device, self.precision) {
            (Device::Cpu, None | Some(Precision::F32)) => Precision::F32,
            (Device::Cpu, Some(precision)) => return Err(self.needs_gpu(precision)),
            (Device::Cuda(_), named) => named.unwrap_or(Precision::Bf16),
        };
        Ok(Compute {
            device,
            precision,
            recompute: Recompute::None,
        })
    }

    fn needs_gpu(&self, precision: Precision) -> Error {
        let wrong = match (self.device, Device::cuda(0)) {
            (None, Err(error)) => Refusal::NoGpu {
                precision,
                source: Box::new(error),
            },
            _ => Refusal::OnGpu(precision),
        };
        Error::refused("--precision", wrong)
    }
}
