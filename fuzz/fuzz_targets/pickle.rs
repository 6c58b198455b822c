#![no_main]

#[allow(dead_code)]
#[path = "../../crates/serpens/tests/mutations/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::pickle(bytes));
