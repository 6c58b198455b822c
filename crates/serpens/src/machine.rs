//! Facts about the machine and the moment: for reports, and for what has to fit.

use std::env::consts::{ARCH, OS};
use std::fs;
use std::time::Instant;

use rayon::prelude::*;
use serpens_core::{Device, Tensor};
use serpens_ops::simd::Isa;

use crate::refusal::Refusal;
use crate::{Error, Result};

/// Name and value of what defines a machine's speed.
pub(crate) fn facts() -> Vec<(String, String)> {
    let memory = Device::Cpu
        .capacity()
        .map(|bytes| format!("{:.1} GB", bytes as f64 / 1e9));
    let facts = [
        ("processor", Some(processor())),
        ("threads", Some(rayon::current_num_threads().to_string())),
        ("SIMD", Some(Isa::current().name().to_owned())),
        ("usable memory", memory),
        ("system", Some(format!("{OS} {ARCH}"))),
        ("serpens", Some(env!("SERPENS_VERSION").to_owned())),
    ];
    let known = facts.into_iter();
    let known = known.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.collect()
}

/// The processor's name where the system tells it.
pub(crate) fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, name)| name.trim().to_owned());
    name.unwrap_or_else(|| ARCH.to_owned())
}

/// Refuses a setting for which the device would have to hold this many tokens, of so many bytes `each`, before they are
/// allocated, unless they fit; in f64, as no product of sizes overflows it. They do where the system does not tell its
/// memory.
pub(crate) fn check_fits(setting: &str, tokens: f64, each: f64, device: Device) -> Result<()> {
    let needed = tokens * each;
    let owner = match device {
        Device::Cpu => "the memory that this process may have",
        Device::Cuda(_) => "the GPU's memory",
    };
    match device.capacity() {
        Some(memory) if needed > memory as f64 => {
            let most = (memory as f64 / each) as u64;
            let wrong = Refusal::TooManyTokens {
                tokens,
                needed,
                owner,
                memory,
                most,
            };
            Err(Error::refused(setting, wrong))
        }
        _ => Ok(()),
    }
}

/// The most bytes that this process has had in main memory, where the system tells them.
pub(crate) fn peak_resident() -> Option<u64> {
    let peak = status("VmHWM:")?;
    let kilobytes: u64 = peak.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// The signals that this process ignores, bit 0 for signal 1, where the system tells them.
#[cfg(unix)]
pub(crate) fn ignored_signals() -> u64 {
    let mask = status("SigIgn:");
    let mask = mask.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    mask.unwrap_or_default()
}

/// What Linux says of this process after a name.
fn status(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_owned())
}

/// GB/s that all threads together read from a tensor far larger than the caches: the best of some runs.
pub(crate) fn read_bandwidth(runs: usize) -> Result<f64> {
    let words = Tensor::full([128 << 20], 1_u32, Device::Cpu)?;
    let words = words.as_slice::<u32>()?;
    let read = || {
        let start = Instant::now();
        let slices = words.par_chunks(1 << 18);
        let sum: u32 = slices.map(|slice| slice.iter().sum::<u32>()).sum();
        std::hint::black_box(sum);
        start.elapsed().as_secs_f64()
    };
    let best = (0..runs).map(|_| read()).fold(f64::INFINITY, f64::min);
    Ok((words.len() * 4) as f64 / best / 1e9)
}

/// The present moment as `2026-11-24 09:30 UTC`.
pub(crate) fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
