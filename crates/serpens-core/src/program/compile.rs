//! Compiling kernels with NVRTC.

use std::ffi::CString;

use cudarc::nvrtc::result::{self, NvrtcError};
use cudarc::nvrtc::sys;

use super::source::{Program, Source};
use crate::driver::find;
use crate::error::refused;
use crate::{Error, LibraryKind, Result};

/// What every kernel is compiled after.
pub(super) const PRELUDE: &str = include_str!("prelude.cuh");

/// The NVRTC that first had a cache, and the option to go without.
const CACHES_SINCE: u32 = 12_090;

/// What one kernel of a compiled program uses, as the assembler reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The kernel.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers spilled to memory, stores and loads together.
    pub spills: u32,
}

/// NVRTC's version, 1000 major + 10 minor.
///
/// # Errors
/// [`Error::Library`] where there is no NVRTC.
pub fn version() -> Result<u32> {
    find(LibraryKind::Nvrtc)?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: NVRTC writes two integers.
    let code = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    code.result().map_err(refused("ask for NVRTC's version"))?;
    Ok((1000 * major + 10 * minor).max(0) as u32)
}

impl Program {
    /// Compiles the program for a compute capability (major, minor): its image, and what its kernels use.
    ///
    /// # Errors
    /// [`Error::Compile`] with the compiler's words; [`Error::Library`] where there is no NVRTC.
    pub fn compile(&self, capability: (u32, u32)) -> Result<(Vec<u8>, Vec<Resources>)> {
        let compilation = Compilation::new(self.text())?;
        let compiled = compilation.run(self.options(capability)?)?;
        let log = compilation.log();
        if compiled.is_err() {
            let kernel = self.source.name;
            return Err(Error::Compile { kernel, log });
        }
        Ok((compilation.image()?, resources(&log)))
    }

    fn text(&self) -> String {
        let Source { name, text, .. } = self.source;
        let declarations = self.source.declarations();
        format!(
            "{PRELUDE}\n#line 1 \"{name} declarations\"\n{declarations}\n#line 1 \"{name}.cu\"\n{text}"
        )
    }

    fn options(&self, (major, minor): (u32, u32)) -> Result<Vec<String>> {
        // What only this generation has: Hopper's products of whole groups of warps.
        let own = if major == 9 { "a" } else { "" };
        let mut options = vec![
            format!("--gpu-architecture=sm_{major}{minor}{own}"),
            "--std=c++17".to_owned(),
            "--ptxas-options=-v".to_owned(),
        ];
        // With a driver, NVRTC keeps images of its own, and has no assembler's report for those it finds there.
        if version()? >= CACHES_SINCE {
            options.push("--no-cache".to_owned());
        }
        let defines = self.defines.iter();
        options.extend(defines.map(|(name, value)| format!("--define-macro={name}={value}")));
        Ok(options)
    }
}

struct Compilation(sys::nvrtcProgram);

impl Compilation {
    fn new(text: String) -> Result<Self> {
        find(LibraryKind::Nvrtc)?;
        // NVRTC copies the text.
        let program = result::create_program(&c_text(text)?, None);
        Ok(Self(program.map_err(refused("begin to compile"))?))
    }

    /// Whether it compiles; what there is to say is in the log.
    fn run(&self, options: Vec<String>) -> Result<Result<(), NvrtcError>> {
        let options: Vec<CString> = options.into_iter().map(c_text).collect::<Result<_>>()?;
        let pointers: Vec<_> = options.iter().map(|text| text.as_ptr()).collect();
        // SAFETY: the program is live, the options are strings that outlive the call.
        let code =
            unsafe { sys::nvrtcCompileProgram(self.0, pointers.len() as i32, pointers.as_ptr()) };
        Ok(code.result())
    }

    fn log(&self) -> String {
        // SAFETY: the program is live.
        let log = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        let log: Vec<u8> = log.into_iter().map(|byte| byte as u8).collect();
        let log = String::from_utf8_lossy(&log);
        log.trim_end_matches('\0').to_owned()
    }

    fn image(&self) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the program is live.
        let code = unsafe { sys::nvrtcGetCUBINSize(self.0, &mut size) };
        code.result().map_err(refused("size a compiled program"))?;
        let mut image = vec![0_u8; size];
        // SAFETY: the program is live, and the buffer has the size that NVRTC asks for.
        let code = unsafe { sys::nvrtcGetCUBIN(self.0, image.as_mut_ptr().cast()) };
        code.result().map_err(refused("take a compiled program"))?;
        Ok(image)
    }
}

impl Drop for Compilation {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn c_text(text: String) -> Result<CString> {
    CString::new(text).map_err(|error| Error::inside("compile", error))
}

/// Reads the assembler's report: of each kernel "Compiling entry function 'NAME' …", then, also of functions that it
/// calls, "N bytes spill stores, N bytes spill loads", and "Used N registers".
fn resources(log: &str) -> Vec<Resources> {
    let reports = log.split("Compiling entry function '").skip(1);
    let of_kernel = |report: &str| {
        let sum = |mark| {
            let numbers = report.match_indices(mark).filter_map(|(at, _)| {
                let number = report[..at].rsplit(' ').next()?;
                number.parse::<u32>().ok()
            });
            numbers.sum::<u32>()
        };
        Resources {
            kernel: report.split('\'').next().unwrap_or_default().to_owned(),
            registers: sum(" registers"),
            spills: sum(" bytes spill stores") + sum(" bytes spill loads"),
        }
    };
    reports.map(of_kernel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assemblers_report_is_read() {
        let log = "\
ptxas info    : Compiling entry function 'scan' for 'sm_90'
ptxas info    : Function properties for scan
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 16 bytes cumulative stack size
ptxas info    : Compiling entry function 'fold' for 'sm_90'
ptxas info    : Function properties for fold
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers";
        let expected = [("scan", 168, 20), ("fold", 32, 0)];
        let found = resources(log);
        assert_eq!(found.len(), 2);
        for (resources, (kernel, registers, spills)) in found.iter().zip(expected) {
            assert_eq!(resources.kernel, kernel);
            assert_eq!((resources.registers, resources.spills), (registers, spills));
        }
    }
}
