//! Where and in which types the command computes.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serpens_core::{Device, cuda};
use serpens_nn::{Precision, Recompute};
use serpens_train::Compute;

use crate::refusal::WrongOption;
use crate::{Error, Result};

/// Options of the commands that compute.
#[derive(Debug, Args)]
pub struct ComputeArgs {
    /// cpu, cuda, cuda:N, or auto: a GPU where one can be used.
    #[arg(long, default_value = "auto", value_parser = device)]
    device: Choice,
    /// In which types; f32 on the processor and bf16 on a GPU where it is left out.
    #[arg(long, value_parser = precision())]
    precision: Option<Precision>,
}

/// What `--device` says.
#[derive(Clone, Copy, Debug)]
enum Choice {
    Auto,
    Named(Device),
}

fn device(text: &str) -> Result<Choice, String> {
    match text {
        "auto" => Ok(Choice::Auto),
        _ => text
            .parse()
            .map(Choice::Named)
            .map_err(|_| "known are auto, cpu, cuda and cuda:N, N from 0".into()),
    }
}

fn precision() -> impl TypedValueParser<Value = Precision> {
    one_of(Precision::ALL.iter().map(|precision| precision.name()))
}

/// Reads `--recompute`.
pub(crate) fn recompute() -> impl TypedValueParser<Value = Recompute> {
    one_of(Recompute::ALL.iter().map(|recompute| recompute.name()))
}

/// Reads one of these names, which are all that a type can be read from.
fn one_of<T>(names: impl Iterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: fmt::Debug> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).map(|name| {
        name.parse()
            .expect("only names that can be read are let through")
    })
}

impl ComputeArgs {
    /// The device and the types, both known to be there; nothing is computed again.
    pub(crate) fn resolve(&self) -> Result<Compute> {
        let device = match self.device {
            Choice::Auto => Device::best(),
            Choice::Named(Device::Cpu) => Device::Cpu,
            Choice::Named(Device::Cuda(ordinal)) => {
                let device = Device::cuda(ordinal);
                device.map_err(|e| Error::usage("--device", WrongOption::NoDevice(Box::new(e))))?
            }
        };
        let precision = match (device, self.precision) {
            (Device::Cpu, None) => Precision::F32,
            (Device::Cuda(_), None) => Precision::Bf16,
            (_, Some(precision)) => precision,
        };
        match device {
            Device::Cpu if precision != Precision::F32 => Err(self.needs_gpu(precision)),
            _ => Ok(Compute {
                device,
                precision,
                recompute: Recompute::None,
            }),
        }
    }

    /// The types, where they were named.
    pub(crate) fn precision(&self) -> Option<Precision> {
        self.precision
    }

    fn needs_gpu(&self, precision: Precision) -> Error {
        let wrong = match (self.device, Device::cuda(0)) {
            (Choice::Auto, Err(error)) => {
                let source = Box::new(error);
                WrongOption::NoGpu { precision, source }
            }
            _ => WrongOption::OnGpu { precision },
        };
        Error::usage("--precision", wrong)
    }
}

/// Names and values of where a run was computed, for its report.
pub(crate) fn facts(compute: &Compute) -> Vec<(String, String)> {
    let place = format!("on {} in {}", compute.device, compute.precision);
    let mut facts = vec![("computed".to_owned(), place)];
    if let Ok(card) = cuda::properties(compute.device) {
        facts.push(("GPU".to_owned(), card.name.clone()));
    }
    facts
}
