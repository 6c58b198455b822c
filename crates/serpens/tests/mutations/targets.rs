//! What bytes of strangers reach, as functions of those bytes that must not panic. `main.rs` beside this runs them on
//! mutations, and so do the fuzzers in the repository's `fuzz/`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serpens::core::{Device, Tensor, files};
use serpens::data::Tokenizer;
use serpens::formats::safetensors::{read_tensors, write_tensors};
use serpens::formats::{Encoding, Planned, gguf, pytorch};
use serpens::nn::checkpoint::{self, CONFIG_FILE, Checkpoint, Options, Verify};
use serpens::nn::{MambaLmConfig, Module};
use serpens::recipe::Recipe;
use serpens_report::{
    LayerAttention, LayerMap, LayerSelection, LineChart, Report, Series, TokenMap,
};
use tempfile::TempDir;
use zip::write::{SimpleFileOptions, ZipWriter};

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

/// A safetensors file: what is read can be written, and comes back the same.
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
}

/// The index of weights in several safetensors files.
pub fn index(bytes: &[u8]) {
    fs::write(model_file("sharded.safetensors.index.json"), bytes).expect("written");
    let sharded = model_file("sharded.safetensors");
    let _ = serpens::formats::shards(&sharded);
}

/// A GGUF file: what is read can be written, and comes back the same.
pub fn gguf(bytes: &[u8]) {
    let path = model_file("mutant.gguf");
    fs::write(&path, bytes).expect("written");
    let model = Checkpoint::open(&path, &Options::default());
    let _ = model.and_then(|model| model.load(Device::Cpu));
    let Ok((metadata, file)) = gguf::open(&path) else {
        return;
    };
    let _ = Tokenizer::from_gguf(&metadata);
    let values: BTreeMap<&str, Tensor> = file
        .tensors()
        .filter_map(|(name, _)| Some((name, file.tensor(name, Device::Cpu).ok()?)))
        .collect();
    let planned = values.iter().map(|(name, value)| Planned {
        name: (*name).to_owned(),
        shape: value.shape(),
        encoding: Encoding::F32,
    });
    // The format has tensors of four axes at most.
    let planned: Vec<Planned> = planned.filter(|planned| planned.shape.len() <= 4).collect();
    let path = model_file("again.gguf");
    let value = |planned: &Planned| Ok(values[planned.name.as_str()].clone());
    gguf::write(&path, &metadata, &planned, value).expect("what is read is written");
    let (said, again) = gguf::open(&path).expect("whole");
    let second = model_file("second.gguf");
    gguf::write(&second, &said, &planned, value).expect("what is written is written again");
    assert!(fs::read(&path).expect("there") == fs::read(&second).expect("there"));
    for Planned { name, .. } in &planned {
        let read = again.tensor(name, Device::Cpu).expect("whole");
        assert_eq!(
            read.as_bytes().ok(),
            values[name.as_str()].as_bytes().ok(),
            "{name}"
        );
    }
}

/// A file of PyTorch's, and the pickle of one with some storages.
pub fn pickle(bytes: &[u8]) {
    let path = model_file("mutant.pt");
    fs::write(&path, bytes).expect("written");
    pytorch_tensors(&path);
    let mut zip = ZipWriter::new(fs::File::create(&path).expect("made"));
    let storages = (0..10).map(|key| (format!("x/data/{key}"), &[0x3f; 192][..]));
    for (name, bytes) in [("x/data.pkl".to_owned(), bytes)]
        .into_iter()
        .chain(storages)
    {
        zip.start_file(name, SimpleFileOptions::default())
            .expect("written");
        zip.write_all(bytes).expect("written");
    }
    zip.finish().expect("written");
    pytorch_tensors(&path);
}

/// Reads all of a file, if it can be read.
fn pytorch_tensors(path: &Path) {
    let Ok(file) = pytorch::open(path, "") else {
        return;
    };
    let size = fs::metadata(path).expect("there").len();
    for (name, shape) in file.tensors() {
        assert!(
            shape.count() as u64 <= size,
            "{name} has more values than the file has bytes"
        );
        let _ = file.tensor(name, Device::Cpu);
    }
}

/// The file of a tokenizer, or GPT-2's pair of them with a zero byte between: what is read encodes, decodes and is
/// saved.
pub fn tokenizer(bytes: &[u8]) {
    let mut files = bytes.splitn(2, |&byte| byte == 0);
    let (first, second) = (files.next().unwrap_or_default(), files.next());
    let first_path = model_file(second.map_or("tokenizer.json", |_| "vocab.json"));
    fs::write(&first_path, first).expect("written");
    if let Some(merges) = second {
        fs::write(model_file("merges.txt"), merges).expect("written");
    }
    let Ok(tokenizer) = Tokenizer::open(&first_path) else {
        return;
    };
    if let Ok(ids) = tokenizer.encode("Où <s> is\n  LAG 12?<|endoftext|>".as_bytes()) {
        tokenizer.decode(&ids);
        let tokens = tokenizer.vocab_size() as u32;
        assert!(ids.iter().all(|&id| id < tokens), "beyond the vocabulary");
    }
    let saved = model_file("saved");
    fs::create_dir_all(&saved).expect("made");
    tokenizer.save(&saved).expect("saved");
    fs::remove_dir_all(&saved).expect("removed");
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
    let attention = LayerAttention {
        groups: [1, 1],
        name: text(5),
        heads: numbers.len(),
        received: numbers.iter().map(|&x| x as f32).collect(),
        weights: (0..4)
            .map(|i| numbers.iter().skip(i).map(|&x| x as f32).collect())
            .collect(),
    };
    let map = TokenMap {
        title: text(6),
        tokens: texts.clone(),
        highlight: bytes.iter().map(|byte| byte % 2 == 1).collect(),
        layers: vec![LayerMap::Selection(layer), LayerMap::Attention(attention)],
        ..TokenMap::default()
    };
    let report = Report {
        title: text(7),
        figures: vec![chart.into()],
        maps: vec![map.figure()],
        texts: vec![(text(8), text(9))],
        ..Report::default()
    };
    assert!(report.to_html().ends_with("</html>\n"), "a whole page");
}
