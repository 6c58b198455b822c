//! Compiling kernels with NVRTC.

use std::ffi::{CString, c_char};

use cudarc::nvrtc::sys;

use super::source::{Program, Source};
use crate::driver::find;
use crate::error::refused;
use crate::{Error, LibraryKind, Result};

/// What every kernel is compiled after.
pub(super) const PRELUDE: &str = include_str!("prelude.cuh");

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

/// Compiles a source with these macros for a compute capability (major, minor): the program, and what its kernels use.
///
/// # Errors
/// [`Error::Compile`] with the compiler's words; [`Error::Library`] where there is no NVRTC.
pub fn compile(
    source: &Source,
    capability: (u32, u32),
    defines: &[(String, String)],
) -> Result<(Vec<u8>, Vec<Resources>)> {
    find(LibraryKind::Nvrtc)?;
    let (name, declarations) = (source.name, source.declarations());
    let text = format!(
        "{PRELUDE}\n#line 1 \"{name} declarations\"\n{declarations}\n#line 1 \"{name}.cu\"\n{}",
        source.text
    );
    let program = Compilation::new(&text)?;
    let (major, minor) = capability;
    let mut options = vec![
        format!("--gpu-architecture=sm_{major}{minor}"),
        "--std=c++17".to_owned(),
        "--ptxas-options=-v".to_owned(),
    ];
    options.extend(
        defines
            .iter()
            .map(|(name, value)| format!("--define-macro={name}={value}")),
    );
    program.compile(source.name, &options)?;
    let log = program.log();
    Ok((program.image()?, resources(&log)))
}

impl Program {
    /// As [`compile`].
    ///
    /// # Errors
    /// Those of [`compile`].
    pub fn compile(&self, capability: (u32, u32)) -> Result<(Vec<u8>, Vec<Resources>)> {
        compile(self.source, capability, &self.defines)
    }
}

struct Compilation(sys::nvrtcProgram);

impl Compilation {
    fn new(text: &str) -> Result<Self> {
        let text = CString::new(text).map_err(|error| Error::inside("compile", error))?;
        let mut program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: NVRTC copies the text and writes one handle.
        let code = unsafe {
            sys::nvrtcCreateProgram(
                &mut program,
                text.as_ptr(),
                none,
                0,
                none.cast(),
                none.cast(),
            )
        };
        code.result().map_err(refused("begin to compile"))?;
        Ok(Self(program))
    }

    fn compile(&self, kernel: &'static str, options: &[String]) -> Result<()> {
        let options: Vec<CString> = options
            .iter()
            .flat_map(|text| CString::new(text.as_str()))
            .collect();
        let pointers: Vec<*const c_char> = options.iter().map(|text| text.as_ptr()).collect();
        // SAFETY: the program is live, the options are strings that outlive the call.
        let code = unsafe {
            sys::nvrtcCompileProgram(self.0, pointers.len() as i32, pointers.as_ptr().cast())
        };
        code.result().map_err(|_| Error::Compile {
            kernel,
            log: self.log(),
        })
    }

    fn log(&self) -> String {
        let mut size = 0;
        // SAFETY: the program is live, and the buffer has the size that NVRTC asks for.
        unsafe {
            let _ = sys::nvrtcGetProgramLogSize(self.0, &mut size);
            let mut text = vec![0_u8; size];
            let _ = sys::nvrtcGetProgramLog(self.0, text.as_mut_ptr().cast());
            String::from_utf8_lossy(&text)
                .trim_end_matches('\0')
                .to_owned()
        }
    }

    fn image(&self) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: as in `log`.
        let image = unsafe {
            sys::nvrtcGetCUBINSize(self.0, &mut size)
                .result()
                .and_then(|()| {
                    let mut image = vec![0_u8; size];
                    sys::nvrtcGetCUBIN(self.0, image.as_mut_ptr().cast()).result()?;
                    Ok(image)
                })
        };
        image.map_err(refused("take the compiled program"))
    }
}

impl Drop for Compilation {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

/// Reads the assembler's report: "… for 'NAME' …", then "N bytes spill stores, N bytes spill loads", then "Used N registers".
fn resources(log: &str) -> Vec<Resources> {
    let mut found: Vec<Resources> = Vec::new();
    let before = |line: &str, mark: &str| -> Option<u32> {
        line.split(mark)
            .next()?
            .rsplit([' ', ','])
            .find(|word| !word.is_empty())?
            .parse()
            .ok()
    };
    for line in log.lines() {
        if line.contains("Compiling entry function") || line.contains("Function properties for") {
            let name = line.split('\'').nth(1).or_else(|| line.rsplit(' ').next());
            let kernel = name.unwrap_or_default().to_owned();
            if found.last().is_none_or(|last| last.kernel != kernel) {
                found.push(Resources {
                    kernel,
                    registers: 0,
                    spills: 0,
                });
            }
        }
        let Some(last) = found.last_mut() else {
            continue;
        };
        if line.contains("spill stores") {
            last.spills += before(line, " bytes spill stores").unwrap_or(0);
            last.spills += before(line, " bytes spill loads").unwrap_or(0);
        }
        if let Some(count) = before(line, " registers") {
            last.registers = count;
        }
    }
    found
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
