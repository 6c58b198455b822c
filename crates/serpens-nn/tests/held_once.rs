//! The memory of models that are only asked. Alone in its process, whose pool it looks at.

use serpens_core::Device;
use serpens_formats::Encoding;
use serpens_formats::gguf::Metadata;
use serpens_nn::checkpoint::{Checkpoint, Format, Options, export};
use serpens_nn::{MambaLmConfig, Module, ToInfer};
use serpens_ops::quantized_linear::Blocks;

#[test]
fn each_weight_is_held_once_and_read_one_at_a_time() {
    let saved = MambaLmConfig::new(512, 4, 1024)
        .init(Device::Cpu, 0)
        .unwrap();
    let values = saved.count(|_| true).unwrap() as f64;
    let largest = 4.0 * 2048.0 * 512.0; // a projection in, in f32
    let folder = tempfile::tempdir().unwrap();
    let path = |encoding: Encoding| folder.path().join(format!("{encoding}.gguf"));
    for encoding in ToInfer::WEIGHTS {
        let (path, encoding) = (path(encoding), |_: &str| encoding);
        export(&saved, &path, Format::Gguf, &encoding, Metadata::default()).unwrap();
    }
    drop(saved);
    // Bytes of a value: those of the encoding, and what Δ's projection (bf16), A and the rest (f32) add.
    for (encoding, bytes_each) in [
        (Encoding::F32, 4.0),
        (Encoding::BF16, 2.05),
        (Encoding::Blocks(Blocks::Q8_0), 1.15),
        (Encoding::Blocks(Blocks::Q6_K), 0.92),
        (Encoding::Blocks(Blocks::Q4_K), 0.67),
        (Encoding::Blocks(Blocks::Q4_0), 0.67),
    ] {
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
            let after = (memory.in_use - before) as f64;
            let what = format!(
                "{encoding} from {stored}: {:.3} bytes a value",
                after / values
            );
            assert!(after <= 1.02 * bytes_each * values, "{what}");
            let peak = (memory.high_water - before) as f64;
            assert!(peak <= after + 1.05 * largest, "{what}, {peak} at most");
            drop(model);
        }
    }
}
