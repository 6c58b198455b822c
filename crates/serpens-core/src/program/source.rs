//! Sources of kernels, and programs: sources with macros.

use std::hash::{Hash, Hasher};

use super::params::Declarations;

/// CUDA C++ of an operation. It is compiled after Serpens' prelude (`prelude.cuh`) and what it shares with Rust, and
/// includes nothing, since NVRTC alone comes without headers.
#[derive(Debug)]
pub struct Source {
    /// The operation, for messages and the cache.
    pub name: &'static str,
    /// The text.
    pub text: &'static str,
    /// What is compiled before it.
    before: &'static str,
    params: &'static [fn(&mut Declarations)],
    constants: &'static [(&'static str, i32)],
    may_spill: fn(&Program) -> bool,
}

impl Source {
    /// A text without parameter structs and constants.
    pub const fn new(name: &'static str, text: &'static str) -> Self {
        Self {
            name,
            text,
            before: "",
            params: &[],
            constants: &[],
            may_spill: |_| false,
        }
    }

    /// With a text before its own, in which its kernels find what they leave to others.
    pub const fn after(self, before: &'static str) -> Self {
        Self { before, ..self }
    }

    /// With the structs that its kernels take, each as the [`declare`](crate::cuda::KernelParams::declare) of a struct
    /// of [`kernel_params!`](crate::kernel_params).
    pub const fn params(self, params: &'static [fn(&mut Declarations)]) -> Self {
        Self { params, ..self }
    }

    /// With numbers that Rust knows as well, each a `constexpr int`.
    pub const fn constants(self, constants: &'static [(&'static str, i32)]) -> Self {
        Self { constants, ..self }
    }

    /// With those of its programs whose kernels may spill registers to memory: a test holds all others to keep their
    /// values in them.
    pub const fn may_spill(self, may_spill: fn(&Program) -> bool) -> Self {
        Self { may_spill, ..self }
    }

    /// What is compiled before the text: the constants, the structs, what it comes after.
    pub(super) fn declarations(&self) -> String {
        let constant = |(name, value): &(&str, i32)| format!("constexpr int {name} = {value};\n");
        let constants: String = self.constants.iter().map(constant).collect();
        let mut structs = Declarations::default();
        for declare in self.params {
            declare(&mut structs);
        }
        constants + &structs.text + self.before
    }
}

/// Sources are statics, each the same as itself alone.
impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Source {}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self, state);
    }
}

/// A source with macros: a program, as [`rehearse`](super::rehearse) finds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// The text.
    pub source: &'static Source,
    /// The macros and their values.
    pub defines: Vec<(String, String)>,
}

impl Program {
    /// The value of a macro.
    pub fn define(&self, name: &str) -> Option<&str> {
        let define = self.defines.iter().find(|define| define.0 == name);
        define.map(|(_, value)| value.as_str())
    }

    /// The value of a macro that is a whole number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.define(name)?.parse().ok()
    }

    /// Whether its kernels may spill registers to memory.
    pub fn may_spill(&self) -> bool {
        (self.source.may_spill)(self)
    }
}
