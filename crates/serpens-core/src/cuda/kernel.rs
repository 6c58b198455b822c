//! Kernels: sources, variants, launches.

use std::ffi::{CString, c_void};
use std::sync::PoisonError;

use cudarc::driver::{result, sys};

use super::state::{self, State};
use super::{cache, driver_error};
use crate::{Device, Error, Result};

/// CUDA C++ of an operation. It is compiled after Serpens' prelude (`prelude.cuh`) and includes nothing, since NVRTC alone comes
/// without headers.
#[derive(Debug)]
pub struct Source {
    /// The operation, for messages and the cache.
    pub name: &'static str,
    /// The text.
    pub text: &'static str,
}

/// A source with macros: one program to compile.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The text.
    pub source: &'static Source,
    /// The macros and their values.
    pub defines: Vec<(&'static str, String)>,
    /// Whether its kernels are among those that must not spill registers.
    pub hot: bool,
}

pub(super) type FunctionKey = (&'static str, &'static str, Vec<(String, String)>);

/// A loaded program.
pub(super) struct Module(pub(super) sys::CUmodule);

#[derive(Clone, Copy)]
pub(super) struct Function(sys::CUfunction);

/// Dynamic shared memory that needs no permission.
const FREE_SHARED_BYTES: u32 = 48 * 1024;

/// A compiled kernel of a device.
#[derive(Clone, Copy)]
pub struct Kernel {
    state: &'static State,
    function: Function,
    name: &'static str,
}

/// The kernel `entry` of a source compiled with these macros. Compiled once for a card and kept on disk, loaded once for a
/// process.
///
/// # Errors
/// [`Error::Compile`] with the compiler's words; a device that cannot be used.
pub fn kernel(
    device: Device,
    source: &'static Source,
    entry: &'static str,
    defines: &[(&'static str, &str)],
) -> Result<Kernel> {
    let state = state::of(device)?;
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    let key: FunctionKey = (source.name, entry, defines.iter().map(owned).collect());
    let mut functions = state
        .functions
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let function = match functions.get(&key) {
        Some(function) => *function,
        None => {
            let function = load(state, source, entry, &key.2)?;
            functions.insert(key, function);
            function
        }
    };
    Ok(Kernel {
        state,
        function,
        name: entry,
    })
}

fn load(
    state: &State,
    source: &'static Source,
    entry: &'static str,
    defines: &[(String, String)],
) -> Result<Function> {
    let program = cache::program(source, state.properties.capability, defines)?;
    let mut modules = state.modules.lock().unwrap_or_else(PoisonError::into_inner);
    let module = match modules.get(&program.key) {
        Some(module) => module,
        None => {
            // SAFETY: the image is a complete program for this device.
            let module = unsafe { result::module::load_data(program.image.as_ptr().cast()) }
                .map_err(driver_error("load a kernel"))?;
            modules.entry(program.key).or_insert(Module(module))
        }
    };
    let name =
        CString::new(entry).map_err(|_| Error::argument("kernel", "a name with a zero byte"))?;
    // SAFETY: modules are never unloaded.
    let function = unsafe { result::module::get_function(module.0, name) }
        .map_err(driver_error("find a kernel in its program"))?;
    Ok(Function(function))
}

impl Kernel {
    /// Queues the kernel: `grid` blocks of `block` threads, each block with `shared` bytes of dynamic shared memory.
    ///
    /// # Safety
    /// `params` is laid out as the kernel's one parameter, its addresses are valid on the device for what the kernel does with
    /// them, and the kernel keeps inside them.
    pub unsafe fn launch<P: Copy>(
        &self,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &P,
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(()); // nothing to do
        }
        if shared > FREE_SHARED_BYTES {
            use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
            // SAFETY: the function is never unloaded.
            unsafe {
                result::function::set_function_attribute(self.function.0, LIMIT, shared as i32)
            }
            .map_err(driver_error("get shared memory for a kernel"))?;
        }
        let mut arguments = [std::ptr::from_ref(params).cast::<c_void>().cast_mut()];
        // SAFETY: one parameter, as the caller promises; the driver copies it before it returns.
        unsafe {
            result::launch_kernel(
                self.function.0,
                grid.into(),
                (block, 1, 1),
                shared,
                self.state.stream,
                &mut arguments,
            )
        }
        .map_err(|error| match driver_error("launch")(error) {
            Error::Cuda { reason, .. } => Error::Cuda {
                what: self.name,
                reason,
            },
            other => other,
        })
    }

    /// How many blocks of this size a multiprocessor holds at a time.
    pub fn blocks_per_multiprocessor(&self, block: u32, shared: u32) -> Result<u32> {
        // SAFETY: the function is never unloaded.
        let count = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(
                self.function.0,
                block as i32,
                shared as usize,
            )
        };
        Ok(count
            .map_err(driver_error("ask for a kernel's occupancy"))?
            .max(0) as u32)
    }
}
