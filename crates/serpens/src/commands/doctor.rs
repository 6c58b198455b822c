//! `serpens doctor`.

use std::path::Path;

use serpens_ops::simd::Isa;

use crate::Result;
use crate::cli::DoctorArgs;
use crate::machine;
use crate::output::say;

/// Libraries that a GPU needs, and what they are for.
const GPU_LIBRARIES: [(&str, &str); 3] = [
    ("libcuda.so.1", "the NVIDIA driver"),
    ("libnvrtc.so", "compiles kernels"),
    ("libcublasLt.so", "matrix products"),
];

pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bandwidth = machine::read_bandwidth(4);
    let sets: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    let libraries: Vec<(&str, &str, Option<String>)> = GPU_LIBRARIES
        .iter()
        .map(|(name, about)| (*name, *about, find_library(name)))
        .collect();
    if args.json {
        let gpu: serde_json::Map<_, _> = libraries
            .iter()
            .map(|(name, _, path)| ((*name).to_owned(), path.clone().into()))
            .collect();
        return say(&serde_json::json!({
            "serpens": env!("CARGO_PKG_VERSION"),
            "processor": machine::processor(),
            "cores": cores,
            "threads": rayon::current_num_threads(),
            "simd": { "used": Isa::current().name(), "lanes": Isa::current().lanes(), "available": sets },
            "memory_bytes": machine::memory(),
            "memory_read_gb_per_s": bandwidth,
            "gpu_libraries": gpu,
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
    for (name, about, path) in &libraries {
        let found = path.as_deref().unwrap_or("not found");
        facts.push(((*name).into(), format!("{found} ({about})")));
    }
    for (name, value) in facts {
        say(&format!("{name:<16} {value}"))?;
    }
    say(&verdict(&libraries))
}

/// What the libraries found mean today.
fn verdict(libraries: &[(&str, &str, Option<String>)]) -> String {
    let missing: Vec<&str> = libraries
        .iter()
        .filter(|(_, _, path)| path.is_none())
        .map(|(name, _, _)| *name)
        .collect();
    let gpu = match missing.is_empty() {
        true => "the libraries for one are all here".into(),
        false => format!("for one, {} would be missing", missing.join(", ")),
    };
    format!("This version computes on the processor; a later one will use an NVIDIA GPU ({gpu}).")
}

/// Where a library is: on LD_LIBRARY_PATH, or in the usual places.
fn find_library(name: &str) -> Option<String> {
    let paths = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/local/cuda/lib64",
        "/usr/local/nvidia/lib64",
        "/usr/lib/wsl/lib",
    ];
    paths
        .split(':')
        .filter(|path| !path.is_empty())
        .chain(usual)
        .filter_map(|dir| std::fs::read_dir(Path::new(dir)).ok())
        .flatten()
        .filter_map(std::result::Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(name))
        .map(|entry| entry.path().display().to_string())
}
