//! A model from one format to another: from whatever [`Checkpoint::open`] opens to a folder of Hugging Face's, one with
//! the original program's names, or a GGUF file. Without arguments, a tiny model goes there and back.
//!
//! `cargo run --release -p serpens-nn --example convert [FROM TO hf|gguf|original-names f32|f16|bf16|q8_0|q4_0]`

use std::path::Path;

use serpens_core::Device;
use serpens_formats::Encoding;
use serpens_formats::gguf::Metadata;
use serpens_nn::checkpoint::{Checkpoint, Format, Options, export, save};
use serpens_nn::{MambaLmConfig, Result};
use serpens_ops::quantized_linear::Blocks;

fn convert(from: &Path, to: &Path, format: Format, encoding: Encoding) -> Result<()> {
    let opened = Checkpoint::open(from, &Options::default())?;
    let model = opened.load(Device::Cpu)?;
    // A tokenizer's keys would be among the metadata.
    for line in export(&model, to, format, &|_| encoding, Metadata::default())? {
        println!("{line}");
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [from, to, format, encoding] = &arguments[..] {
        let format = format.parse().expect("hf, gguf or original-names");
        let encoding = Encoding::named(encoding).expect("the name of an encoding");
        return convert(from.as_ref(), to.as_ref(), format, encoding);
    }
    let folder = std::env::temp_dir().join(format!("serpens-convert-{}", std::process::id()));
    let [first, gguf, last] = ["first", "model.gguf", "last"].map(|name| folder.join(name));
    save(&MambaLmConfig::new(32, 2, 64).init(Device::Cpu, 0)?, &first)?;
    convert(&first, &gguf, Format::Gguf, Encoding::Blocks(Blocks::Q8_0))?;
    convert(&gguf, &last, Format::Hf, Encoding::BF16)?;
    std::fs::remove_dir_all(folder).expect("the folder was just made");
    Ok(())
}
