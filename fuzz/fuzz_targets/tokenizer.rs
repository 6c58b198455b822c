#![no_main]

#[allow(dead_code)]
#[path = "../../crates/serpens/tests/mutations/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(
    init: {
        // Panics inside the `tokenizers` crate are caught and told as errors: they are no finding, one that comes
        // through is.
        std::panic::set_hook(Box::new(|_| ()));
    },
    |bytes: &[u8]| targets::tokenizer(bytes)
);
