//! Made-up runs to draw: shaped like what a selective model does, without a model.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    ConfusionMatrix, Figure, LayerAttention, LayerMap, LayerSelection, LineChart, Report, Scale,
    Series, Sound, Spectrogram, Table, TokenMap, Waveform,
};

/// Two layers that read a sequence: the channels let `strength` of the tokens in, each to its own degree, and pass by
/// the rest. // strength: (length)
fn layer(name: &str, strength: &[f32], channels: usize, seed: u64) -> LayerMap {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut unit = || rng.random::<f32>();
    let (mut base, mut gain) = (Vec::new(), Vec::new());
    for _ in 0..channels {
        base.push((1e-3f32.ln() + unit() * (0.05f32 / 1e-3).ln()).exp());
        gain.push(if unit() < 0.6 {
            2.0 + 4.0 * unit()
        } else {
            0.6 * unit()
        });
    }
    let mut delta = Vec::new();
    for s in strength {
        for c in 0..channels {
            let noise = 0.25 * (unit() - 0.5);
            delta.push((base[c] * (gain[c] * s + noise).exp()).min(3.0));
        }
    }
    let mut retention = vec![0.0; delta.len()];
    let mut ahead = vec![0.0f32; channels];
    for t in (0..strength.len()).rev() {
        for c in 0..channels {
            retention[t * channels + c] = (-ahead[c]).exp();
            ahead[c] += delta[t * channels + c];
        }
    }
    LayerMap::Selection(LayerSelection {
        name: name.into(),
        delta,
        channels,
        retention,
    })
}

/// The steps of a layer that selects by them.
pub(crate) fn steps(layer: &mut LayerMap) -> &mut LayerSelection {
    match layer {
        LayerMap::Selection(layer) => layer,
        LayerMap::Attention(_) => panic!("it has no steps"),
    }
}

/// A layer of attention between the others of [`induction_heads`]: two heads, of which one looks at the token before,
/// the other at what follows an earlier one of the same kind, or at the first.
pub(crate) fn hybrid(length: usize) -> TokenMap {
    let mut map = induction_heads(length, 64);
    let mut layer = LayerAttention::new("Layer 2, attention".into(), 2, length);
    for query in 0..length {
        let same = |key: &usize| map.tokens[*key] == map.tokens[query];
        let found = (0..query).rev().find(same).map_or(0, |key| key + 1);
        for sharp in [query.saturating_sub(1), found] {
            let rest = 0.2 / (query + 1) as f32;
            let mut weights = vec![rest; query + 1];
            weights[sharp] += 0.8;
            layer.add(query, 0, &weights);
        }
    }
    map.layers.insert(1, LayerMap::Attention(layer));
    map
}

/// Induction heads over `length` tokens: the special token `#`, the token after it, and `#` again at the end.
pub(crate) fn induction_heads(length: usize, channels: usize) -> TokenMap {
    let letters: Vec<String> = "abcdefghijklmno".chars().map(String::from).collect();
    let at = length / 3;
    let mut tokens: Vec<String> = (0..length)
        .map(|t| letters[(t * t + 3 * t) % 15].clone())
        .collect();
    (tokens[at], tokens[length - 1]) = ("#".into(), "#".into());
    let marked = |t: usize| t == at || t == at + 1 || t + 1 == length;
    let strength = |first: f32, second: f32| -> Vec<f32> {
        let of = |t| {
            if t == at + 1 {
                second
            } else if marked(t) {
                first
            } else {
                0.0
            }
        };
        (0..length).map(of).collect()
    };
    TokenMap {
        title: format!("Induction heads, {length} tokens"),
        highlight: (0..length).map(marked).collect(),
        tokens,
        layers: vec![
            layer("Layer 1", &strength(0.9, 0.7), channels, 1),
            layer("Layer 2", &strength(0.35, 1.0), channels, 2),
        ],
        caption: "The special token # and the token after it open the gate: their Δ is up to a hundred times that of \
                  the others, and what they wrote outlasts the rest of the sequence in the channels that select."
            .into(),
    }
}

/// A prompt in words.
pub(crate) fn prompt() -> TokenMap {
    let tokens: Vec<String> = "The| snake| ate| the| key| to| the| library|.|\n|So| when| the| librarian| came| back| \
                               she| asked|,| \"|Where| is| the| <|key|>|?\"| And| the| snake|,| internationally| \
                               known|,| said| nothing"
        .split('|')
        .map(String::from)
        .collect();
    let heavy = [
        "snake",
        "ate",
        "key",
        "library",
        "librarian",
        "Where",
        "known",
        "nothing",
        "internationally",
    ];
    let weight = |token: &String| {
        if heavy.contains(&token.trim()) {
            0.85
        } else {
            0.15 + 0.05 * token.len() as f32
        }
    };
    let strength: Vec<f32> = tokens.iter().map(weight).collect();
    TokenMap {
        title: "A prompt".into(),
        layers: vec![
            layer("Layer 1", &strength, 768, 3),
            layer("Layer 12", &strength, 768, 4),
        ],
        tokens,
        caption: "Nouns are taken in, function words are passed by.".into(),
        ..TokenMap::default()
    }
}

fn loss(name: &str, steps: usize, every: usize, floor: f64, noise: f64, seed: u64) -> Series {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut point = |step: usize| {
        let s = step as f64;
        let mean = floor + 2.7 / (1.0 + (s / 2500.0).powf(1.6));
        (s, mean * (1.0 + noise * (rng.random::<f64>() - 0.5)))
    };
    Series {
        name: name.into(),
        points: (0..=steps).step_by(every).map(&mut point).collect(),
        ..Series::default()
    }
}

fn by_length(name: &str, accuracy: impl Fn(f64) -> f64) -> Series {
    Series {
        name: name.into(),
        points: (6..=16)
            .map(|e| 2f64.powi(e))
            .map(|l| (l, accuracy(l)))
            .collect(),
        ..Series::default()
    }
}

pub(crate) fn charts() -> Vec<LineChart> {
    let losses = LineChart {
        title: "Loss".into(),
        x_label: "step".into(),
        y_label: "cross entropy, nats".into(),
        y_scale: Scale::Log10,
        series: vec![
            loss("training", 20_000, 10, 0.004, 0.5, 7),
            loss("validation", 20_000, 1000, 0.005, 0.05, 8),
        ],
        reference_lines: vec![("uniform guess, ln 15".into(), 15f64.ln())],
        caption: "Every tenth step, and the held-out loss once in 1,000 steps.".into(),
        ..LineChart::default()
    };
    let lengths = LineChart {
        title: "Accuracy by length".into(),
        x_label: "length of the sequence, tokens".into(),
        y_label: "accuracy, %".into(),
        x_scale: Scale::Log2,
        y_range: Some((0.0, 1.0)),
        series: vec![
            by_length("S6, selective", |_| 1.0),
            by_length("S4D, time-invariant", |l| {
                if l <= 256.0 { 1.0 - l / 3000.0 } else { 0.067 }
            }),
        ],
        reference_lines: vec![("chance, 1/15".into(), 1.0 / 15.0)],
        caption: "Trained at length 256, tested up to 65,536.".into(),
        ..LineChart::default()
    };
    vec![losses, lengths]
}

/// Of `per_class` examples of each class most are answered rightly, some with the next class.
pub(crate) fn matrix(classes: usize, per_class: u64) -> ConfusionMatrix {
    let wrong = per_class / 5;
    let count = |row: usize, column: usize| match (column + classes - row) % classes {
        0 => per_class - wrong,
        1 => wrong,
        _ => 0,
    };
    let row = |row| (0..classes).map(|column| count(row, column)).collect();
    ConfusionMatrix {
        title: "Which digit was heard".into(),
        classes: (0..classes).map(|class| format!("digit {class}")).collect(),
        counts: (0..classes).map(row).collect(),
        caption: "Accuracy 80 %: a digit is taken for the next one.".into(),
    }
}

/// Half a second of a tone that fades.
pub(crate) fn sound() -> Sound {
    let sample = |i: i32| (i as f32 * 0.35).sin() * (-i as f32 / 2000.0).exp();
    let samples: Vec<f32> = (0..4000).map(sample).collect();
    let column = |time: i32| {
        let decibels = |bin: i32| -(bin - 14).abs() as f32 * 4.0 - time as f32;
        (0..129).map(decibels).collect()
    };
    let columns: Vec<Vec<f32>> = (0..50).map(column).collect();
    Sound {
        title: "A tone".into(),
        waveform: Waveform::new(&samples, 8000),
        spectrogram: Spectrogram::new(&columns, 8000, 80),
        caption: "It fades.".into(),
    }
}

fn table() -> Table {
    let strings = |cells: &[&str]| {
        cells
            .iter()
            .map(|cell| cell.to_string())
            .collect::<Vec<_>>()
    };
    Table {
        title: "Models".into(),
        header: strings(&[
            "model",
            "parameters",
            "accuracy at 256",
            "accuracy at 65,536",
            "time",
        ]),
        rows: vec![
            strings(&[
                "Mamba block, S6",
                "74,112",
                "100.0 %",
                "100.0 %",
                "12.4 min",
            ]),
            strings(&["Mamba block, S4D", "73,984", "91.5 %", "6.7 %", "9.8 min"]),
        ],
        caption: "Both were trained with the same data in the same order.".into(),
    }
}

/// A run with everything that a report can show.
pub(crate) fn report() -> Report {
    let others = [Figure::from(matrix(10, 50)), sound().into()];
    let figures = charts().into_iter().map(Figure::from).chain(others);
    Report {
        title: "Induction heads with a selective SSM".into(),
        summary: "The selective model solves the task at every length up to 65,536, 256 times the length it was trained \
                  at; the time-invariant one falls to chance beyond 256."
            .into(),
        date: "2025-06-01 14:03 UTC".into(),
        figures: figures.collect(),
        tables: vec![table()],
        maps: vec![induction_heads(64, 128).figure(), prompt().figure(), hybrid(40).figure()],
        texts: vec![("Sample".into(), "prompt  a b # c d e … #\nanswer  c   (p = 0.9998)\n<b>not bold</b>".into())],
        command: "serpens train --task induction-heads --layers 2 --width 64 --steps 20000 --seed 1".into(),
        machine: vec![
            ("Processor".into(), "2 cores, AVX-512".into()),
            ("Memory".into(), "16 GiB".into()),
            ("Version".into(), "serpens 0.1.0".into()),
        ],
        config_toml: "[model]\nlayers = 2\nd_model = 64\nd_state = 16\n\n[train]\nlearning_rate = 1e-3\n".into(),
    }
}
