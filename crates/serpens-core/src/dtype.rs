//! Element types.

use std::fmt;

use half::bf16;

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is a tensor's element type. Every bit pattern is a value of it.
pub trait Element: bytemuck::Pod + Send + Sync + sealed::Sealed {
    /// The element type's name.
    const DTYPE: DType;
}

/// Declares the element types: name, type in Rust, type in CUDA.
macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident: $rust:ident, $cuda:literal;)+) => {
        /// The type of a tensor's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DType {
            $($(#[$doc])* $name,)+
        }

        impl DType {
            /// Bytes of one element.
            pub fn size(self) -> usize {
                match self {
                    $(DType::$name => size_of::<$rust>(),)+
                }
            }

            /// The type's name in the kernels of [`crate::cuda`].
            pub fn cuda_name(self) -> &'static str {
                match self {
                    $(DType::$name => $cuda,)+
                }
            }
        }

        impl fmt::Display for DType {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(DType::$name => stringify!($rust),)+
                })
            }
        }

        $(impl sealed::Sealed for $rust {}

        impl Element for $rust {
            const DTYPE: DType = DType::$name;
        })+
    };
}

dtypes! {
    /// IEEE single precision.
    F32: f32, "float";
    /// bfloat16: the upper half of an f32.
    BF16: bf16, "bf16";
    /// Unsigned 32-bit integers: token ids.
    U32: u32, "u32";
}
