//! In which types a model computes, and what it keeps for the way back.

use serde::{Deserialize, Serialize};
use serpens_core::DType;
use serpens_ops::linear::ProductPrecision;

/// In which types a model computes. Parameters, states, the residual stream, sums and the optimiser are f32 in all of
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Everything f32.
    #[default]
    F32,
    /// f32, but matrix products round their operands to TF32 (11 bits of mantissa). NVIDIA GPUs only.
    Tf32,
    /// Activations and the operands of matrix products are bf16. NVIDIA GPUs only.
    Bf16,
}

impl Precision {
    /// The type of activations.
    pub fn activations(self) -> DType {
        match self {
            Precision::F32 | Precision::Tf32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }

    /// How products of f32 matrices are made.
    pub fn products(self) -> ProductPrecision {
        match self {
            Precision::F32 | Precision::Bf16 => ProductPrecision::Full,
            Precision::Tf32 => ProductPrecision::Tf32,
        }
    }
}

/// What a forward pass keeps for its backward, and what it computes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Every activation that a gradient needs is kept, but for the states of the scan between checkpoints.
    #[default]
    None,
    /// A mixer keeps its input and the output of its first projection; the convolution, Δ, B, C and the scan are
    /// computed again.
    Scan,
    /// A layer keeps its input only.
    #[serde(rename = "block")]
    Layer,
}

/// Reads and writes a setting's values by the names that they have in recipes.
macro_rules! named {
    ($type:ident { $($variant:ident),* }) => {
        impl $type {
            /// Every value.
            pub const ALL: &[$type] = &[$($type::$variant),*];
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                serde::Serialize::serialize(self, f)
            }
        }

        impl std::str::FromStr for $type {
            type Err = serde::de::value::Error;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                serde::Deserialize::deserialize(serde::de::IntoDeserializer::into_deserializer(name))
            }
        }
    };
}

pub(crate) use named;

named!(Precision { F32, Tf32, Bf16 });
named!(Recompute { None, Scan, Layer });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused() {
        for &precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        for &recompute in Recompute::ALL {
            assert_eq!(recompute.to_string().parse(), Ok(recompute));
        }
        let error = "fp16".parse::<Precision>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown variant `fp16`, expected one of `f32`, `tf32`, `bf16`"
        );
    }
}
