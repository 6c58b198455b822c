//! From a model and a sequence to its token map.

use std::collections::BTreeMap;
use std::ops::Range;

use serpens_core::{Device, Tensor};
use serpens_data::{Numbers, Tokenizer};
use serpens_nn::layers::Trace;
use serpens_nn::mixers::AttentionTrace;
use serpens_nn::ssm::SelectionTrace;
use serpens_nn::{Module, Precision, Recompute};
use serpens_report::{LayerAttention, LayerMap, LayerSelection, TokenMap};

use super::READ_LENGTH;
use super::kind::{Kind, is_causal};
use crate::output::OutputMode;
use crate::progress::Meter;
use crate::{Result, machine};

/// exp of less is 0.
const NOTHING: f32 = -105.0;

/// Queries whose weights are computed together.
const QUERIES: usize = 64;

/// A sequence to look at.
pub(crate) struct Sample {
    /// Token ids, or values.
    pub(crate) inputs: Numbers,
    /// The names of positions.
    pub(crate) names: Vec<String>,
    /// Tokens that carry what the task asks for.
    pub(crate) highlight: Vec<bool>,
    /// What the sequence is.
    pub(crate) about: String,
}

impl Sample {
    /// Tokens of a text.
    pub(crate) fn text(tokenizer: &Tokenizer, ids: Vec<u32>) -> Self {
        let name = |&id: &u32| match char::from_u32(id) {
            _ if !tokenizer.is_bytes() => tokenizer.token_text(id),
            Some(byte @ (' '..='~' | '\n')) => byte.to_string(),
            _ => format!("{id:02x}"),
        };
        Self {
            names: ids.iter().map(name).collect(),
            ..Self::ids(ids)
        }
    }

    /// What was read of data.
    pub(crate) fn of(
        inputs: Numbers,
        tokenizer: &Tokenizer,
        channels: usize,
        about: String,
    ) -> Self {
        let sample = match inputs {
            Numbers::Ids(ids) => Self::text(tokenizer, ids),
            Numbers::Values(values) => Self {
                names: (0..values.len() / channels)
                    .map(|at| at.to_string())
                    .collect(),
                highlight: Vec::new(),
                inputs: Numbers::Values(values),
                about: String::new(),
            },
        };
        Self { about, ..sample }
    }

    /// Token ids by number.
    pub(crate) fn ids(ids: Vec<u32>) -> Self {
        Self {
            names: ids.iter().map(u32::to_string).collect(),
            highlight: Vec::new(),
            inputs: Numbers::Ids(ids),
            about: "the prompt".into(),
        }
    }
}

impl Sample {
    /// Some positions of it. // (1, length) or (1, length, channels)
    fn tensor(&self, positions: Range<usize>) -> serpens_core::Result<Tensor> {
        let (count, all) = (positions.len(), self.names.len());
        match &self.inputs {
            Numbers::Ids(ids) => Tensor::from_slice([1, count], &ids[positions], Device::Cpu),
            Numbers::Values(values) => {
                let channels = values.len() / all;
                let values = &values[positions.start * channels..positions.end * channels];
                Tensor::from_slice([1, count, channels], values, Device::Cpu)
            }
        }
    }
}

/// What the model's layers do with a sequence, those that select and those that attend; `None` where it has neither.
pub(crate) fn token_map<O: Kind>(
    model: &O::Model,
    sample: &Sample,
    title: String,
    mode: OutputMode,
) -> Result<Option<TokenMap>> {
    check_length::<O>(model, sample.names.len())?;
    // Traces are taken on the processor.
    let mut model = model.clone();
    model.to(Device::Cpu, Precision::F32)?;
    let layers = layers::<O>(&model, sample, mode)?;
    let selects = |layer: &LayerMap| matches!(layer, LayerMap::Selection(_));
    let about = &sample.about;
    let selection = format!(
        "For each token of {about}: the step size Δ of every channel (large: the token enters the state; small: it is passed by), \
         and how much of what entered is still there at the end, exp(A · the sum of all later Δ), averaged over the states."
    );
    let attention = format!(
        "In layers of attention each token of {about} (a row, later ones below) shares 1 among itself and those before it (columns), \
         averaged over the heads; the bars are what a token gets in all, from itself and later ones."
    );
    let stages = "What layers do inside stages of groups of tokens is not drawn.".to_owned();
    let captions = [
        Some(selection).filter(|_| layers.iter().any(selects)),
        Some(attention).filter(|_| !layers.iter().all(selects)),
        Some(stages).filter(|_| O::config(&model).multiple() > 1),
    ];
    let captions: Vec<String> = captions.into_iter().flatten().collect();
    Ok((!layers.is_empty()).then(|| TokenMap {
        title,
        tokens: sample.names.clone(),
        highlight: sample.highlight.clone(),
        layers,
        caption: captions.join(" "),
    }))
}

/// Refuses a sequence whose map would not fit the memory.
pub(crate) fn check_length<O: Kind>(model: &O::Model, tokens: usize) -> Result<()> {
    let values = O::backbone(model).kept_per_token(Recompute::None) + O::outputs(model) as f64;
    let each = 4.0 * values;
    machine::check_fits("the prompt", tokens as f64, each, Device::Cpu)
}

/// What the layers do with all tokens, in their order.
fn layers<O: Kind>(model: &O::Model, sample: &Sample, mode: OutputMode) -> Result<Vec<LayerMap>> {
    let mixers = O::config(model).layer_mixers()?;
    let kind = |layer: usize| mixers[layer % mixers.len()].kind();
    let alike = (0..mixers.len()).all(|layer| kind(layer) == kind(0));
    let name = |layer: usize| match alike {
        true => format!("layer {}", layer + 1),
        false => format!("layer {}, {}", layer + 1, kind(layer).1),
    };
    let (selections, attentions) = traced::<O>(model, sample, name, mode)?;
    let selection = |(layer, trace): (usize, SelectionTrace)| {
        let name = name(layer);
        let map = LayerSelection {
            retention: retention(&name, &trace, mode)?,
            name,
            delta: trace.delta,
            channels: trace.channels,
        };
        Ok((layer, LayerMap::Selection(map)))
    };
    let selections: Result<Vec<_>> = selections.into_iter().map(selection).collect();
    let attentions = attentions.into_iter();
    let attentions = attentions.map(|(layer, map)| (layer, LayerMap::Attention(map)));
    let layers: BTreeMap<usize, LayerMap> = attentions.chain(selections?).collect();
    Ok(layers.into_values().collect())
}

/// What is known of layers once all tokens are read, by their numbers.
type Traced = (
    BTreeMap<usize, SelectionTrace>,
    BTreeMap<usize, LayerAttention>,
);

/// Has the model read all tokens. The weights of attention are summed up on the way, as all of them may fit no memory.
fn traced<O: Kind>(
    model: &O::Model,
    sample: &Sample,
    name: impl Fn(usize) -> String,
    mode: OutputMode,
) -> Result<Traced> {
    let length = sample.names.len();
    let mut meter = Meter::new(mode, "reading".into(), length);
    let causal = is_causal(O::config(model))?;
    let mut state = causal
        .then(|| O::backbone(model).initial_state(1))
        .transpose()?;
    let chunk = if causal { READ_LENGTH } else { length };
    let (mut selections, mut attentions) = Traced::default();
    for from in (0..length).step_by(chunk.max(1)) {
        meter.at(from)?;
        let inputs = sample.tensor(from..length.min(from + chunk))?;
        for (layer, trace) in O::trace(model, &inputs, state.as_mut())? {
            match (trace, selections.get_mut(&layer)) {
                (Trace::Selection(next), Some(whole)) => whole.delta.extend(next.delta),
                (Trace::Selection(first), None) => {
                    selections.insert(layer, first);
                }
                (Trace::Attention(next), _) => {
                    let whole = attentions
                        .entry(layer)
                        .or_insert_with(|| LayerAttention::new(name(layer), next.heads(), length));
                    attend(whole, &next)?;
                }
            }
        }
    }
    Ok((selections, attentions))
}

/// Adds what the tokens of a chunk look at.
fn attend(whole: &mut LayerAttention, trace: &AttentionTrace) -> Result<()> {
    let starts = (0..trace.queries()).step_by(QUERIES);
    for (from, head) in starts.flat_map(|from| (0..trace.heads()).map(move |head| (from, head))) {
        let rows = from..trace.queries().min(from + QUERIES);
        let weights = trace.weights(head, rows.clone())?;
        let each = weights.as_slice::<f32>()?.chunks(weights.shape().cols());
        for (row, weights) in rows.zip(each) {
            whole.add(trace.first + row, trace.first_key(), weights);
        }
    }
    Ok(())
}

/// exp(A Σ_(s > t) Δ_s) averaged over the states: (length, channels).
fn retention(layer: &str, trace: &SelectionTrace, mode: OutputMode) -> Result<Vec<f32>> {
    let (channels, n) = (trace.channels, trace.d_state);
    let length = trace.delta.len() / channels;
    let name = format!("{layer}, what is kept");
    let mut meter = Meter::new(mode, name, length);
    let mut retention = vec![0.0; trace.delta.len()];
    let mut later = vec![0.0_f32; channels];
    let slowest = |a: &[f32]| a.iter().copied().fold(f32::MIN, f32::max);
    let slowest: Vec<f32> = trace.a.chunks(n).map(slowest).collect();
    let deltas = trace.delta.chunks(channels);
    let rows = retention.chunks_mut(channels).zip(deltas);
    for (done, (row, delta)) in rows.rev().enumerate() {
        meter.at(done)?;
        for (e, value) in row.iter_mut().enumerate() {
            let a = &trace.a[e * n..(e + 1) * n];
            if slowest[e] * later[e] < NOTHING {
                continue;
            }
            *value = a.iter().map(|a| (a * later[e]).exp()).sum::<f32>() / n as f32;
            later[e] += delta[e];
        }
    }
    Ok(retention)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::refusal::Refusal;
    use serpens_nn::MambaLmConfig;
    use serpens_train::NextToken;

    #[test]
    fn what_is_kept_is_as_defined_also_where_nothing_is() {
        let (delta, a) = (vec![0.5, 40.0, 0.25, f32::NAN, 2.0, 0.1], vec![-1.0, -2.0]);
        let (channels, d_state) = (2, 1);
        let trace = SelectionTrace {
            delta,
            a,
            channels,
            d_state,
        };
        let kept = retention("layer 1", &trace, OutputMode::Quiet).unwrap();
        let expected = [
            (-2.25_f32).exp(),
            f32::NAN,
            (-2.0_f32).exp(),
            (-0.2_f32).exp(),
            1.0,
            1.0,
        ];
        assert_eq!(format!("{kept:?}"), format!("{expected:?}"));
        let far = SelectionTrace {
            delta: vec![1.0, 104.9],
            a: vec![-1.0, -1.001],
            channels: 1,
            d_state: 2,
        };
        assert_eq!(
            retention("layer 1", &far, OutputMode::Quiet).unwrap(),
            [0.0, 1.0]
        );
    }

    #[test]
    fn layers_are_named_by_their_place_in_the_model_and_by_their_kind_where_these_differ() {
        for (pattern, names) in [
            ("FGMF", &["layer 2, min-gru", "layer 3, mamba"][..]),
            ("M", &["layer 1", "layer 2", "layer 3", "layer 4"]),
        ] {
            let model = MambaLmConfig::new(16, 4, 256).with_layers(pattern);
            let model = model.init(Device::Cpu, 0).unwrap();
            let (sample, title) = (Sample::ids(vec![1, 2, 3]), "a title".to_owned());
            let map = token_map::<NextToken>(&model, &sample, title, OutputMode::Quiet).unwrap();
            let layers = map.unwrap().layers;
            let found: Vec<&str> = layers.iter().map(LayerMap::name).collect();
            assert_eq!(found, names);
            for layer in &layers {
                let LayerMap::Selection(layer) = layer else {
                    panic!("{} attends", names[0]);
                };
                assert_eq!((layer.channels, layer.delta.len()), (32, 3 * 32));
                assert!(
                    layer
                        .delta
                        .iter()
                        .all(|delta| *delta > 0.0 && *delta < 10.0)
                );
            }
        }
    }

    #[test]
    fn a_prompt_beyond_the_memory_is_refused_with_one_that_fits() {
        let model = MambaLmConfig::new(16, 1, 256).init(Device::Cpu, 0).unwrap();
        let Err(Error::Refused { source, .. }) = check_length::<NextToken>(&model, usize::MAX)
        else {
            panic!("no memory holds so many");
        };
        let told = source.to_string();
        let Refusal::TooManyTokens { memory, most, .. } = source else {
            panic!("{told}");
        };
        assert!(
            told.contains(&format!("is {:.1}", memory as f64 / 1e9)),
            "{told}"
        );
        assert!(most > 0 && check_length::<NextToken>(&model, most as usize).is_ok());
        assert!(check_length::<NextToken>(&model, most as usize + 2).is_err());
    }
}
