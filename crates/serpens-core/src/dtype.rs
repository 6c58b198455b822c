//! Element types.

use std::fmt;

use half::bf16;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// bfloat16: the upper half of an f32.
    BF16,
    /// Unsigned 32-bit integers: token ids.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::BF16 => 2,
        }
    }

    /// The type's name in the kernels of [`crate::cuda`].
    pub fn cuda_name(self) -> &'static str {
        match self {
            DType::F32 => "float",
            DType::BF16 => "bf16",
            DType::U32 => "u32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::U32 => "u32",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is a tensor's element type. Every bit pattern is a value of it.
pub trait Element: bytemuck::Pod + Send + Sync + sealed::Sealed {
    /// The element type's name.
    const DTYPE: DType;
}

impl sealed::Sealed for f32 {}
impl sealed::Sealed for bf16 {}
impl sealed::Sealed for u32 {}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}
