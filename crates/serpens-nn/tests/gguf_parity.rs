//! Tiny GGUF files, made with the `gguf` Python package: logits must be those that the files' own (dequantised) weights
//! give in f64 (`scripts/make_model_vectors.py`). Another folder of such files is tried where `SERPENS_GGUF` names one.

use std::path::{Path, PathBuf};

use safetensors::tensor::SafeTensors;
use serpens_core::{Device, Tensor};
use serpens_nn::Module;
use serpens_nn::checkpoint::{Checkpoint, Options};
use serpens_nn::layers::Sequence;

#[test]
fn files_of_every_encoding_give_the_logits_of_their_weights() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let folder = std::env::var_os("SERPENS_GGUF").map_or(ours, PathBuf::from);
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| {
        let bytes = expected.tensor(name).unwrap().data();
        bytes.as_chunks::<8>().0.to_vec()
    };
    let ids = words("input_ids").into_iter().map(i64::from_le_bytes);
    let ids: Vec<u32> = ids.map(|id| u32::try_from(id).unwrap()).collect();
    let ids = Tensor::from_slice([1, ids.len()], &ids, Device::Cpu).unwrap();
    for name in ["f32", "f16", "q8_0", "q4_0", "k", "falcon"] {
        let path = folder.join(format!("{name}.gguf"));
        let opened = Checkpoint::open(&path, &Options::default()).unwrap();
        assert_eq!(opened.folder(), folder);
        let counted = opened.plan().count(|param| param.trained).unwrap();
        let model = opened.load(Device::Cpu).unwrap();
        assert_eq!(model.count(|param| param.trained).unwrap(), counted);
        let logits = model
            .forward(&ids.clone().into(), &Sequence::default(), None)
            .unwrap();
        let logits = logits.into_tensor().unwrap().to_vec::<f32>().unwrap();
        let expected = words(&format!("{name}.logits"));
        assert_eq!(logits.len(), expected.len());
        let (mut largest, mut worst) = (0.0_f64, 0.0_f64);
        for (got, expected) in logits.iter().zip(expected) {
            let expected = f64::from_le_bytes(expected);
            largest = largest.max(expected.abs());
            worst = worst.max((f64::from(*got) - expected).abs());
        }
        println!(
            "{name}: off by {:.1e} of the largest logit",
            worst / largest
        );
        assert!(worst <= 1e-5 * largest, "{name}: {worst} of {largest}");
    }
}
