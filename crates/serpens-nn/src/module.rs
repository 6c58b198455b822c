//! How a model names its parameters.

use serpens_core::Device;

use crate::{Param, Result};

/// What is called with the name and the parameter.
pub type Visit<'a> = dyn FnMut(&str, &Param) -> Result<()> + 'a;
/// As [`Visit`], to change it.
pub type VisitMut<'a> = dyn FnMut(&str, &mut Param) -> Result<()> + 'a;

/// Something with parameters. Names are those of the Hugging Face layout, joined by dots. A configuration's `plan`
/// makes it without any values; [`Module::fill`] and [`Module::init`] draw those it starts with.
pub trait Module {
    /// Calls `f` with the name (below `path`) of every parameter, always in the same order, and ends at the first
    /// error, which names the parameter where it is one without a value.
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()>;

    /// As [`Module::visit`], to change them.
    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()>;

    /// Draws the values that all parameters start with; the same for one seed, whatever the device and the number of
    /// threads.
    fn fill(&mut self, device: Device, seed: u64) -> Result<()> {
        self.visit_mut("", &mut |name, param| param.fill(name, device, seed))
    }

    /// The same module, filled.
    fn init(mut self, device: Device, seed: u64) -> Result<Self>
    where
        Self: Sized,
    {
        self.fill(device, seed)?;
        Ok(self)
    }

    /// Number of values of the parameters that `wanted` chooses; the largest number where it exceeds the address space.
    fn count(&self, wanted: fn(&Param) -> bool) -> Result<usize> {
        let mut count = 0_usize;
        self.visit("", &mut |_, param| {
            count = count.saturating_add(if wanted(param) { param.count() } else { 0 });
            Ok(())
        })?;
        Ok(count)
    }
}

impl Module for Param {
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()> {
        f(path, self).map_err(|error| error.of(path))
    }

    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()> {
        f(path, self).map_err(|error| error.of(path))
    }
}

impl<M: Module + ?Sized> Module for Box<M> {
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()> {
        (**self).visit(path, f)
    }

    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()> {
        (**self).visit_mut(path, f)
    }
}

impl<M: Module> Module for Option<M> {
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()> {
        self.iter().try_for_each(|module| module.visit(path, f))
    }

    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()> {
        let mut module = self.iter_mut();
        module.try_for_each(|module| module.visit_mut(path, f))
    }
}

impl<M: Module> Module for Vec<M> {
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()> {
        let mut modules = self.iter().enumerate();
        modules.try_for_each(|(i, module)| module.visit(&join(path, &i.to_string()), f))
    }

    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()> {
        let mut modules = self.iter_mut().enumerate();
        modules.try_for_each(|(i, module)| module.visit_mut(&join(path, &i.to_string()), f))
    }
}

/// `path.name`; either may be empty.
pub fn join(path: &str, name: &str) -> String {
    match (path, name) {
        ("", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

/// Implements [`crate::Module`] for a struct: each field that holds parameters with its name in checkpoints. The
/// empty name puts a field's parameters at the struct's own level. Names that are not the same for every such struct
/// are read from it: `module!(Gated as gated { conv => gated.form.conv })`.
#[macro_export]
macro_rules! module {
    ($type:ty { $($fields:tt)* }) => { $crate::module!($type as this { $($fields)* }); };
    ($type:ty as $this:ident { $($($field:ident).+ => $name:expr),* $(,)? }) => {
        impl $crate::Module for $type {
            fn visit(&self, path: &str, f: &mut $crate::Visit<'_>) -> $crate::Result<()> {
                let $this = self;
                $($crate::Module::visit(&$this.$($field).+, &$crate::join(path, $name), f)?;)*
                Ok(())
            }

            fn visit_mut(&mut self, path: &str, f: &mut $crate::VisitMut<'_>) -> $crate::Result<()> {
                let $this = self;
                $($crate::Module::visit_mut(&mut $this.$($field).+, &$crate::join(path, $name), f)?;)*
                Ok(())
            }
        }
    };
}
