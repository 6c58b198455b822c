//! Low-rank adaptation: matrices stay as they are, and what is learnt is added to each as a product of two narrow ones.
//! Source: E. Hu and others, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serpens_core::{Device, Tensor, Var};
use serpens_ops::elementwise::scale;
use smart_default::SmartDefault;

use crate::module::layer_of;
use crate::setting::{SIZE, check};
use crate::{Error, Module, Param, Result, Start, module};

/// Configures the adaptation of a model, see [`crate::MambaLm::adapt`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank r of what is added.
    #[default = 8]
    pub rank: usize,
    /// What is added is multiplied with alpha / r.
    #[default = 16.0]
    pub alpha: f32,
    /// The layers whose matrices are adapted, by the last words of their names; as by default, those of these that the
    /// model has.
    #[default(["in_proj", "x_proj", "dt_proj", "out_proj"].map(str::to_owned).to_vec())]
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// Freezes all parameters and gives the matrices of the targets what is trained in their place, without values yet.
    ///
    /// # Errors
    /// [`Error::Config`]; [`Error::NoTarget`] for a target that no matrix has.
    pub(crate) fn attach(&self, model: &mut impl Module) -> Result<()> {
        check("lora.rank", self.rank as f64, SIZE)?;
        check("lora.alpha", self.alpha.into(), 0.0..=1e6)?;
        check("lora.targets (number)", self.targets.len() as f64, SIZE)?;
        let is_of = |target: &String, name: &str, param: &Param| {
            param.matrix && layer_of(name).rsplit('.').next() == Some(target)
        };
        // Before anything is changed.
        let mut missing = Vec::new();
        for target in &self.targets {
            let mut any = false;
            model.visit("", &mut |name, param| {
                any |= is_of(target, name, param);
                Ok(())
            })?;
            missing.extend((!any).then(|| target.clone()));
        }
        let may_miss =
            self.targets == Self::default().targets && missing.len() < self.targets.len();
        if let Some(target) = missing.into_iter().next().filter(|_| !may_miss) {
            return Err(Error::NoTarget(target));
        }
        let scale = self.alpha / self.rank as f32;
        model.visit_mut("", &mut |name, param| {
            let added = self.targets.iter().any(|it| is_of(it, name, param));
            param.lora = added.then(|| Box::new(Lora::plan(param, self.rank, scale)));
            param.frozen = !is_added(name);
            Ok(())
        })
    }
}

/// Whether something is added to a matrix of this module.
pub(crate) fn is_adapted(module: &impl Module) -> Result<bool> {
    let mut adapted = false;
    module.visit("", &mut |_, param| {
        adapted |= param.lora.is_some();
        Ok(())
    })?;
    Ok(adapted)
}

/// Whether a parameter of this name is what is added to a matrix.
pub(crate) fn is_added(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}

/// What is added to a matrix: alpha / r · B A.
#[derive(Clone, Debug)]
pub(crate) struct Lora {
    a: Param, // (r, inputs)
    b: Param, // (outputs, r)
    scale: f32,
}

module!(Lora { a => "lora_A.weight", b => "lora_B.weight" });

impl Lora {
    /// A starts uniform in ±inputs^-1/2 (Kaiming's, as PEFT takes it), B zero: nothing is added at first.
    fn plan(matrix: &Param, rank: usize, scale: f32) -> Self {
        let (outputs, inputs) = (matrix.shape().rows(), matrix.shape().cols());
        let bound = (inputs.max(1) as f32).sqrt().recip();
        let beside = |shape: [usize; 2], start| {
            let mut param = Param::new(shape, start).as_matrix();
            param.every = matrix.every;
            param
        };
        Self {
            a: beside([rank, inputs], Start::Uniform { bound }),
            b: beside([outputs, rank], Start::Constant(0.0)),
            scale,
        }
    }

    /// alpha / r · B A x: (…, inputs) → (…, outputs).
    pub(crate) fn forward(&self, x: &Var) -> Result<Var> {
        let narrow = self.a.linear(x, None)?; // (…, r)
        self.b.linear(&scale(&narrow, self.scale)?, None)
    }

    /// The matrix with what is added to it, on the processor.
    pub(crate) fn merge(&self, matrix: &Tensor) -> Result<Tensor> {
        let mut merged = matrix.to(Device::Cpu)?;
        let (a, b) = (
            self.a.value()?.to(Device::Cpu)?,
            self.b.value()?.to(Device::Cpu)?,
        );
        let (a, b) = (a.mat()?, b.mat()?);
        let rows = merged.make_mut::<f32>()?.par_chunks_mut(a.cols().max(1));
        rows.enumerate().for_each(|(row, merged)| {
            for (i, factor) in b.row(row).iter().enumerate() {
                for (value, a) in merged.iter_mut().zip(a.row(i)) {
                    *value += self.scale * factor * a;
                }
            }
        });
        Ok(merged)
    }
}
