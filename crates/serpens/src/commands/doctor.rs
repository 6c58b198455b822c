//! `serpens doctor`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use serpens_core::cuda::{self, LibraryKind, Properties};
use serpens_core::{Device, Result as CoreResult};
use serpens_ops::simd::Isa;

use crate::Result;
use crate::machine;
use crate::output::say;

pub(super) fn run(as_json: bool) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bandwidth = machine::read_bandwidth(4)?;
    let sets: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    let gpu = Gpu::look();
    if as_json {
        return say(&json!({
            "serpens": env!("CARGO_PKG_VERSION"),
            "processor": machine::processor(),
            "cores": cores,
            "threads": rayon::current_num_threads(),
            "simd": { "used": Isa::current().name(), "lanes": Isa::current().lanes(), "available": sets },
            "memory_bytes": Device::Cpu.capacity(),
            "memory_read_gb_per_s": bandwidth,
            "gpu": gpu.to_json(),
        })
        .to_string());
    }
    let (used, lanes) = (Isa::current().name(), Isa::current().lanes());
    let simd = format!("{used} ({lanes} lanes), of {}", sets.join(", "));
    let mut facts = machine::facts();
    facts.push(("cores".into(), cores.to_string()));
    facts.push(("SIMD in use".into(), simd));
    facts.push(("memory reading".into(), format!("{bandwidth:.1} GB/s")));
    facts.extend(gpu.facts());
    for (name, value) in facts {
        say(&format!("{name:<16} {value}"))?;
    }
    say(&gpu.verdict())
}

/// What there is of NVIDIA's on this machine.
struct Gpu {
    /// The driver first.
    libraries: [Library; 3],
    cards: CoreResult<Vec<Properties>>,
}

/// What an NVIDIA GPU needs.
struct Library {
    kind: LibraryKind,
    key: &'static str,
    /// What it is for.
    purpose: &'static str,
    found: CoreResult<&'static Path>,
    /// Its CUDA version, 1000 major + 10 minor, where it tells it.
    cuda: Option<u32>,
}

impl Gpu {
    fn look() -> Self {
        let library = |kind, key, purpose, cuda| Library {
            kind,
            key,
            purpose,
            found: cuda::find(kind),
            cuda,
        };
        let (compiler, cards) = (cuda::nvrtc_version().ok(), cuda::cards());
        let first = cards.iter().flatten().next();
        let driver = first.map(|card| card.driver);
        Self {
            libraries: [
                library(LibraryKind::Driver, "driver", "runs the card", driver),
                library(LibraryKind::Nvrtc, "nvrtc", "compiles kernels", compiler),
                library(LibraryKind::CublasLt, "cublaslt", "matrix products", None),
            ],
            cards,
        }
    }

    /// Name and value of each library and each card.
    fn facts(&self) -> Vec<(String, String)> {
        let libraries = self.libraries.iter().map(|library| {
            let (kind, purpose) = (library.kind, library.purpose);
            let cuda = library.cuda.map(|cuda| format!("CUDA {}, ", version(cuda)));
            let cuda = cuda.unwrap_or_default();
            let value = match &library.found {
                Ok(path) => format!("{} ({cuda}{purpose})", path.display()),
                Err(_) => format!("not found ({purpose}): {}", kind.advice()),
            };
            let name = kind.to_string();
            (name.trim_start_matches("the ").to_owned(), value)
        });
        let cards = self.cards.iter().flatten().enumerate();
        let cards = cards.map(|(number, card)| (format!("cuda:{number}"), describe(card)));
        libraries.chain(cards).collect()
    }

    /// Why no GPU can be used, and what to do, where none can be.
    fn usable(&self) -> Result<(), String> {
        if self.libraries[0].found.is_err() {
            let advice =
                "no NVIDIA driver was found; with an NVIDIA GPU in this machine, install it";
            return Err(advice.into());
        }
        let cards = self.cards.as_ref().map_err(ToString::to_string)?;
        let card = cards.first().ok_or("the driver shows no card")?;
        let absent = |library: &&Library| library.found.is_err();
        let missing = self.libraries.iter().filter(absent);
        let missing: Vec<String> = missing
            .map(|Library { kind, .. }| format!("{kind} was not found: {}", kind.advice()))
            .collect();
        if !missing.is_empty() {
            return Err(missing.join("; "));
        }
        let compiler = self.libraries[1].cuda.unwrap_or_default();
        if compiler / 1000 > card.driver / 1000 {
            let (compiler, supported) = (version(compiler), version(card.driver));
            return Err(format!(
                "NVRTC is of CUDA {compiler}, but the driver supports {supported} at most: update the driver, or pip install nvidia-cuda-nvrtc-cu{}",
                card.driver / 1000
            ));
        }
        Device::cuda(0).map(drop).map_err(|error| error.to_string())
    }

    fn verdict(&self) -> String {
        match self.usable() {
            Ok(()) => "Serpens computes on cuda:0 unless --device says otherwise.".into(),
            Err(reason) => {
                format!("Serpens computes on the processor. No GPU can be used: {reason}.")
            }
        }
    }

    fn to_json(&self) -> Value {
        let libraries = self.libraries.iter().map(|library| {
            let value = match &library.found {
                Ok(path) => {
                    json!({ "path": path.to_string_lossy(), "cuda": library.cuda.map(version) })
                }
                Err(_) => json!({ "path": null, "advice": library.kind.advice() }),
            };
            (library.key, value)
        });
        let cards = self.cards.iter().flatten().map(|card| {
            json!({
                "name": card.name,
                "compute_capability": capability(card),
                "multiprocessors": card.multiprocessors,
                "clock_hz": card.clock,
                "memory_bytes": card.memory,
                "cache_bytes": card.cache,
            })
        });
        json!({
            "usable": self.usable().is_ok(),
            "verdict": self.verdict(),
            "cards": cards.collect::<Vec<Value>>(),
            "libraries": libraries.collect::<BTreeMap<_, _>>(),
        })
    }
}

/// As `9.0`.
fn capability(card: &Properties) -> String {
    format!("{}.{}", card.capability.0, card.capability.1)
}

fn describe(card: &Properties) -> String {
    format!(
        "{}, compute capability {}, {} multiprocessors at {:.2} GHz, {:.1} GB of memory, {:.0} MB of cache",
        card.name,
        capability(card),
        card.multiprocessors,
        card.clock / 1e9,
        card.memory as f64 / 1e9,
        card.cache as f64 / 1e6
    )
}

/// 13000 as `13.0`.
fn version(number: u32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}
