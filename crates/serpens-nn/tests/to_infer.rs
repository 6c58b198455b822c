//! Models that are only asked, as files have them and as they are wanted.

use std::collections::BTreeMap;
use std::path::Path;

use serpens_core::{DType, Device, Tape, Tensor};
use serpens_formats::Encoding;
use serpens_formats::gguf::Metadata;
use serpens_nn::checkpoint::{Checkpoint, Format, Options, export, save};
use serpens_nn::layers::Sequence;
use serpens_nn::{Error, LoraConfig, MambaLm, MambaLmConfig, Module, Precision, ToInfer};
use serpens_ops::linear::Held;
use serpens_ops::quantized_linear::Blocks;
use tempfile::TempDir;

/// Wide enough for blocks of 256; Δ's projection has rows of 16.
fn config(tied: bool) -> MambaLmConfig {
    MambaLmConfig {
        tie_embeddings: tied,
        ..MambaLmConfig::new(256, 2, 300)
    }
}

fn model(tied: bool) -> MambaLm {
    config(tied).init(Device::Cpu, 3).unwrap()
}

fn write(model: &MambaLm, path: &Path, encoding: Encoding) -> Checkpoint {
    let format = Format::of_name(path);
    export(model, path, format, &|_| encoding, Metadata::default()).unwrap();
    Checkpoint::open(path, &Options::default()).unwrap()
}

fn logits(model: &MambaLm, tokens: usize) -> Vec<f32> {
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 37 % 300).collect();
    let ids = Tensor::from_slice([1, tokens], &ids, Device::Cpu).unwrap();
    let logits = model.forward(&ids.into(), &Sequence::default(), None);
    logits.unwrap().tensor().unwrap().to_vec().unwrap()
}

/// √(Σ (x - y)² / Σ y²).
fn apart(x: &[f32], y: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = x.iter().zip(y).map(|(x, y)| square(x - y)).sum();
    (off / y.iter().map(|y| square(*y)).sum::<f64>()).sqrt()
}

/// How each parameter is held.
fn held(model: &MambaLm) -> Vec<(String, Encoding)> {
    let mut all = Vec::new();
    let visited = model.visit("", &mut |name, param| {
        let encoding = match param.held()? {
            Held::Plain(value) => Encoding::of(value.dtype()),
            Held::Packed(value) => Encoding::Blocks(value.blocks()),
        };
        all.push((name.to_owned(), encoding));
        Ok(())
    });
    visited.unwrap();
    all
}

/// Whether a name is that of a matrix, or of the table.
fn is_matrix(name: &str) -> bool {
    ["_proj.weight", "embeddings.weight", "head.weight"]
        .iter()
        .any(|end| name.ends_with(end))
}

#[test]
fn blocks_of_a_file_are_kept_and_answer_as_the_widened_ones() {
    for tied in [true, false] {
        let saved = model(tied);
        for kind in Blocks::ALL {
            let dir = TempDir::new().unwrap();
            let file = write(&saved, &dir.path().join("a.gguf"), Encoding::Blocks(kind));
            let kept = file.load_to_infer(ToInfer::default()).unwrap();
            let wide = file.load(Device::Cpu).unwrap();
            for (name, encoding) in held(&kept) {
                let expected = match (is_matrix(&name), name.contains("dt_proj")) {
                    (true, false) => Encoding::Blocks(kind),
                    (true, true) => Encoding::BF16,
                    _ => Encoding::F32,
                };
                assert_eq!(encoding, expected, "{name}");
            }
            let mut packed = Vec::new();
            kept.visit("", &mut |_, param| {
                packed.push(match param.held()? {
                    Held::Packed(value) => Some(value.dequantize()?.to_vec::<f32>()?),
                    Held::Plain(_) => None,
                });
                Ok(())
            })
            .unwrap();
            let mut packed = packed.into_iter();
            wide.visit("", &mut |name, param| {
                if let Some(values) = packed.next().unwrap() {
                    assert!(values == param.value()?.to_vec::<f32>()?, "{name}");
                }
                Ok(())
            })
            .unwrap();
            // Activations are rounded to eight bits for each product, 32 of one scale: about 0.7 % of each product,
            // over two layers and the head.
            let off = apart(&logits(&kept, 12), &logits(&wide, 12));
            assert!(off > 0.0 && off < 0.03, "{kind}: {off}");
        }
    }
}

#[test]
fn bf16_of_a_file_is_kept_and_answers_to_the_bit_as_the_widened() {
    for tied in [true, false] {
        let dir = TempDir::new().unwrap();
        for place in ["folder", "a.gguf"] {
            let file = write(&model(tied), &dir.path().join(place), Encoding::BF16);
            let kept = file.load_to_infer(ToInfer::default()).unwrap();
            let wide = file.load(Device::Cpu).unwrap();
            for (name, encoding) in held(&kept) {
                let expected = if is_matrix(&name) {
                    Encoding::BF16
                } else {
                    Encoding::F32
                };
                assert_eq!(encoding, expected, "{name}");
            }
            assert!(logits(&kept, 12) == logits(&wide, 12), "{place}");
            // Of many rows the products may be summed in another order.
            let off = apart(&logits(&kept, 300), &logits(&wide, 300));
            assert!(off < 1e-5, "{place}: {off}");
        }
    }
}

#[test]
fn matrices_are_held_as_wanted() {
    let dir = TempDir::new().unwrap();
    let saved = model(true);
    save(&saved, dir.path()).unwrap();
    let file = Checkpoint::open(dir.path(), &Options::default()).unwrap();
    let wide = logits(&saved, 12);
    // What the weights' own rounding changes.
    for (weights, most) in [
        (Encoding::F32, 0.0),
        (Encoding::BF16, 0.01),
        (Encoding::Blocks(Blocks::Q8_0), 0.03),
        (Encoding::Blocks(Blocks::Q6_K), 0.06),
        (Encoding::Blocks(Blocks::Q4_K), 0.25),
        (Encoding::Blocks(Blocks::Q4_0), 0.3),
    ] {
        let how = ToInfer {
            weights: Some(weights),
            ..ToInfer::default()
        };
        let narrow = file.load_to_infer(how).unwrap();
        let held = BTreeMap::from_iter(held(&narrow));
        assert_eq!(held["backbone.layers.0.mixer.in_proj.weight"], weights);
        // The table is the head here, whose errors are in every logit.
        let of_table = match weights {
            Encoding::Blocks(Blocks::Q4_K) => Encoding::Blocks(Blocks::Q6_K),
            weights => weights,
        };
        assert_eq!(held["backbone.embeddings.weight"], of_table);
        let off = apart(&logits(&narrow, 12), &wide);
        assert!(off <= most, "{weights}: {off}");
        let mut in_place = saved.clone();
        in_place.to_infer(how).unwrap();
        assert!(logits(&in_place, 12) == logits(&narrow, 12), "{weights}");
    }
}

#[test]
fn what_was_added_to_matrices_is_merged_before_they_are_narrowed() {
    let mut adapted = model(true);
    adapted.adapt(LoraConfig::default(), 4).unwrap();
    let moved = adapted.visit_mut(
        "",
        &mut |name, param| match name.ends_with("lora_B.weight") {
            true => param.set(Tensor::full(param.shape(), 0.05_f32, Device::Cpu)?),
            false => Ok(()),
        },
    );
    moved.unwrap();
    let mut merged = adapted.clone();
    merged.merge().unwrap();
    let how = ToInfer {
        weights: Some(Encoding::Blocks(Blocks::Q8_0)),
        ..ToInfer::default()
    };
    merged.to_infer(how).unwrap();
    let mut narrowed = adapted.clone();
    narrowed.to_infer(how).unwrap();
    assert_eq!(logits(&narrowed, 5), logits(&merged, 5));
    assert!(apart(&logits(&narrowed, 5), &logits(&model(true), 5)) > 0.01);
    let dir = TempDir::new().unwrap();
    save(&adapted, dir.path()).unwrap();
    let file = Checkpoint::open(dir.path(), &Options::default()).unwrap();
    let read = file.load_to_infer(how).unwrap();
    assert_eq!(logits(&read, 5), logits(&merged, 5));
}

#[test]
fn what_is_held_to_be_asked_is_neither_trained_nor_saved() {
    for weights in [Encoding::BF16, Encoding::Blocks(Blocks::Q4_0)] {
        let mut narrow = model(true);
        let how = ToInfer {
            weights: Some(weights),
            ..ToInfer::default()
        };
        narrow.to_infer(how).unwrap();
        let tape = Tape::new();
        let ids = tape.constant(Tensor::zeros([1, 3], DType::U32, Device::Cpu).unwrap());
        let refused = |error: Error| {
            let text = error.to_string();
            assert!(
                matches!(error, Error::Narrow { held, .. } if held == weights),
                "{text}"
            );
            assert!(text.contains("load the model in f32"), "{text}");
            text
        };
        refused(
            narrow
                .forward(&ids, &Sequence::default(), None)
                .unwrap_err(),
        );
        refused(narrow.clone().adapt(LoraConfig::default(), 0).unwrap_err());
        let dir = TempDir::new().unwrap();
        let text = refused(save(&narrow, dir.path()).unwrap_err());
        assert!(
            text.starts_with("backbone.embeddings.weight of shape (300, 256)"),
            "{text}"
        );
        let moved = narrow.visit_mut("", &mut |_, param| param.tensors_mut().map(drop));
        refused(moved.unwrap_err());
    }
}

#[test]
fn what_a_device_does_not_multiply_with_is_refused() {
    let on = |device, precision, weights| {
        let how = ToInfer {
            device,
            precision,
            weights,
        };
        how.check()
    };
    let (gpu, blocks) = (Device::Cuda(0), Some(Encoding::Blocks(Blocks::Q4_K)));
    let eight = Some(Encoding::Blocks(Blocks::Q8_0));
    assert!(on(gpu, Precision::Bf16, eight).is_ok());
    assert!(on(gpu, Precision::Bf16, None).is_ok());
    assert!(on(gpu, Precision::Bf16, Some(Encoding::BF16)).is_ok());
    assert!(on(gpu, Precision::Tf32, Some(Encoding::F32)).is_ok());
    for (precision, weights) in [
        (Precision::Bf16, blocks),
        (Precision::Tf32, eight),
        (Precision::Bf16, Some(Encoding::F32)),
        (Precision::F32, Some(Encoding::BF16)),
    ] {
        let error = on(gpu, precision, weights).unwrap_err();
        assert!(matches!(error, Error::Weights { .. }), "{error}");
    }
    let error = on(Device::Cpu, Precision::Bf16, blocks).unwrap_err();
    assert!(
        matches!(error, Error::Precision(Precision::Bf16)),
        "{error}"
    );
}
