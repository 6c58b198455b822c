//! What bytes of strangers reach, as functions of those bytes that must not panic. `main.rs` beside this runs them on
//! mutations, and so do the fuzzers in the repository's `fuzz/`.

use std::fs;
use std::path::PathBuf;

use serpens::core::{Device, files};
use serpens::formats::safetensors::{read_tensors, write_tensors};
use serpens::nn::checkpoint::{self, CONFIG_FILE, Verify};
use serpens::nn::{MambaLmConfig, Module};
use serpens::recipe::Recipe;
use serpens_report::{LayerSelection, LineChart, Report, SelectionMap, Series};
use tempfile::TempDir;

thread_local! {
    /// The folder of a small model, to be spoilt.
    static MODEL: TempDir = {
        let folder = TempDir::new().expect("a folder");
        let model = MambaLmConfig::new(8, 1, 11).init(Device::Cpu, 0);
        checkpoint::save(&model.expect("a model"), folder.path()).expect("saved");
        folder
    };
}

/// A file of the small model.
pub fn model_file(name: &str) -> PathBuf {
    MODEL.with(|folder| folder.path().join(name))
}

/// A recipe: what is read can be written, and read again.
pub fn recipe(bytes: &[u8]) {
    let text = files::text(bytes.to_vec()).ok();
    if let Some(recipe) = text.and_then(|text| Recipe::read("mutant", &text, &[]).ok()) {
        Recipe::read("written", &recipe.to_toml(), &[]).expect("what was written is read");
        let _ = recipe.train.check();
    }
}

/// The `config.json` of a model whose weights fit another one.
pub fn config(bytes: &[u8]) {
    fs::write(model_file(CONFIG_FILE), bytes).expect("written");
    if let Ok(model) = checkpoint::load(&model_file(""), Device::Cpu, Verify::Digests) {
        model
            .visit("", &mut |_, param| param.value().map(drop))
            .expect("filled");
    }
}

/// A safetensors file, and the index of several: what is read can be written, and comes back the same.
pub fn safetensors(bytes: &[u8]) {
    let path = model_file("mutant.safetensors");
    fs::write(&path, bytes).expect("written");
    if let Ok(tensors) = read_tensors(&path, Device::Cpu, Verify::Nothing) {
        let named: Vec<_> = tensors.iter().collect();
        write_tensors(&path, &named).expect("written");
        let again = read_tensors(&path, Device::Cpu, Verify::Digests).expect("whole");
        assert_eq!(again.len(), tensors.len());
        for (name, tensor) in tensors {
            let same = tensor.as_bytes().ok() == again[&name].as_bytes().ok();
            assert!(same, "{name}");
        }
    }
    fs::write(model_file("sharded.safetensors.index.json"), bytes).expect("written");
    let sharded = model_file("sharded.safetensors");
    let _ = serpens::formats::safetensors::open_all(&sharded, Verify::Nothing);
}

/// A page of any texts and numbers.
pub fn report(bytes: &[u8]) {
    let texts: Vec<String> = bytes
        .split(|&byte| byte == b'\n')
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let text = |i: usize| texts[i % texts.len()].clone();
    let number = |bytes: &[u8; 8]| f64::from_le_bytes(*bytes);
    let numbers: Vec<f64> = bytes.as_chunks::<8>().0.iter().map(number).collect();
    let points = |shift: usize| {
        let pairs = numbers.iter().zip(numbers.iter().skip(shift));
        pairs.map(|(&x, &y)| (x, y)).collect()
    };
    let series = (0..3).map(|i| Series {
        name: text(i),
        points: points(i),
        intervals: points(i + 1),
    });
    let chart = LineChart {
        title: text(3),
        y_range: numbers.first().copied().zip(numbers.last().copied()),
        series: series.collect(),
        reference_lines: vec![(text(4), numbers.first().copied().unwrap_or(0.0))],
        ..LineChart::default()
    };
    let layer = LayerSelection {
        name: text(5),
        delta: numbers.iter().map(|&x| x as f32).collect(),
        channels: bytes.first().map_or(0, |&byte| usize::from(byte % 9)),
        retention: numbers.iter().map(|&x| 1.0 / x as f32).collect(),
    };
    let map = SelectionMap {
        title: text(6),
        tokens: texts.clone(),
        highlight: bytes.iter().map(|byte| byte % 2 == 1).collect(),
        layers: vec![layer.clone(), layer],
        ..SelectionMap::default()
    };
    let report = Report {
        title: text(7),
        figures: vec![chart],
        maps: vec![map.figure()],
        texts: vec![(text(8), text(9))],
        ..Report::default()
    };
    assert!(report.to_html().ends_with("</html>\n"), "a whole page");
}
