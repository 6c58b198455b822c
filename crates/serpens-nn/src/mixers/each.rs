//! What runs over time, of sequences that stand one behind the other.

use serpens_core::{Tensor, Var};

use super::MixerState;
use crate::layers::Sequence;
use crate::{Error, Result};

/// What `read` makes of the inputs, of each sequence by itself where these have lengths, with its own place in the
/// state.
///
/// # Shapes
/// (batch, length, columns) → (batch, length, others)
///
/// # Errors
/// Those of `read`; lengths without a state for each, or with gradients.
pub(super) fn each_sequence(
    inputs: &Var,
    sequence: &Sequence<'_>,
    state: Option<&mut MixerState>,
    mut read: impl FnMut(&Var, &Sequence<'_>, Option<&mut MixerState>) -> Result<Var>,
) -> Result<Var> {
    let Some(lengths) = sequence.lengths else {
        return read(inputs, sequence, state);
    };
    let (rows, width) = (inputs.shape().rows(), inputs.shape().cols());
    let fits = |state: &Var| state.shape()[0] == lengths.len() && inputs.tape().is_none();
    let Some(states) = state.filter(|states| states.iter().all(fits)) else {
        let what = "sequences with lengths are read with a state for each, without gradients";
        return Err(Error::Unsupported(what));
    };
    let flat = inputs.tensor()?.reshape([rows, width])?;
    let sequence = Sequence {
        lengths: None,
        ..*sequence
    };
    let (mut from, mut outputs) = (0, Vec::new());
    let mut own_states: Vec<MixerState> = Vec::new();
    for (i, &length) in lengths.iter().enumerate() {
        let own = flat.narrow(from..from + length)?;
        let own = Var::from(own.reshape([1, length, width])?);
        let row = states
            .iter()
            .map(|all| Ok(all.tensor()?.narrow(i..i + 1)?.into()));
        own_states.push(row.collect::<Result<_>>()?);
        let y = read(&own, &sequence, own_states.last_mut())?.into_tensor()?;
        outputs.push(y.reshape([length, y.shape().cols()])?);
        from += length;
    }
    for (i, all) in states.iter_mut().enumerate() {
        let each: Result<Vec<_>, _> = own_states.iter().map(|own| own[i].tensor()).collect();
        *all = Tensor::concat(&each?)?.into();
    }
    let y = Tensor::concat(&outputs)?;
    let columns = y.shape().cols();
    Ok(Var::from(y).reshape([1, rows, columns])?)
}
