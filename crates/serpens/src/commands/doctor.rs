//! `serpens doctor`.

use serde_json::{Value, json};
use std::path::Path;

use serpens_core::cuda::{self, LibraryKind, Properties};
use serpens_core::{Device, Result as CoreResult};
use serpens_ops::simd::Isa;

use crate::Result;
use crate::cli::DoctorArgs;
use crate::machine;
use crate::output::say;

/// What an NVIDIA GPU needs, and what it is for.
const LIBRARIES: [(LibraryKind, &str, &str); 3] = [
    (LibraryKind::Driver, "driver", "runs the card"),
    (LibraryKind::Nvrtc, "nvrtc", "compiles kernels"),
    (LibraryKind::CublasLt, "cublaslt", "matrix products"),
];

pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bandwidth = machine::read_bandwidth(4);
    let sets: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    let gpu = Gpu::look();
    if args.json {
        return say(&json!({
            "serpens": env!("CARGO_PKG_VERSION"),
            "processor": machine::processor(),
            "cores": cores,
            "threads": rayon::current_num_threads(),
            "simd": { "used": Isa::current().name(), "lanes": Isa::current().lanes(), "available": sets },
            "memory_bytes": machine::memory(),
            "memory_read_gb_per_s": bandwidth,
            "gpu": gpu.to_json(),
        })
        .to_string());
    }
    let simd = format!(
        "{} ({} lanes), of {}",
        Isa::current().name(),
        Isa::current().lanes(),
        sets.join(", ")
    );
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
    /// In the order of [`LIBRARIES`].
    libraries: [CoreResult<&'static Path>; 3],
    /// The version of NVRTC, 1000 major + 10 minor.
    compiler: Option<u32>,
    cards: CoreResult<Vec<Properties>>,
}

impl Gpu {
    fn look() -> Self {
        Self {
            libraries: LIBRARIES.map(|(kind, _, _)| cuda::find(kind)),
            compiler: cuda::nvrtc_version().ok(),
            cards: cuda::cards(),
        }
    }

    /// Name and value of each library and each card.
    fn facts(&self) -> Vec<(String, String)> {
        let libraries = LIBRARIES.iter().zip(&self.libraries);
        let mut facts: Vec<(String, String)> = libraries
            .map(|((kind, _, purpose), found)| {
                let version = self
                    .version(*kind)
                    .map(|version| format!("CUDA {version}, "));
                let value = match found {
                    Ok(path) => {
                        format!(
                            "{} ({}{purpose})",
                            path.display(),
                            version.unwrap_or_default()
                        )
                    }
                    Err(_) => format!("not found ({purpose}): {}", kind.advice()),
                };
                (
                    kind.to_string().trim_start_matches("the ").to_owned(),
                    value,
                )
            })
            .collect();
        for (number, card) in self.cards.iter().flatten().enumerate() {
            facts.push((format!("cuda:{number}"), describe(card)));
        }
        facts
    }

    /// The CUDA version of a library, where it tells it.
    fn version(&self, kind: LibraryKind) -> Option<String> {
        match kind {
            LibraryKind::Driver => self.cards.as_ref().ok()?.first().map(|card| card.driver),
            LibraryKind::Nvrtc => self.compiler,
            LibraryKind::CublasLt => None,
        }
        .map(version)
    }

    /// The libraries that are not here.
    fn missing(&self) -> impl Iterator<Item = LibraryKind> {
        let libraries = LIBRARIES.iter().zip(&self.libraries);
        libraries.filter_map(|((kind, _, _), found)| found.is_err().then_some(*kind))
    }

    /// Why no GPU can be used, and what to do; `None` where one can be.
    fn obstacle(&self) -> Option<String> {
        if self.libraries[0].is_err() {
            return Some(
                "no NVIDIA driver was found; with an NVIDIA GPU in this machine, install it".into(),
            );
        }
        let card = match &self.cards {
            Err(error) => return Some(error.to_string()),
            Ok(cards) => match cards.first() {
                None => return Some("the driver shows no card".into()),
                Some(card) => card,
            },
        };
        let missing: Vec<String> = self
            .missing()
            .map(|kind| format!("{kind} was not found: {}", kind.advice()))
            .collect();
        if !missing.is_empty() {
            return Some(missing.join("; "));
        }
        let compiler = self.compiler.unwrap_or_default();
        if compiler / 1000 > card.driver / 1000 {
            let (major, supported) = (card.driver / 1000, version(card.driver));
            return Some(format!(
                "NVRTC is of CUDA {}, but the driver supports {supported} at most: update the driver, or pip install nvidia-cuda-nvrtc-cu{major}",
                version(compiler)
            ));
        }
        Device::cuda(0).err().map(|error| error.to_string())
    }

    fn verdict(&self) -> String {
        match self.obstacle() {
            None => "Serpens computes on cuda:0 unless --device says otherwise.".into(),
            Some(reason) => {
                format!("Serpens computes on the processor. No GPU can be used: {reason}.")
            }
        }
    }

    fn to_json(&self) -> Value {
        let libraries: serde_json::Map<String, Value> = LIBRARIES
            .iter()
            .zip(&self.libraries)
            .map(|((kind, key, _), found)| {
                let value = match found {
                    Ok(path) => {
                        json!({ "path": path.display().to_string(), "cuda": self.version(*kind) })
                    }
                    Err(_) => json!({ "path": null, "advice": kind.advice() }),
                };
                ((*key).to_owned(), value)
            })
            .collect();
        let cards = self.cards.iter().flatten().map(|card| {
            json!({
                "name": card.name,
                "compute_capability": format!("{}.{}", card.capability.0, card.capability.1),
                "multiprocessors": card.multiprocessors,
                "clock_hz": card.clock,
                "memory_bytes": card.memory,
                "cache_bytes": card.cache,
            })
        });
        json!({
            "usable": self.obstacle().is_none(),
            "verdict": self.verdict(),
            "cards": cards.collect::<Vec<Value>>(),
            "libraries": libraries,
        })
    }
}

fn describe(card: &Properties) -> String {
    let (major, minor) = card.capability;
    format!(
        "{}, compute capability {major}.{minor}, {} multiprocessors at {:.2} GHz, {:.1} GB of memory, {:.0} MB of cache",
        card.name,
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
