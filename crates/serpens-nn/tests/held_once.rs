//! The memory of models that are only asked. Alone in its process, whose pool it looks at.

use std::collections::HashMap;

use serpens_core::Device;
use serpens_formats::Encoding;
use serpens_formats::gguf::Metadata;
use serpens_nn::checkpoint::{Checkpoint, Format, Options, encoding_of, export};
use serpens_nn::{MambaLm, MambaLmConfig, Module, ToInfer};
use serpens_ops::linear::Held;

#[test]
fn each_weight_is_held_once_and_read_one_at_a_time() {
    let saved = MambaLmConfig::new(512, 4, 1024)
        .init(Device::Cpu, 0)
        .unwrap();
    let largest = 4.0 * 2048.0 * 512.0; // a projection in, in f32
    let folder = tempfile::tempdir().unwrap();
    let path = |encoding: Encoding| folder.path().join(format!("{encoding}.gguf"));
    let mut bytes = HashMap::new();
    for encoding in ToInfer::WEIGHTS {
        let path = path(encoding);
        export(
            &saved,
            &path,
            Format::Gguf,
            &|name| encoding_of(encoding, name),
            Metadata::default(),
        )
        .unwrap();
        let file = Checkpoint::open(&path, &Options::default()).unwrap();
        bytes.insert(encoding, file.size().unwrap()[0] as f64);
    }
    drop(saved);
    for encoding in ToInfer::WEIGHTS {
        // As the file has it; brought to it from f32 while it is read.
        for (stored, weights) in [(encoding, None), (Encoding::F32, Some(encoding))] {
            let file = Checkpoint::open(&path(stored), &Options::default()).unwrap();
            let before = Device::Cpu.memory().in_use;
            Device::Cpu.reset_high_water();
            let how = ToInfer {
                weights,
                ..ToInfer::default()
            };
            let model = file.load_to_infer(how).unwrap();
            let memory = Device::Cpu.memory();
            let held = held_bytes(&model);
            let wanted = bytes[&encoding];
            let what = format!("{encoding} from {stored}: {held} bytes, {wanted} in a file");
            assert!(held <= 1.05 * wanted, "{what}");
            let after = (memory.in_use - before) as f64;
            assert!(after <= POOL * held, "{what}, {after} taken");
            let peak = (memory.high_water - before) as f64;
            assert!(peak <= after + POOL * largest, "{what}, {peak} at most");
            drop(model);
        }
    }
}

/// The pool hands out buffers of few sizes: so many times what is asked for, at most.
const POOL: f64 = 1.26;

/// Bytes of what each parameter is held in.
fn held_bytes(model: &MambaLm) -> f64 {
    let mut bytes = 0;
    let visited = model.visit("", &mut |_, param| {
        bytes += match param.held()? {
            Held::Plain(value) => value.len() * value.dtype().size(),
            Held::Packed(value) => value.bytes(),
        };
        Ok(())
    });
    visited.unwrap();
    bytes as f64
}
