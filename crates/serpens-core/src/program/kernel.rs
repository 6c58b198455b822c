//! Kernels: loading and launching them.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::hash::Hash;
use std::sync::Mutex;

use cudarc::driver::sys::CUlaunchAttributeID as Attribute;
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

/// Shared memory of a block that needs no permission.
const FREE_SHARED_BYTES: u32 = 48 * 1024;

/// The first major compute capability whose kernels may start before their predecessors have ended.
const EARLY_MAJOR: u32 = 9;

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
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as FIXED;
        let name = CString::new(entry).map_err(|error| Error::inside("kernel", error))?;
        // SAFETY: the module is loaded.
        let handle = unsafe { result::module::get_function(self.0, name) }
            .map_err(refused("find a kernel in its program"))?;
        // SAFETY: the function is loaded.
        let fixed = unsafe { result::function::get_function_attribute(handle, FIXED) };
        let fixed = fixed.map_err(refused("ask for a kernel's shared memory"))?;
        let shared = Mutex::new(FREE_SHARED_BYTES.saturating_sub(fixed as u32));
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
        // SAFETY: as the caller promises.
        unsafe { self.queue(grid, block, shared, params, None) }
    }

    /// As [`Kernel::launch`], but all blocks are at work at the same time, so they may wait for each other. The device
    /// refuses more blocks than it holds at a time.
    ///
    /// # Safety
    /// As of [`Kernel::launch`].
    pub unsafe fn launch_together<P: KernelParams>(
        &self,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &P,
    ) -> Result<()> {
        let yes = sys::CUlaunchAttributeValue { cooperative: 1 };
        let together = (Attribute::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, yes);
        // SAFETY: as the caller promises.
        unsafe { self.queue(grid, block, shared, params, Some(together)) }
    }

    /// As [`Kernel::launch`], but on cards that can (Hopper and later) blocks may start while the kernel before is at
    /// work, in the room that it leaves: what it costs to start, and to load what nobody writes, is hidden.
    ///
    /// # Safety
    /// As of [`Kernel::launch`]; and every thread calls `await_predecessors` of the prelude before it reads what a
    /// kernel has written, and before it writes anything. What it reads above that call, such as weights, is written by
    /// no kernel that may still be at work then: neither by the one queued before, nor by one before that, where those
    /// between them were launched early too. Weights that a program has a kernel write are so followed by a
    /// [`Kernel::launch`], or by waiting for the device, before a step reads them.
    pub unsafe fn launch_early<P: KernelParams>(
        &self,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &P,
    ) -> Result<()> {
        let yes = sys::CUlaunchAttributeValue {
            programmaticStreamSerializationAllowed: 1,
        };
        let early = (
            Attribute::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            yes,
        );
        let early = (self.state.properties.capability.0 >= EARLY_MAJOR).then_some(early);
        // SAFETY: as the caller promises.
        unsafe { self.queue(grid, block, shared, params, early) }
    }

    /// # Safety
    /// As of the launch that is of this attribute.
    unsafe fn queue<P: KernelParams>(
        &self,
        [x, y, z]: [u32; 3],
        block: u32,
        shared: u32,
        params: &P,
        attribute: Option<(Attribute, sys::CUlaunchAttributeValue)>,
    ) -> Result<()> {
        let Some(function) = self.function else {
            return Ok(()); // a rehearsal
        };
        let entry = driver::of(self.state.device)?;
        if [x, y, z].contains(&0) {
            return Ok(()); // nothing to do
        }
        self.allow_shared(function, shared)?;
        let mut arguments = [std::ptr::from_ref(params).cast::<c_void>().cast_mut()];
        let pad = [0; 4];
        let mut attribute = attribute.map(|(id, value)| sys::CUlaunchAttribute { id, pad, value });
        let attributes = attribute.as_mut_slice();
        entry.queue(self.name, |stream| {
            let config = sys::CUlaunchConfig {
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: block,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: shared,
                hStream: stream,
                attrs: attributes.as_mut_ptr(),
                numAttrs: attributes.len() as u32,
            };
            let (kernel, arguments) = (function.handle, arguments.as_mut_ptr());
            // SAFETY: one parameter, as the caller promises; the driver copies it before it returns.
            unsafe { sys::cuLaunchKernelEx(&config, kernel, arguments, std::ptr::null_mut()) }
                .result()
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
