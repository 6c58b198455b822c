//! Reading one token of many sequences after another.

use serpens_core::{DType, Tensor, Var};
use serpens_ops::elementwise::{add, cast};
use serpens_ops::mamba_layers::MambaLayer;

use super::{Mixer, MixerState};
use crate::Result;
use crate::layers::RmsNorm;

/// A mixer lowered for steps, as `stepper` of a [`Mixer`] gives it: a token of every slot at a time, without a tape.
pub trait Stepper: Send + Sync {
    /// Columns of room that a step of it takes.
    fn room(&self) -> usize;

    /// Which tensor of its state may be bf16 instead of f32, if one: that of a selective scan.
    fn narrow_state(&self) -> Option<usize> {
        None
    }

    /// How many more tokens every sequence of this state can read; none where they have no end.
    ///
    /// # Errors
    /// The state of another mixer.
    fn left(&self, _state: &[Tensor]) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Whether a step of it can be a part of a graph: it waits for nothing that a GPU computes.
    fn is_recordable(&self) -> bool {
        true
    }

    /// The whole layer for the first slot, where it is one of those that a GPU's kernel may take many of.
    ///
    /// # Errors
    /// A layer without values.
    fn layer<'a>(
        &'a self,
        _norm: &'a RmsNorm,
        _state: &'a mut [Tensor],
    ) -> Result<Option<MambaLayer<'a>>> {
        Ok(None)
    }

    /// h += mixer(norm(h)) for one token of each of the first `slots` slots, whose states move on. What the other slots
    /// have stays as it is.
    ///
    /// # Shapes
    /// h (S, d_model) of f32; state: those of [`Mixer::initial_state`] for S sequences, [`Stepper::narrow_state`] of
    /// f32 or bf16; room (S, at least [`Stepper::room`]) in the type of the activations, of any content
    ///
    /// # Errors
    /// [`crate::Error::State`] for the state of another mixer; operands that do not fit; memory.
    fn step(
        &self,
        norm: &RmsNorm,
        slots: usize,
        h: &mut Tensor,
        state: &mut [Tensor],
        room: &mut Tensor,
    ) -> Result<()>;
}

/// h += mix(norm(h)) for one token of each of the first `slots` slots, by operations of the forward pass.
pub(super) fn add_mixed(
    norm: &RmsNorm,
    slots: usize,
    h: &mut Tensor,
    mix: impl FnOnce(&Var) -> Result<Var>,
) -> Result<()> {
    let x = Var::from(h.narrow(0..slots)?);
    let activations = norm.weight.precision().activations();
    let y = mix(&norm.forward(&x, None, activations)?.y)?;
    Ok(h.put(0, add(&cast(&y, DType::F32)?, &x)?.tensor()?)?)
}

/// Any mixer, by its forward pass.
pub(super) struct Whole(Box<dyn Mixer>);

impl Whole {
    pub(super) fn new(mixer: Box<dyn Mixer>) -> Self {
        Self(mixer)
    }
}

impl Stepper for Whole {
    fn room(&self) -> usize {
        0
    }

    fn step(
        &self,
        norm: &RmsNorm,
        slots: usize,
        h: &mut Tensor,
        state: &mut [Tensor],
        _: &mut Tensor,
    ) -> Result<()> {
        let taken = |all: &Tensor| Ok(Var::from(all.narrow(0..slots)?));
        let mut of_slots: MixerState = state.iter().map(taken).collect::<Result<_>>()?;
        add_mixed(norm, slots, h, |x| self.0.step(x, &mut of_slots))?;
        for (all, moved) in state.iter_mut().zip(of_slots) {
            all.put(0, moved.tensor()?)?;
        }
        Ok(())
    }
}
