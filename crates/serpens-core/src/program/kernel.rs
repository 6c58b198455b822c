//! Kernels: loading and launching them.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::hash::Hash;
use std::sync::Mutex;

use cudarc::driver::{result, sys};

use super::params::KernelParams;
use super::source::{Program, Source};
use super::{cache, rehearsal};
use crate::driver::{self, PerDevice, State, lock};
use crate::error::refused;
use crate::{Device, Error, Result};

/// A loaded program.
#[derive(Clone, Copy)]
pub(super) struct Module(sys::CUmodule);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}

/// A kernel of a loaded program; neither is ever unloaded.
struct Function {
    handle: sys::CUfunction,
    /// The most dynamic shared memory that a block has been granted.
    shared: Mutex<u32>,
}

// SAFETY: as above.
unsafe impl Sync for Function {}

/// What of a device's programs is loaded.
#[derive(Default)]
struct Loaded {
    functions: Mutex<HashMap<(Program, &'static str), &'static Function>>,
    modules: Mutex<HashMap<u128, Module>>,
}

static LOADED: PerDevice<Loaded> = PerDevice::new();

/// Dynamic shared memory that needs no permission.
const FREE_SHARED_BYTES: u32 = 48 * 1024;

/// A compiled kernel of a device.
#[derive(Clone, Copy)]
pub struct Kernel {
    state: &'static State,
    /// None where work is rehearsed: the kernel then does nothing.
    function: Option<&'static Function>,
    name: &'static str,
}

/// The kernel `entry` of a source compiled with these macros. Compiled once for a card and kept on disk, loaded once
/// for a process.
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
    let defines = defines.iter().map(owned).collect();
    let program = Program { source, defines };
    let mut function = None;
    if !rehearsal::note(&state, &program) {
        let functions = &LOADED.of(state.device).functions;
        let load = |key: &(Program, _)| module(&state, &key.0)?.function(entry);
        function = Some(known_or(functions, (program, entry), load)?);
    }
    Ok(Kernel {
        state: state.state,
        function,
        name: entry,
    })
}

/// A program, loaded.
pub(super) fn module(state: &State, program: &Program) -> Result<Module> {
    let capability = state.properties.capability;
    let load = |&key: &u128| {
        let image = cache::image(program, capability, key)?;
        // SAFETY: the image is a complete program for this device.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
        Ok(Module(module.map_err(refused("load a kernel"))?))
    };
    let modules = &LOADED.of(state.device).modules;
    known_or(modules, cache::key(program, capability)?, load)
}

/// What is known under `key`, or made and known from then on: outside the lock, as several threads may compile at a
/// time.
fn known_or<K: Eq + Hash, V: Copy>(
    known: &Mutex<HashMap<K, V>>,
    key: K,
    make: impl FnOnce(&K) -> Result<V>,
) -> Result<V> {
    if let Some(value) = lock(known).get(&key) {
        return Ok(*value);
    }
    let value = make(&key)?;
    lock(known).insert(key, value);
    Ok(value)
}

impl Module {
    fn function(self, entry: &'static str) -> Result<&'static Function> {
        let name = CString::new(entry).map_err(|error| Error::inside("kernel", error))?;
        // SAFETY: the module is loaded.
        let handle = unsafe { result::module::get_function(self.0, name) }
            .map_err(refused("find a kernel in its program"))?;
        let shared = Mutex::new(FREE_SHARED_BYTES);
        Ok(Box::leak(Box::new(Function { handle, shared })))
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
        let Some(function) = self.function else {
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
            result::launch_kernel(function.handle, grid, block, shared, stream, &mut arguments)
        })
    }

    /// Asks for `shared` bytes of dynamic shared memory where the function has fewer.
    fn allow_shared(&self, function: &Function, shared: u32) -> Result<()> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
        let mut granted = lock(&function.shared);
        if shared <= *granted {
            return Ok(());
        }
        let (needed, most) = (shared as usize, self.state.properties.shared_memory);
        if needed > most {
            let kernel = self.name;
            return Err(Error::SharedMemory {
                kernel,
                needed,
                most,
            });
        }
        // SAFETY: the function is loaded.
        unsafe { result::function::set_function_attribute(function.handle, LIMIT, shared as i32) }
            .map_err(refused("get shared memory for a kernel"))?;
        *granted = shared;
        Ok(())
    }

    /// How many blocks of this size a multiprocessor holds at a time.
    pub fn blocks_per_multiprocessor(&self, block: u32, shared: u32) -> Result<u32> {
        let Some(function) = self.function else {
            return Ok(1); // a rehearsal
        };
        let (handle, block, shared) = (function.handle, block as i32, shared as usize);
        // SAFETY: the function is loaded.
        let count = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(handle, block, shared)
        };
        let count = count.map_err(refused("ask for a kernel's occupancy"))?;
        Ok(count.max(0) as u32)
    }
}
