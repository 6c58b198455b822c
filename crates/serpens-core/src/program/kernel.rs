//! Kernels: loading and launching them.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Mutex;

use cudarc::driver::{result, sys};

use super::params::KernelParams;
use super::source::{Defines, Source};
use super::{cache, rehearsal};
use crate::driver::{self, PerDevice, State, lock};
use crate::error::refused;
use crate::{Device, Error, Result};

/// The source by its address, the entry, the macros.
type FunctionKey = (usize, &'static str, Defines);

/// A loaded program.
#[derive(Clone, Copy)]
pub(super) struct Module(sys::CUmodule);

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}

/// What of a device's programs is loaded.
#[derive(Default)]
struct Loaded {
    functions: Mutex<HashMap<FunctionKey, Function>>,
    modules: Mutex<HashMap<u128, Module>>,
    /// What each function, by its address, may use of dynamic shared memory.
    shared_limits: Mutex<HashMap<usize, u32>>,
}

static LOADED: PerDevice<Loaded> = PerDevice::new();

/// Dynamic shared memory that needs no permission.
const FREE_SHARED_BYTES: u32 = 48 * 1024;

/// A compiled kernel of a device.
#[derive(Clone, Copy)]
pub struct Kernel {
    state: &'static State,
    /// None where work is rehearsed: the kernel then does nothing.
    function: Option<Function>,
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
    let state = driver::of(device)?;
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    let defines: Defines = defines.iter().map(owned).collect();
    if rehearsal::note(&state, source, &defines) {
        return Ok(Kernel {
            state: state.state(),
            function: None,
            name: entry,
        });
    }
    let key: FunctionKey = (std::ptr::from_ref(source) as usize, entry, defines);
    let functions = &LOADED.of(state.ordinal).functions;
    let known = lock(functions).get(&key).copied();
    let function = match known {
        Some(function) => function,
        None => {
            // Outside the lock: several threads may compile at a time.
            let function = module(&state, source, &key.2)?.function(entry)?;
            lock(functions).insert(key, function);
            function
        }
    };
    Ok(Kernel {
        state: state.state(),
        function: Some(function),
        name: entry,
    })
}

/// The program of a source with these macros, loaded.
pub(super) fn module(
    state: &State,
    source: &'static Source,
    defines: &[(String, String)],
) -> Result<Module> {
    let capability = state.properties.capability;
    let key = cache::key(source, capability, defines)?;
    let modules = &LOADED.of(state.ordinal).modules;
    if let Some(module) = lock(modules).get(&key) {
        return Ok(*module);
    }
    // Outside the lock: several threads may compile at a time.
    let image = cache::program(key, source, capability, defines)?;
    // SAFETY: the image is a complete program for this device.
    let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
        .map_err(refused("load a kernel"))?;
    lock(modules).insert(key, Module(module));
    Ok(Module(module))
}

impl Module {
    fn function(self, entry: &'static str) -> Result<Function> {
        let name = CString::new(entry).map_err(|error| Error::inside("kernel", error))?;
        // SAFETY: modules are never unloaded.
        let function = unsafe { result::module::get_function(self.0, name) }
            .map_err(refused("find a kernel in its program"))?;
        Ok(Function(function))
    }
}

impl Kernel {
    /// Queues the kernel: `grid` blocks of `block` threads, each block with `shared` bytes of dynamic shared memory.
    ///
    /// # Safety
    /// `params` is the kernel's one parameter, its addresses are valid on the device for what the kernel does with
    /// them, and the kernel keeps inside them.
    pub unsafe fn launch<P: KernelParams>(
        &self,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &P,
    ) -> Result<()> {
        let Some(Function(function)) = self.function else {
            return Ok(()); // a rehearsal
        };
        let entry = driver::of(self.state.device)?;
        if grid.contains(&0) {
            return Ok(()); // nothing to do
        }
        self.allow_shared(function, shared)?;
        let mut arguments = [std::ptr::from_ref(params).cast::<c_void>().cast_mut()];
        let (grid, block) = (grid.into(), (block, 1, 1));
        // SAFETY: one parameter, as the caller promises; the driver copies it before it returns.
        entry.queue(self.name, |stream| unsafe {
            result::launch_kernel(function, grid, block, shared, stream, &mut arguments)
        })
    }

    /// Raises the function's limit of dynamic shared memory to `shared` bytes where it is lower.
    fn allow_shared(&self, function: sys::CUfunction, shared: u32) -> Result<()> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
        if shared <= FREE_SHARED_BYTES {
            return Ok(());
        }
        let most = self.state.properties.shared_memory;
        if shared as usize > most {
            return Err(Error::SharedMemory {
                kernel: self.name,
                needed: shared as usize,
                most,
            });
        }
        let mut limits = lock(&LOADED.of(self.state.ordinal).shared_limits);
        let limit = limits.entry(function as usize).or_default();
        if shared > *limit {
            // SAFETY: the function is never unloaded.
            unsafe { result::function::set_function_attribute(function, LIMIT, shared as i32) }
                .map_err(refused("get shared memory for a kernel"))?;
            *limit = shared;
        }
        Ok(())
    }

    /// How many blocks of this size a multiprocessor holds at a time.
    pub fn blocks_per_multiprocessor(&self, block: u32, shared: u32) -> Result<u32> {
        let Some(Function(function)) = self.function else {
            return Ok(1); // a rehearsal
        };
        // SAFETY: the function is never unloaded.
        let count = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(
                function,
                block as i32,
                shared as usize,
            )
        };
        Ok(count
            .map_err(refused("ask for a kernel's occupancy"))?
            .max(0) as u32)
    }
}
