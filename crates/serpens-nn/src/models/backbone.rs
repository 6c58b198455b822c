//! What stands between an embedding and a head: layers of a normalisation and a mixer, and a last normalisation.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use serpens_core::{DType, Device, Tensor, Var};

use crate::layers::{Positions, RmsNorm, Sequence, Trace};
use crate::mixers::{Mixer, MixerConfig, MixerSettings, MixerState};
use crate::setting::{SIZE, check};
use crate::{Error, Module, Precision, Recompute, Result, module};

#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) norm: RmsNorm,
    pub(super) mixer: Box<dyn Mixer>,
}

module!(Layer { norm => "norm", mixer => "mixer" });

impl Layer {
    /// x and the residual before it (absent in the first layer) to the mixer's output and the new residual.
    fn forward(
        &self,
        x: &Var,
        residual: Option<&Var>,
        activations: DType,
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<[Var; 2]> {
        if sequence.recompute == Recompute::Layer && state.is_none() && sequence.trace.is_none() {
            let layer = self.handle()?;
            let inputs: Vec<&Var> = [Some(x), residual].into_iter().flatten().collect();
            return sequence.read_twice("layer", &inputs, move |inputs, sequence| {
                layer.forward(&inputs[0], inputs.get(1), activations, sequence, None)
            });
        }
        let sum = self.norm.forward(x, residual, activations)?;
        let y = self.mixer.forward(&sum.y, sequence, state)?;
        Ok([y, sum.h])
    }
}

/// What a model remembers of the tokens it has read; its size does not depend on how many they were.
#[derive(Clone)]
pub struct LmState {
    /// Of each layer, and behind them how many tokens were read, where positions are learnt.
    pub(crate) layers: Vec<MixerState>,
}

impl LmState {
    /// The same state without the record of how it came about: gradients stop here.
    pub fn detach(&self) -> LmState {
        let detach = |state: &MixerState| state.iter().map(Var::detach).collect();
        let layers = self.layers.iter().map(detach).collect();
        LmState { layers }
    }

    /// The state of each sequence of the batch by itself.
    ///
    /// # Errors
    /// Memory.
    pub fn scatter(&self) -> Result<Vec<StateRow>> {
        let first = self.layers.iter().flatten().next();
        let batch = first.map_or(0, |var| var.shape()[0]);
        let row = |i: usize| {
            let layer = |layer: &MixerState| {
                let tensors = layer.iter().map(|var| Ok(var.tensor()?.narrow(i..i + 1)?));
                tensors.collect::<Result<_>>()
            };
            let layers = self.layers.iter().map(layer).collect::<Result<_>>()?;
            Ok(StateRow { layers })
        };
        (0..batch).map(row).collect()
    }

    /// The state of a batch of these sequences.
    ///
    /// # Errors
    /// [`Error::State`] for those of different models; no sequences; memory.
    pub fn gather(sequences: &[&StateRow]) -> Result<Self> {
        let [first, others @ ..] = sequences else {
            return Err(Error::Unsupported("a batch has one sequence at least"));
        };
        let tensors = |state: &StateRow| state.layers.iter().map(Vec::len).sum();
        if let Some(other) = others.iter().find(|other| tensors(other) != tensors(first)) {
            return Err(Error::state("tensors", tensors(first), tensors(other)));
        }
        let layer = |(layer, of_first): (usize, &Vec<Tensor>)| {
            let joined = (0..of_first.len()).map(|i| {
                let tensors = sequences.iter().map(|state| &state.layers[layer][i]);
                Ok(Tensor::concat(&tensors.collect::<Vec<_>>())?.into())
            });
            joined.collect()
        };
        let layers = first.layers.iter().enumerate().map(layer);
        let layers = layers.collect::<Result<_>>()?;
        Ok(LmState { layers })
    }
}

/// What a model remembers of one sequence: a value that other threads may take, to be kept, cloned (which copies
/// nothing) and read on in a batch of others.
#[derive(Clone, Debug)]
pub struct StateRow {
    /// Each of a batch of one.
    pub(super) layers: Vec<Vec<Tensor>>,
}

impl StateRow {
    /// The same with what `f` makes of each tensor, given its name, such as `layers.0.1`.
    pub fn try_map<E>(
        &self,
        mut f: impl FnMut(String, &Tensor) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        let layers = self.layers.iter().enumerate().map(|(layer, tensors)| {
            let tensors = tensors.iter().enumerate();
            let mapped = tensors.map(|(i, tensor)| f(format!("layers.{layer}.{i}"), tensor));
            mapped.collect()
        });
        let layers = layers.collect::<Result<_, E>>()?;
        Ok(Self { layers })
    }
}

/// Numbers of layers that models have: the plan of more would alone take memory.
pub(super) const LAYERS: RangeInclusive<f64> = 1.0..=16_384.0;

/// Where the settings of one of these mixers stand in a recipe.
pub(super) fn place(mixers: &[MixerConfig], i: usize) -> String {
    match mixers.len() {
        1 => "block".to_owned(),
        _ => format!("block[{i}]"),
    }
}

/// As many layers of these mixers, one after another and again from the first, with all that are inside them.
pub(crate) fn layers_of<'a>(
    mixers: impl ExactSizeIterator<Item = &'a MixerConfig>,
    n_layer: usize,
) -> f64 {
    let count = mixers.len().max(1);
    let times = |i: usize| n_layer / count + usize::from(i < n_layer % count);
    let mixers = mixers.enumerate();
    mixers.map(|(i, one)| times(i) as f64 * one.layers()).sum()
}

/// (RMSNorm → mixer, added to the residual stream) × n_layer → RMSNorm, over vectors from wherever they come: a table
/// of tokens, a projection of measurements, patches of an image. Whoever has a head of their own puts it on what
/// [`Backbone::forward`] gives.
#[derive(Clone, Debug)]
pub struct Backbone {
    pub(super) positions: Option<Positions>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm_f: RmsNorm,
}

module!(Backbone { positions => "positions", layers => "layers", norm_f => "norm_f" });

impl Backbone {
    /// `n_layer` layers of width `d_model` without values, with these mixers one after another and again from the
    /// first; every mixer's projection out starts divided by √n_layer. `norm_eps` is that of the normalisations.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that no model can have.
    pub fn plan(
        d_model: usize,
        n_layer: usize,
        norm_eps: f32,
        mixers: &[MixerConfig],
    ) -> Result<Self> {
        let placed = mixers.iter().enumerate();
        let placed: Vec<_> = placed
            .map(|(i, one)| (place(mixers, i), one.clone()))
            .collect();
        Self::plan_placed(d_model, n_layer, norm_eps, &placed)
    }

    /// The same of mixers with their places in a recipe.
    pub(super) fn plan_placed(
        d_model: usize,
        n_layer: usize,
        norm_eps: f32,
        mixers: &[(String, MixerConfig)],
    ) -> Result<Self> {
        check("d_model", d_model as f64, SIZE)?;
        check("n_layer", n_layer as f64, LAYERS)?;
        check("norm_eps", norm_eps.into(), 0.0..=1.0)?;
        // A mixer beyond the last layer would be none, unsaid.
        let count = mixers.len();
        check(
            "block (number of mixers)",
            count as f64,
            1.0..=n_layer as f64,
        )?;
        let all = layers_of(mixers.iter().map(|(_, one)| one), n_layer);
        check("n_layer (with those inside)", all, LAYERS)?;
        let divisor = (n_layer as f32).sqrt();
        let layer = |i: usize| {
            let (place, mixer) = &mixers[i % count];
            let mixer = mixer.plan(d_model, divisor);
            Ok(Layer {
                norm: RmsNorm::plan(d_model, norm_eps),
                mixer: mixer.map_err(|error| error.within(place))?,
            })
        };
        Ok(Self {
            positions: None,
            layers: (0..n_layer).map(layer).collect::<Result<_>>()?,
            norm_f: RmsNorm::plan(d_model, norm_eps),
        })
    }

    /// The same with a vector for each position, which is added to what comes there: sequences then have at most so many.
    /// They start normal with this standard deviation.
    pub fn with_positions(mut self, count: usize, std: f32) -> Self {
        let width = self.norm_f.weight.count();
        self.positions = Some(Positions::plan(count, width, std));
        self
    }

    /// The mixers of its layers.
    pub(crate) fn mixers(&self) -> impl Iterator<Item = &Box<dyn Mixer>> {
        self.layers.iter().map(|layer| &layer.mixer)
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.norm_f.weight.device()
    }

    /// In which types it computes.
    pub fn precision(&self) -> Precision {
        self.norm_f.weight.precision()
    }

    /// The state before the first vector of each of `batch` sequences.
    pub fn initial_state(&self, batch: usize) -> Result<LmState> {
        let state = |layer: &Layer| layer.mixer.initial_state(batch, self.device());
        let layers = self.layers.iter().map(state);
        let read = self.positions.as_ref();
        let read = read.map(|it| Ok(vec![it.initial_state(batch, self.device())?]));
        let layers = layers.chain(read).collect::<Result<_>>()?;
        Ok(LmState { layers })
    }

    /// The normalised output of the last layer. With `state`, the sequence continues the one that left it, and it is
    /// replaced. `x` is given up, so that its memory serves again once the first layer has read it.
    ///
    /// # Shapes
    /// x (batch, length, d_model) of f32 → the same, in the type of the activations
    ///
    /// # Errors
    /// Vectors of another width; [`Error::State`] for a state of another model; memory.
    pub fn forward(
        &self,
        mut x: Var,
        sequence: &Sequence<'_>,
        state: Option<&mut LmState>,
    ) -> Result<Var> {
        let mut states = state.map(|state| &mut state.layers[..]);
        let expected = self.layers.len() + usize::from(self.positions.is_some());
        if let Some(states) = &states
            && states.len() != expected
        {
            return Err(Error::state("layers", expected, states.len()));
        }
        if let Some(positions) = &self.positions {
            let read = states
                .as_mut()
                .and_then(|states| states.last_mut()?.first_mut());
            x = positions.forward(&x, sequence, read)?;
        }
        let mut residual: Option<Var> = None;
        let activations = self.precision().activations();
        for (i, layer) in self.layers.iter().enumerate() {
            let state = states.as_mut().map(|states| &mut states[i]);
            let traced = sequence.trace.map_or(0, |traces| traces.borrow().len());
            let [y, h] = layer.forward(&x, residual.as_ref(), activations, sequence, state)?;
            if let Some(traces) = sequence.trace {
                let mut traces = traces.borrow_mut();
                traces[traced..].iter_mut().for_each(|trace| trace.0 = i);
            }
            (x, residual) = (y, Some(h));
        }
        let last = self.norm_f.forward(&x, residual.as_ref(), activations)?;
        Ok(last.y)
    }

    /// Of all its layers; see [`Mixer::attention_flops`].
    pub fn attention_flops(&self, length: usize) -> f64 {
        let layers = self.layers.iter();
        layers
            .map(|layer| layer.mixer.attention_flops(length))
            .sum()
    }

    /// Bytes of the state of a sequence.
    ///
    /// # Errors
    /// None of a plan.
    pub fn state_bytes(&self) -> Result<f64> {
        let none = self.initial_state(0)?; // of no sequence, in their shapes
        let bytes = |var: &Var| {
            let shape = var.shape();
            let values = shape.iter().skip(1).map(|&n| n as f64);
            values.product::<f64>() * var.dtype().size() as f64
        };
        Ok(none.layers.iter().flatten().map(bytes).sum())
    }

    /// What layers do with the tokens of one sequence, or of a chunk of one that goes on from `state`, with their
    /// numbers from 0.
    ///
    /// # Shapes
    /// x (1, length, d_model)
    ///
    /// # Errors
    /// [`Error::Unsupported`] elsewhere than on the processor, where traces are taken, and of attention without a state;
    /// [`Error::State`], memory.
    pub fn trace(&self, x: Var, state: Option<&mut LmState>) -> Result<Vec<(usize, Trace)>> {
        if self.device() != Device::Cpu {
            return Err(Error::Unsupported("traces are taken on the processor"));
        }
        let traces = RefCell::default();
        let sequence = Sequence {
            trace: Some(&traces),
            ..Sequence::default()
        };
        self.forward(x, &sequence, state)?;
        Ok(traces.into_inner())
    }

    /// Values that a training step keeps of each token for the gradients, or fewer.
    pub fn kept_per_token(&self, recompute: Recompute) -> f64 {
        let inputs = self.norm_f.weight.count() as f64;
        let kept = |layer: &Layer| inputs + layer.mixer.kept_per_token(recompute) as f64;
        self.layers.iter().map(kept).sum()
    }
}
