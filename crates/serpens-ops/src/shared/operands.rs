//! Operands once: an operation writes the names and roles of what it reads in one place, as one type that is generic
//! over what it holds. Checks, the tape, the kernels of either device, the gradients and the reference all go through
//! that type.

use serpens_core::{DType, Device, Matrix, Result, Shape, Var, View};

use super::check;

/// The type of an operand's values, and how they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In the type of the operation's first operand: f32, on a GPU also bf16. Rows may lie inside wider ones.
    Rows,
    /// In f32, without gaps.
    Dense,
}

/// What an operation with the sizes `S` says of one of its operands.
#[derive(Clone, Copy, Debug)]
pub struct Role<S: 'static> {
    /// As errors call it.
    pub name: &'static str,
    /// Type and place of its values.
    pub layout: Layout,
    /// The shape that it must have.
    pub shape: fn(&S) -> Shape,
}

impl<S> Role<S> {
    /// Fails unless `var` has its shape, is on the device of the first operand, and of its type or f32.
    pub(crate) fn check(&self, op: &'static str, sizes: &S, first: &Var, var: &Var) -> Result<()> {
        check::shape(op, self.name, &(self.shape)(sizes), var)?;
        check::device(op, self.name, first.device(), var.device())?;
        match (self.layout, first.device()) {
            (Layout::Rows, Device::Cuda(_)) => {
                check::float(op, self.name, var.dtype())?;
                check::dtype(op, self.name, first.dtype(), var.dtype())
            }
            _ => check::dtype(op, self.name, DType::F32, var.dtype()),
        }
    }

    /// Panics unless `matrix` has its shape, and no gaps where there may be none: for kernels on plain slices, before
    /// any work, so that no thread but the caller's panics.
    pub(crate) fn assert_fits<V>(&self, sizes: &S, matrix: &Matrix<V>) {
        let (shape, rows, cols) = ((self.shape)(sizes), matrix.rows(), matrix.cols());
        let fits = rows * cols == shape.count()
            && match self.layout {
                Layout::Rows => rows * cols == 0 || cols == shape.cols(),
                Layout::Dense => rows <= 1 || matrix.stride() == cols,
            };
        assert!(fits, "{} is not {shape}", self.name);
    }

    /// The values as kernels take them.
    ///
    /// # Errors
    /// A range of columns where there may be no gaps.
    pub(crate) fn view<'a>(&self, var: &'a Var) -> Result<View<'a>> {
        match self.layout {
            Layout::Rows => Ok(var.view()),
            Layout::Dense => Ok(var.tensor()?.view()),
        }
    }
}

/// An operand that must be there.
pub type Required<T> = T;

/// Declares the operands of an operation as one struct, generic over what it holds of each: see
/// `selective_scan/operands.rs`. Each is [`Required`] or an `Option`, has a name for errors, a [`Layout`] and a shape
/// that follows from the operation's sizes. Their order is that of the tape.
macro_rules! operands {
    (
        $(#[$docs:meta])*
        pub struct $name:ident($s:ident: $sizes:ty) {
            $($(#[$doc:meta])* $field:ident: $need:ident $label:literal $layout:ident [$($axis:expr),+],)+
        }
    ) => {
        $(#[$docs])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<T> {
            $($(#[$doc])* pub $field: $need<T>,)+
        }

        impl<T> $name<T> {
            /// What is written once of every operand, in the order of the tape.
            pub fn roles() -> &'static [$crate::Role<$sizes>; [$(stringify!($field)),+].len()] {
                static ROLES: [$crate::Role<$sizes>; [$(stringify!($field)),+].len()] = [$($crate::Role {
                    name: $label,
                    layout: $crate::Layout::$layout,
                    shape: |$s| serpens_core::Shape::new(&[$($axis),+]),
                }),+];
                &ROLES
            }

            /// References to all that is there.
            pub fn as_ref(&self) -> $name<&T> {
                $name { $($field: $crate::shared::operands::operand!(as_ref $need self.$field),)+ }
            }

            /// References to all that is there, for writing.
            pub fn as_mut(&mut self) -> $name<&mut T> {
                $name { $($field: $crate::shared::operands::operand!(as_mut $need self.$field),)+ }
            }

            /// All operands in the order of the tape.
            pub fn into_array(self) -> [Option<T>; [$(stringify!($field)),+].len()] {
                [$($crate::shared::operands::operand!(some $need self.$field)),+]
            }

            /// Those of `values`, one for each operand in the order of the tape, whose operand is there.
            pub fn pick<U>(&self, values: [U; [$(stringify!($field)),+].len()]) -> $name<U> {
                let [$($field),+] = values;
                $name { $($field: $crate::shared::operands::operand!(pick $need self.$field, $field),)+ }
            }

            /// Every operand that is there, with its role.
            pub fn iter(&self) -> impl Iterator<Item = (&'static $crate::Role<$sizes>, &T)> {
                let all = Self::roles().iter().zip(self.as_ref().into_array());
                all.filter_map(|(role, operand)| Some((role, operand?)))
            }

            /// What `f` makes of every operand that is there.
            pub fn map<U>(self, mut f: impl FnMut(&'static $crate::Role<$sizes>, T) -> U) -> $name<U> {
                let Ok(mapped) = self.try_map(|role, operand| Ok::<_, std::convert::Infallible>(f(role, operand)));
                mapped
            }

            /// What `f` makes of every operand that is there, or its first error.
            pub fn try_map<U, E>(
                self,
                mut f: impl FnMut(&'static $crate::Role<$sizes>, T) -> std::result::Result<U, E>,
            ) -> std::result::Result<$name<U>, E> {
                let [$($field),+] = Self::roles();
                Ok($name {
                    $($field: $crate::shared::operands::operand!(try_map $need self.$field, |operand| f($field, operand)),)+
                })
            }
        }

        impl $name<&serpens_core::Var> {
            /// Fails unless every operand has its shape, its type and the device of the first.
            pub(crate) fn check(&self, op: &'static str, sizes: &$sizes) -> serpens_core::Result<()> {
                let mut operands = self.iter().peekable();
                let Some((_, first)) = operands.peek().copied() else { return Ok(()) };
                operands.try_for_each(|(role, operand)| role.check(op, sizes, first, operand))
            }
        }

        impl $name<serpens_core::Var> {
            /// The values as kernels of any device take them.
            pub(crate) fn views(&self) -> serpens_core::Result<$name<serpens_core::View<'_>>> {
                self.as_ref().try_map(|role, operand| role.view(operand))
            }

            /// The values as kernels of the processor take them.
            pub(crate) fn mats(&self) -> serpens_core::Result<$name<serpens_core::Mat<'_>>> {
                self.views()?.try_map(|_, view| view.mat())
            }
        }
    };
}
pub(crate) use operands;

/// What differs between an operand that must be there and one that may be.
macro_rules! operand {
    (as_ref Required $operand:expr) => {
        &$operand
    };
    (as_ref Option $operand:expr) => {
        $operand.as_ref()
    };
    (as_mut Required $operand:expr) => {
        &mut $operand
    };
    (as_mut Option $operand:expr) => {
        $operand.as_mut()
    };
    (some Required $operand:expr) => {
        Some($operand)
    };
    (some Option $operand:expr) => {
        $operand
    };
    (pick Required $operand:expr, $value:ident) => {
        $value
    };
    (pick Option $operand:expr, $value:ident) => {
        $operand.as_ref().map(|_| $value)
    };
    (try_map Required $operand:expr, |$x:ident| $f:expr) => {{
        let $x = $operand;
        $f?
    }};
    (try_map Option $operand:expr, |$x:ident| $f:expr) => {
        $operand.map(|$x| $f).transpose()?
    };
}
pub(crate) use operand;
