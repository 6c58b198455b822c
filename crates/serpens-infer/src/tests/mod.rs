mod batches;
mod decoders;
mod sampling;
mod scores;
mod states;
mod texts;

use std::ops::ControlFlow;

use serpens_core::{DType, Device, Tensor};
use serpens_nn::layers::Sequence;
use serpens_nn::{MambaLm, MambaLmConfig, Module};

use crate::{Batching, Drawn, End, Error, Request, Result, SequenceState, Told, generate};

pub(crate) const TOKENS: usize = 50;

/// A model whose distributions are far from even.
pub(crate) fn model(seed: u64) -> MambaLm {
    let config = MambaLmConfig {
        embedding_std: 1.0,
        tie_embeddings: false,
        ..MambaLmConfig::new(24, 2, TOKENS)
    };
    config.init(Device::cpu(), seed).unwrap()
}

pub(crate) fn ids(seed: usize, length: usize) -> Vec<u32> {
    let id = |i| (((seed + 1) * 7919 + i * i * 31 + i * 17) % TOKENS) as u32;
    (0..length).map(id).collect()
}

/// The logits at every position, in one forward pass.
pub(crate) fn forward(model: &MambaLm, ids: &[u32]) -> Vec<Vec<f32>> {
    let ids = Tensor::from_slice([1, ids.len()], ids, Device::cpu()).unwrap();
    let logits = model.forward(&ids.into(), &Sequence::default(), None);
    let logits = logits
        .unwrap()
        .into_tensor()
        .unwrap()
        .to_vec::<f32>()
        .unwrap();
    logits.chunks(TOKENS).map(<[f32]>::to_vec).collect()
}

/// Log-probabilities by their definition, in f64.
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - sum.ln()).collect()
}

/// A sample and its end.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) drawn: Vec<Drawn>,
    pub(crate) end: Option<(End, SequenceState)>,
}

impl Sample {
    pub(crate) fn tokens(&self) -> Vec<u32> {
        self.drawn.iter().map(|drawn| drawn.token).collect()
    }
}

/// All samples, by request and sample; `most` tokens of each are listened to.
pub(crate) fn run(
    model: &MambaLm,
    requests: Vec<Request>,
    batching: Batching<'_>,
    most: usize,
) -> Result<Vec<Vec<Sample>>> {
    let empty = |request: &Request| {
        let empty = || Sample {
            drawn: Vec::new(),
            end: None,
        };
        (0..request.samples).map(|_| empty()).collect()
    };
    let mut samples: Vec<Vec<Sample>> = requests.iter().map(empty).collect();
    generate(model, requests, batching, |of, told| {
        let sample = &mut samples[of.request][of.sample];
        assert!(sample.end.is_none(), "told after its end");
        match told {
            Told::Token(drawn) => sample.drawn.push(drawn.clone()),
            Told::End(end, state) => sample.end = Some((end, state)),
        }
        Ok::<_, Error>(match sample.drawn.len() == most {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    })?;
    Ok(samples)
}

/// The only sample of a request.
pub(crate) fn run_one(model: &MambaLm, request: Request) -> Sample {
    run_one_in(model, request, DType::F32)
}

/// The same with states of this type.
pub(crate) fn run_one_in(model: &MambaLm, request: Request, states: DType) -> Sample {
    let batching = Batching {
        states,
        ..Batching::default()
    };
    let mut samples = run(model, vec![request], batching, usize::MAX).unwrap();
    samples.remove(0).remove(0)
}
