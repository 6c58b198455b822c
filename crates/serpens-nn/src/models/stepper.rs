//! A model that reads one token of many sequences after another, without a tape and in place.

use serpens_core::{DType, Tensor, expect_range};
use serpens_ops::elementwise::cast;
use serpens_ops::mamba_layers::{self, Exchange, MambaLayer};

use super::{MambaLm, StateRow};
use crate::layers::{Embedding, Linear, Positions, RmsNorm};
use crate::mixers::Stepper;
use crate::{Error, Result};

/// A language model with its values of now, lowered for steps.
pub struct LmStepper {
    embeddings: Embedding,
    positions: Option<Positions>,
    layers: Vec<(RmsNorm, Box<dyn Stepper>)>,
    norm_f: RmsNorm,
    /// The table itself where it serves as head.
    head: Linear,
}

/// S places for sequences that are read together: what a model remembers of each, and room for its steps, taken once.
pub struct LmSlots {
    /// Of each layer, and behind them of learnt positions, (S, …) as its mixer has them; those of selective scans may be
    /// bf16.
    states: Vec<Vec<Tensor>>,
    /// Whether states were asked for in bf16.
    narrow: bool,
    /// The residual stream: (S, d_model) of f32.
    h: Tensor,
    /// What a layer computes on the way: (S, columns) in the type of the activations.
    room: Tensor,
    /// (S, vocab_size) of f32.
    logits: Tensor,
    /// For all layers by one kernel, where there is one for them.
    exchange: Option<Exchange>,
}

impl MambaLm {
    /// The model lowered for steps.
    ///
    /// # Errors
    /// [`Error::NoValue`]; memory.
    pub fn stepper(&self) -> Result<LmStepper> {
        let layers = self.backbone.layers.iter();
        let layers = layers.map(|layer| Ok((layer.norm.clone(), layer.mixer.stepper()?)));
        let tied = || Linear {
            weight: self.embeddings.weight.clone(),
            bias: None,
        };
        Ok(LmStepper {
            embeddings: self.embeddings.clone(),
            positions: self.backbone.positions.clone(),
            layers: layers.collect::<Result<_>>()?,
            norm_f: self.backbone.norm_f.clone(),
            head: self.lm_head.clone().unwrap_or_else(tied),
        })
    }
}

impl LmStepper {
    /// Places for this many sequences, each at its beginning. The states of selective scans are of the type `states`,
    /// f32 or bf16: a step computes in f32 and rounds to nearest behind it.
    ///
    /// # Errors
    /// [`Error::States`] where a layer has none that may be so; memory.
    pub fn slots(&self, model: &MambaLm, slots: usize, states: DType) -> Result<LmSlots> {
        let (device, config) = (model.device(), model.config());
        let narrow = states == DType::BF16;
        let layers = self.layers.iter().zip(&model.backbone.layers).enumerate();
        let states = layers.map(|(layer, ((_, mixer), planned))| {
            let of_scan = mixer.narrow_state();
            let tensors = planned.mixer.initial_state(slots, device)?;
            let may_be = states == DType::BF16 && (of_scan.is_some() || tensors.is_empty());
            if states != DType::F32 && !may_be {
                return Err(Error::States { states, layer });
            }
            let tensors =
                tensors
                    .into_iter()
                    .enumerate()
                    .map(|(i, state)| match of_scan == Some(i) {
                        true => Ok(cast(&state, states)?.into_tensor()?),
                        false => Ok(state.into_tensor()?),
                    });
            tensors.collect::<Result<Vec<_>>>()
        });
        let columns = self.columns();
        let activations = model.precision().activations();
        let mut states: Vec<Vec<Tensor>> = states.collect::<Result<_>>()?;
        if let Some(positions) = &self.positions {
            states.push(vec![positions.initial_state(slots, device)?.into_tensor()?]);
        }
        let layers = self.mamba_layers(&mut states)?;
        let exchange = layers.map_or(Ok(None), |layers| Exchange::new(&layers))?;
        Ok(LmSlots {
            states,
            narrow,
            exchange,
            h: Tensor::zeros([slots, config.d_model], DType::F32, device)?,
            room: Tensor::zeros([slots, columns], activations, device)?,
            logits: Tensor::zeros([slots, config.vocab_size], DType::F32, device)?,
        })
    }

    /// Whether a step can be a part of a graph.
    pub fn is_recordable(&self) -> bool {
        self.layers.iter().all(|(_, mixer)| mixer.is_recordable())
    }

    /// How many more tokens the sequence of this state can read: what the layers with caches have room for, if there
    /// are such. Steps do not ask: beyond it they forget.
    ///
    /// # Errors
    /// The state of another model.
    pub fn left(&self, row: &StateRow) -> Result<Option<usize>> {
        let layers = self.layers.iter().zip(&row.layers);
        let left = layers.map(|((_, mixer), state)| mixer.left(state));
        let mut left: Vec<_> = left.collect::<Result<_>>()?;
        if let (Some(positions), Some([read])) =
            (&self.positions, row.layers.last().map(|it| &it[..]))
        {
            left.push(Some(positions.left(read)?));
        }
        Ok(left.into_iter().flatten().min())
    }

    /// Columns of room that its widest layer takes.
    fn columns(&self) -> usize {
        let columns = self.layers.iter().map(|(_, mixer)| mixer.room()).max();
        columns.unwrap_or(0).max(1)
    }

    /// Reads a token of each of the first `slots` sequences; then [`LmSlots::logits`] has those of the next ones. On
    /// the processor it allocates nothing where every mixer has a fused step but those of gated attention units and of
    /// pooled layers, and a slot has the same bits among any others.
    ///
    /// # Shapes
    /// tokens (S) of u32, each below vocab_size
    ///
    /// # On a GPU
    /// The model's values may be read before what was queued earlier has ended, as
    /// [`linear::step`](serpens_ops::linear::step) says: after a change of them the device is synchronised first.
    ///
    /// # Errors
    /// [`Error::State`] for slots of another model; more slots than there are; memory.
    pub fn step(&self, tokens: &Tensor, slots: usize, at: &mut LmSlots) -> Result<()> {
        let fits = |what, expected, found| match expected == found {
            true => Ok(()),
            false => Err(Error::state(what, expected, found)),
        };
        let layers = self.layers.len() + usize::from(self.positions.is_some());
        fits("layers", layers, at.states.len())?;
        fits("columns of room", self.columns(), at.room.shape().cols())?;
        expect_range("LmStepper", "the slots", 0..at.count() + 1, slots)?;
        self.embeddings.step(tokens, slots, &mut at.h)?;
        if let (Some(positions), Some([read])) =
            (&self.positions, at.states.last_mut().map(|it| &mut it[..]))
        {
            positions.step(&mut at.h, read, slots)?;
        }
        if let Some(exchange) = at.exchange.as_mut().filter(|_| slots == 1)
            && let Some(layers) = self.mamba_layers(&mut at.states)?
        {
            mamba_layers::step(&layers, at.h.view_mut()?.first_rows(1), exchange)?;
        } else {
            for ((norm, mixer), state) in self.layers.iter().zip(&mut at.states) {
                mixer.step(norm, slots, &mut at.h, state, &mut at.room)?;
            }
        }
        if self.head.weight.lora.is_none() {
            let h = at.h.view().first_rows(slots);
            let logits = at.logits.view_mut()?.first_rows(slots);
            return self
                .head
                .step(h, Some(self.norm_f.lowered()?), logits, false);
        }
        let activations = self.norm_f.weight.precision().activations();
        let h = at.h.narrow(0..slots)?.into();
        let logits = self
            .head
            .forward(&self.norm_f.forward(&h, None, activations)?.y)?;
        Ok(at.logits.put(0, cast(&logits, DType::F32)?.tensor()?)?)
    }

    /// The layers for the first slot, where each is one of those that a GPU's kernel may take many of.
    fn mamba_layers<'a>(
        &'a self,
        states: &'a mut [Vec<Tensor>],
    ) -> Result<Option<Vec<MambaLayer<'a>>>> {
        let layers = self.layers.iter().zip(states);
        let layers = layers.map(|((norm, mixer), state)| mixer.layer(norm, state));
        layers.collect()
    }
}

impl LmSlots {
    /// S.
    pub fn count(&self) -> usize {
        self.h.shape()[0]
    }

    /// The logits that the last step left: (S, vocab_size) of f32.
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Has a slot go on from here, with what its place holds in bf16 rounded to that; the others stay as they are.
    ///
    /// # Errors
    /// [`Error::State`] for the state of another model, or tensors that do not fit.
    pub fn put(&mut self, slot: usize, row: &StateRow) -> Result<()> {
        let count = |layers: &[Vec<Tensor>]| layers.iter().map(Vec::len).sum::<usize>();
        let (expected, found) = (count(&self.states), count(&row.layers));
        if expected != found {
            return Err(Error::state("tensors", expected, found));
        }
        let states = self.states.iter_mut().flatten();
        for (all, own) in states.zip(row.layers.iter().flatten()) {
            all.put(slot, cast(&own.clone().into(), all.dtype())?.tensor()?)?;
        }
        Ok(())
    }

    /// Bytes of what is remembered of each sequence.
    pub fn bytes_per_slot(&self) -> usize {
        let bytes = |all: &Tensor| all.len() * all.dtype().size();
        self.states.iter().flatten().map(bytes).sum::<usize>() / self.count().max(1)
    }

    /// What is remembered of the sequence in a slot, in f32 what is bf16 as it was asked for.
    ///
    /// # Errors
    /// A slot that there is not; memory.
    pub fn row(&self, slot: usize) -> Result<StateRow> {
        let layers = self.states.iter().map(|layer| {
            let own = layer.iter().map(|all| {
                let own = all.narrow(slot..slot + 1)?;
                match self.narrow && all.dtype() == DType::BF16 {
                    true => Ok(cast(&own.into(), DType::F32)?.into_tensor()?),
                    false => Ok(own),
                }
            });
            own.collect::<Result<Vec<_>>>()
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(StateRow { layers })
    }
}
