//! Parameter structs of kernels, declared once: [`kernel_params!`](crate::kernel_params) makes the Rust struct and the
//! text of the same struct for the kernels, with assertions that hold the two layouts together when the program is
//! compiled.

use crate::driver::DevicePtr;

/// What kernels take: the structs of [`kernel_params!`](crate::kernel_params), and what these may hold, which is
/// numbers that both sides know, addresses, such structs, and arrays of these.
///
/// # Safety
/// After `declare`, a CUDA variable of the type `CUDA` with `dims` behind its name has the layout of the Rust type.
pub unsafe trait KernelParams: Copy {
    /// The CUDA type, of an array that of its values.
    const CUDA: &'static str;

    /// The sizes of an array, as they follow the variable's name.
    fn dims() -> String {
        String::new()
    }

    /// Adds the struct's declaration, after those of the structs it holds.
    fn declare(_to: &mut Declarations) {}
}

macro_rules! numbers {
    ($($rust:ty as $cuda:literal),*) => {
        // SAFETY: the types are the same on both sides.
        $(unsafe impl KernelParams for $rust {
            const CUDA: &'static str = $cuda;
        })*
    };
}
numbers!(i32 as "int", i64 as "i64", u32 as "u32", u64 as "u64", f32 as "float", DevicePtr as "void*");

// SAFETY: an array has no gaps on either side.
unsafe impl<T: KernelParams, const N: usize> KernelParams for [T; N] {
    const CUDA: &'static str = T::CUDA;

    fn dims() -> String {
        format!("[{N}]{}", T::dims())
    }

    fn declare(to: &mut Declarations) {
        T::declare(to);
    }
}

/// The text of the structs that a program's kernels take.
#[derive(Debug, Default)]
pub struct Declarations {
    declared: Vec<&'static str>,
    /// To be compiled before what uses the structs.
    pub(super) text: String,
}

/// A field as both sides know it.
#[derive(Debug)]
pub struct FieldLayout {
    /// The type of its values.
    pub cuda: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The sizes of an array, each in brackets.
    pub dims: String,
    /// Bytes before it.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
}

impl Declarations {
    /// Adds a struct of `size` bytes, unless it is there.
    pub fn add(&mut self, name: &'static str, size: usize, fields: &[FieldLayout]) {
        if self.declared.contains(&name) {
            return;
        }
        self.declared.push(name);
        let (mut members, mut checks) = (String::new(), String::new());
        for layout in fields {
            let (field, offset, size) = (layout.name, layout.offset, layout.size);
            members += &format!("    {} {field}{};\n", layout.cuda, layout.dims);
            checks += &format!(
                "static_assert(OFFSET_OF({name}, {field}) == {offset} && sizeof({name}::{field}) == {size}, \
                 \"{name}::{field} lies elsewhere in Rust\");\n"
            );
        }
        self.text += &format!(
            "struct {name} {{\n{members}}};\n{checks}\
             static_assert(sizeof({name}) == {size}, \"{name} has another size in Rust\");\n"
        );
    }
}

/// Declares structs that kernels take as their one parameter, or that lie inside such, once for both sides.
///
/// The Rust structs are `repr(C)` and `Copy`. Named in [`Source::params`](crate::cuda::Source::params), the same
/// structs stand before the source's text when it is compiled, with assertions that every field lies where Rust has it.
/// A field may be an `i32`, `i64`, `u32`, `u64`, `f32`, a [`DevicePtr`](crate::cuda::DevicePtr), another declared
/// struct, or an array of these. `as` gives the CUDA type where it says more than the Rust type does: of an address,
/// what is there. It may name macros of the program, and structs of the text as `"struct Name*"`.
///
/// ```
/// use serpens_core::cuda::{DevicePtr, KernelParams, Source};
///
/// serpens_core::kernel_params! {
///     /// What `scale` takes.
///     struct ScaleParams {
///         /// (count)
///         values: DevicePtr as "IO*",
///         count: i64,
///         factor: f32,
///     }
/// }
///
/// static SOURCE: Source = Source::new(
///     "scale",
///     r#"extern "C" __global__ void scale(const __grid_constant__ ScaleParams p) { /* … */ }"#,
/// )
/// .params(&[ScaleParams::declare]);
/// ```
#[macro_export]
macro_rules! kernel_params {
    ($($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident : $type:ty $(as $cuda:literal)?),* $(,)?
    })+) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)*
        }

        // SAFETY: the declaration has the fields of the `repr(C)` struct in their order, and asserts where each lies.
        unsafe impl $crate::cuda::KernelParams for $name {
            const CUDA: &'static str = stringify!($name);

            fn declare(to: &mut $crate::cuda::Declarations) {
                use $crate::cuda::{FieldLayout, KernelParams};
                $(<$type as KernelParams>::declare(to);)*
                to.add(stringify!($name), size_of::<Self>(), &[$(FieldLayout {
                    cuda: [$($cuda,)? <$type as KernelParams>::CUDA][0],
                    name: stringify!($field),
                    dims: <$type as KernelParams>::dims(),
                    offset: std::mem::offset_of!(Self, $field),
                    size: size_of::<$type>(),
                }),*]);
            }
        }
    )+};
}

#[cfg(test)]
mod tests {
    use super::super::{Program, Source};
    use super::*;
    use crate::driver::find;
    use crate::{Error, LibraryKind};

    kernel_params! {
        struct Inner {
            at: DevicePtr as "const IO*",
            stride: i64,
        }
        struct Outer {
            inner: [Inner; 2],
            table: [[u32; 3]; 2],
            factor: f32,
            count: u64,
            width: i32,
        }
    }

    const TEXT: &str = r#"
extern "C" __global__ void outer(const __grid_constant__ Outer p) {
    *(float*)p.inner[1].at = p.factor * p.table[1][2] + p.count + p.width + LIMIT;
}"#;

    #[test]
    fn a_struct_is_declared_after_those_it_holds_and_each_once() {
        let mut declarations = Declarations::default();
        Outer::declare(&mut declarations);
        Inner::declare(&mut declarations);
        let text = declarations.text;
        assert!(
            text.starts_with("struct Inner {\n    const IO* at;\n    i64 stride;\n};\n"),
            "{text}"
        );
        assert_eq!(text.matches("struct Inner {").count(), 1);
        assert!(
            text.contains("    Inner inner[2];\n    u32 table[2][3];\n    float factor;\n"),
            "{text}"
        );
        assert!(
            text.contains("OFFSET_OF(Outer, count) == 64 && sizeof(Outer::count) == 8"),
            "{text}"
        );
        assert!(text.contains("sizeof(Outer) == 80"), "{text}");
    }

    #[test]
    fn the_compiler_holds_both_layouts_together() {
        if let Err(reason) = find(LibraryKind::Nvrtc) {
            // Past the capture of tests; nobody hears it where the stream is closed.
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("layouts were not compiled: {reason}\n"),
            );
            return;
        }
        fn wrong(to: &mut Declarations) {
            let field = FieldLayout {
                cuda: "i64",
                name: "count",
                dims: String::new(),
                offset: 4,
                size: 8,
            };
            to.add("Wrong", 16, &[field]);
        }
        static RIGHT: Source = Source::new("right", TEXT)
            .params(&[Outer::declare])
            .constants(&[("LIMIT", 32)]);
        static WRONG: Source = Source::new("wrong", TEXT)
            .params(&[Outer::declare, wrong])
            .constants(&[("LIMIT", 32)]);
        let compile = |source| {
            let defines = Vec::from([("IO".to_owned(), "float".to_owned())]);
            Program { source, defines }.compile((8, 0))
        };
        let (_, kernels) = compile(&RIGHT).unwrap();
        assert_eq!(kernels.len(), 1);
        let Err(Error::Compile { log, .. }) = compile(&WRONG) else {
            panic!("a wrong layout passed");
        };
        assert!(log.contains("Wrong::count lies elsewhere in Rust"), "{log}");
        assert!(log.contains("Wrong has another size in Rust"), "{log}");
        assert!(!log.contains("Outer"), "{log}");
    }
}
