//! Recomputation: a stretch of operations keeps its inputs only, and is run again when its backward comes.

use super::backward::{Backward, BackwardContext};
use super::record::{Tape, Var, record, tracked};
use crate::{Error, Result, Tensor};

/// A stretch of operations that is run a second time to go back through it.
type Stretch<const K: usize> = dyn Fn(&[Var]) -> Result<[Var; K]>;

/// Runs `f` on `inputs` so that nothing inside it is kept: its backward runs it again, recorded, and goes back through
/// that. Memory then holds the insides of one stretch at a time; the price is a second forward.
///
/// `f` must be a pure function of its inputs and of parameters it holds; the inputs must not be ranges of columns (take
/// the columns inside). Both runs give the same bits, so the gradients are those of the plain computation.
///
/// # Errors
/// Those of `f`; [`Error::Columns`] for a range of columns; [`Error::TapeMismatch`] where `f` gives a value of a tape,
/// which is none that it was given.
pub fn recompute<const K: usize>(
    op: &'static str,
    inputs: &[&Var],
    f: impl Fn(&[Var]) -> Result<[Var; K]> + 'static,
) -> Result<[Var; K]> {
    let kept = inputs
        .iter()
        .map(|&input| Ok((input.tensor()?.clone(), tracked(&[Some(input)]))));
    let kept: Vec<(Tensor, bool)> = kept.collect::<Result<_>>()?;
    if inputs.iter().all(|input| input.tape().is_none()) {
        let inputs: Vec<Var> = inputs.iter().map(|&input| input.clone()).collect();
        return f(&inputs);
    }
    let detached: Vec<Var> = inputs.iter().map(|input| input.detach()).collect();
    let outputs = f(&detached)?;
    for output in &outputs {
        output.tensor()?;
        if output.tape().is_some() {
            return Err(Error::TapeMismatch { op });
        }
    }
    let values = outputs.map(|output| output.value);
    let operands: Vec<Option<&Var>> = inputs.iter().map(|&input| Some(input)).collect();
    // Parameters inside are reached whether or not the inputs need gradients, so it is recorded wherever there is a
    // tape.
    let operation = Box::new(Recomputed {
        inputs: kept,
        stretch: Box::new(f) as Box<Stretch<K>>,
    });
    record(op, &operands, values, Some(operation))
}

struct Recomputed<const K: usize> {
    /// Each with whether it needs a gradient.
    inputs: Vec<(Tensor, bool)>,
    stretch: Box<Stretch<K>>,
}

impl<const K: usize> Backward for Recomputed<K> {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let tape = Tape::new();
        let input = |(value, wanted)| match wanted {
            true => tape.leaf(value),
            false => tape.constant(value),
        };
        let inputs: Vec<Var> = self.inputs.into_iter().map(input).collect();
        let outputs = (self.stretch)(&inputs)?;
        let outputs = outputs.iter().enumerate();
        let seeds = outputs.filter_map(|(index, y)| Some((y, context.take_output(index)?)));
        let seeds = seeds.collect();
        tape.backward_from(seeds, context.gradients())?;
        for (index, input) in inputs.iter().enumerate() {
            if let Some(gradient) = tape.gradient(input)? {
                context.add(index, gradient)?;
            }
        }
        Ok(())
    }
}
