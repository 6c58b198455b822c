//! How a model names its parameters.

use serpens_core::Device;

use crate::{Error, Param, Precision, Result};

/// What is called with the name and the parameter.
pub type Visit<'a> = dyn FnMut(&str, &Param) -> Result<()> + 'a;
/// As [`Visit`], to change it.
pub type VisitMut<'a> = dyn FnMut(&str, &mut Param) -> Result<()> + 'a;

/// Something with parameters: a layer, a mixer, a model, or what a program makes of them with [`crate::module!`]. Names
/// are those of the Hugging Face layout, joined by dots. `plan` makes it without any values; [`Module::fill`] and
/// [`Module::init`] draw those it starts with.
///
/// A clone is a module of its own that begins with the same values: its parameters have other ids, so a teacher and a
/// student that was cloned from it may be on one tape. What one module uses in two places stays one in its clone.
///
/// ```
/// use serpens_core::Device;
/// use serpens_nn::layers::Linear;
/// use serpens_nn::mixers::{MambaConfig, Mixer, MixerSettings};
/// use serpens_nn::{Module, Result, module};
///
/// /// Mamba with a head of its own.
/// #[derive(Clone, Debug)]
/// struct Classifier {
///     mixer: Box<dyn Mixer>,
///     head: Linear,
/// }
///
/// module!(Classifier { mixer => "mixer", head => "head" });
///
/// # fn main() -> Result<()> {
/// let plan = Classifier {
///     mixer: MambaConfig::default().plan(16, 1.0)?,
///     head: Linear::plan(16, 3),
/// };
/// let mut model = plan.init(Device::cpu(), 0)?;
/// model.set_frozen("mixer", true)?; // from now on the head alone is trained
/// assert_eq!(model.count(|param| !param.frozen)?, 3 * 16);
/// # Ok(())
/// # }
/// ```
pub trait Module {
    /// Calls `f` with the name (below `path`) of every parameter, always in the same order, and ends at the first
    /// error, which names the parameter where it is one without a value.
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()>;

    /// As [`Module::visit`], to change them.
    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()>;

    /// Draws the values that all parameters start with; the same for one seed, whatever the device and the number of
    /// threads.
    ///
    /// # Errors
    /// [`Error::Memory`], before any is taken.
    fn fill(&mut self, device: Device, seed: u64) -> Result<()> {
        self.check_memory(4, device)?;
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

    /// Operations (multiplications and additions) of a forward pass in matrix products, for each token: every matrix is
    /// multiplied with it, or with one of [`Param::every`].
    fn flops_per_token(&self) -> Result<f64> {
        let mut flops = 0.0;
        self.visit("", &mut |_, param| {
            if param.matrix {
                flops += 2.0 * param.count() as f64 / param.every as f64;
            }
            Ok(())
        })?;
        Ok(flops)
    }

    /// Refuses a module whose parameters `device` cannot hold with so many bytes for each value: 4 to have them, 16 to
    /// train them with their gradients and two moments, of which frozen ones have none.
    ///
    /// # Errors
    /// [`Error::Memory`]; none where the system does not tell its memory.
    fn check_memory(&self, bytes_each: u64, device: Device) -> Result<()> {
        let bytes = |_: &str, param: &Param| {
            let is_trained = param.trained && !param.frozen;
            let each = bytes_each.min(if is_trained { u64::MAX } else { 4 });
            each.saturating_mul(param.count() as u64)
        };
        self.check_bytes(&bytes, device)
    }

    /// Refuses a module whose parameters `device` cannot hold where each takes as many bytes as `bytes` says.
    ///
    /// # Errors
    /// Those of [`Module::check_memory`].
    fn check_bytes(&self, bytes: &dyn Fn(&str, &Param) -> u64, device: Device) -> Result<()> {
        let (mut needed, mut most, mut largest) = (0_u64, 0, String::new());
        self.visit("", &mut |name, param| {
            let bytes = bytes(name, param);
            needed = needed.saturating_add(bytes);
            if bytes > most {
                (most, largest) = (bytes, format!("{name}, {}", param.shape()));
            }
            Ok(())
        })?;
        match device.capacity() {
            Some(available) if needed > available => Err(Error::Memory {
                needed,
                available,
                largest,
            }),
            _ => Ok(()),
        }
    }

    /// Moves the parameters to `device`, to be multiplied there in this precision.
    ///
    /// # Errors
    /// [`Error::Precision`] for one that the device does not have; [`Error::NoValue`] of a plan; memory.
    fn to(&mut self, device: Device, precision: Precision) -> Result<()> {
        self.visit_mut("", &mut |_, param| param.to(device, precision))
    }

    /// Leaves the parameters as they are, or has them trained again, whose names begin with these words, joined by
    /// dots, of which `*` stands for any: `backbone.embeddings`, or `backbone.layers.*.mixer.A_log`. While they are
    /// frozen, no gradient is computed for them and no optimiser moves them, but they are counted, saved and loaded.
    ///
    /// # Errors
    /// [`Error::NoParameter`] where no name begins so.
    fn set_frozen(&mut self, names: &str, frozen: bool) -> Result<()> {
        let mut any = false;
        self.visit_mut("", &mut |name, param| {
            let mut words = name.split('.');
            let fits = |word, found| word == "*" || word == found;
            let begins = |word| words.next().is_some_and(|found| fits(word, found));
            if names.split('.').all(begins) {
                (param.frozen, any) = (frozen, true);
            }
            Ok(())
        })?;
        let found = any.then_some(());
        found.ok_or_else(|| Error::NoParameter(names.to_owned()))
    }

    /// Another handle to the same parameters, with their ids and their values of now: for a stretch of operations that
    /// is recorded to be run again, and to be dropped with the record.
    fn handle(&self) -> Result<Self>
    where
        Self: Sized + Clone,
    {
        let (mut ids, mut handle) = (Vec::new(), self.clone());
        self.visit("", &mut |_, param| {
            ids.push(param.id());
            Ok(())
        })?;
        let mut ids = ids.into_iter();
        handle.visit_mut("", &mut |_, param| {
            param.identify(ids.next().expect("a clone has as many parameters"));
            Ok(())
        })?;
        Ok(handle)
    }
}

impl Module for Param {
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()> {
        f(path, self).map_err(|error| error.of(path))?;
        self.lora.visit(layer_of(path), f)
    }

    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()> {
        f(path, self).map_err(|error| error.of(path))?;
        self.lora.visit_mut(layer_of(path), f)
    }
}

/// The layer whose weight has this name.
pub(crate) fn layer_of(weight: &str) -> &str {
    weight.trim_end_matches("weight").trim_end_matches('.')
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
