//! From a model and a sequence to its selection map.

use serpens_core::Device;
use serpens_nn::ssm::SelectionTrace;
use serpens_nn::{MambaLm, Module, Precision, Recompute};
use serpens_report::{LayerSelection, SelectionMap};

use crate::{Result, machine};

/// A sequence to look at.
pub(crate) struct Sample {
    /// Token ids.
    pub(crate) ids: Vec<u32>,
    /// Their names.
    pub(crate) names: Vec<String>,
    /// Tokens that carry what the task asks for.
    pub(crate) highlight: Vec<bool>,
    /// What the sequence is.
    pub(crate) about: String,
}

impl Sample {
    /// Bytes of a text.
    pub(crate) fn text(text: &[u8]) -> Self {
        let name = |byte| match byte {
            b' '..=b'~' | b'\n' => char::from(byte).to_string(),
            other => format!("{other:02x}"),
        };
        Self {
            names: text.iter().copied().map(name).collect(),
            ..Self::ids(text.iter().copied().map(u32::from).collect())
        }
    }

    /// Token ids by number.
    pub(crate) fn ids(ids: Vec<u32>) -> Self {
        Self {
            names: ids.iter().map(u32::to_string).collect(),
            highlight: Vec::new(),
            ids,
            about: "the prompt".into(),
        }
    }
}

/// What the model's selective layers do with a sequence; `None` where it has none.
pub(crate) fn selection_map(
    model: &MambaLm,
    sample: &Sample,
    title: String,
) -> Result<Option<SelectionMap>> {
    let kept = model.kept_per_token(Recompute::None) * sample.ids.len() as f64;
    machine::check_fits("the prompt", 4.0 * kept, Device::Cpu)?;
    // Traces are taken on the processor.
    let mut model = model.clone();
    model.to(Device::Cpu, Precision::F32)?;
    let traces = model.trace(&sample.ids)?;
    if traces.is_empty() {
        return Ok(None);
    }
    let layers = traces.iter().enumerate().map(|(i, trace)| LayerSelection {
        name: format!("layer {}", i + 1),
        delta: trace.delta.clone(),
        channels: trace.channels,
        retention: retention(trace),
    });
    Ok(Some(SelectionMap {
        title,
        tokens: sample.names.clone(),
        highlight: sample.highlight.clone(),
        layers: layers.collect(),
        caption: format!(
            "For each token of {}: the step size Δ of every channel (large: the token enters the state; small: it is passed by), \
             and how much of what entered is still there at the end, exp(A · the sum of all later Δ), averaged over the states.",
            sample.about
        ),
    }))
}

/// exp(A Σ_(s > t) Δ_s) averaged over the states: (length, channels).
fn retention(trace: &SelectionTrace) -> Vec<f32> {
    let (channels, n) = (trace.channels, trace.d_state);
    let mut retention = vec![0.0; trace.delta.len()];
    let mut later = vec![0.0_f32; channels];
    let rows = retention
        .chunks_mut(channels)
        .zip(trace.delta.chunks(channels));
    for (row, delta) in rows.rev() {
        for (e, value) in row.iter_mut().enumerate() {
            let a = &trace.a[e * n..(e + 1) * n];
            *value = a.iter().map(|a| (a * later[e]).exp()).sum::<f32>() / n as f32;
            later[e] += delta[e];
        }
    }
    retention
}
