//! Recomputation: a stretch of operations keeps its inputs only, and is run again when its backward comes.

use super::backward::{Backward, BackwardContext};
use super::record::{Tape, Var, record, tracked};
use crate::Result;

/// A stretch of operations that is run a second time to go back through it.
type Stretch<const K: usize> = dyn Fn(&[Var]) -> Result<[Var; K]>;

/// Runs `f` on `inputs` so that nothing inside it is kept: its backward runs it again, recorded, and goes back through that.
/// Memory then holds the insides of one stretch at a time; the price is a second forward.
///
/// `f` must be a pure function of its inputs and of parameters it holds; the inputs must not be ranges of columns (take the columns
/// inside). Both runs give the same bits, so the gradients are those of the plain computation.
///
/// # Errors
/// Those of `f`; [`crate::Error::Columns`] for a range of columns.
pub fn recompute<const K: usize>(
    op: &'static str,
    inputs: &[&Var],
    f: impl Fn(&[Var]) -> Result<[Var; K]> + 'static,
) -> Result<[Var; K]> {
    for input in inputs {
        input.tensor()?;
    }
    if inputs.iter().all(|input| input.tape().is_none()) {
        let inputs: Vec<Var> = inputs.iter().map(|&input| input.clone()).collect();
        return f(&inputs);
    }
    let detached: Vec<Var> = inputs.iter().map(|input| input.detach()).collect();
    let outputs = f(&detached)?;
    for output in &outputs {
        output.tensor()?;
    }
    let values = outputs.map(|output| output.value);
    let operands: Vec<Option<&Var>> = inputs.iter().map(|&input| Some(input)).collect();
    // Parameters inside are reached whether or not the inputs need gradients, so it is recorded wherever there is a tape.
    let operation = Box::new(Recomputed {
        wanted: inputs
            .iter()
            .map(|&input| tracked(&[Some(input)]))
            .collect(),
        inputs: detached,
        stretch: Box::new(f) as Box<Stretch<K>>,
    });
    record(op, &operands, values, Some(operation))
}

struct Recomputed<const K: usize> {
    inputs: Vec<Var>,
    /// Which inputs need gradients.
    wanted: Vec<bool>,
    stretch: Box<Stretch<K>>,
}

impl<const K: usize> Backward for Recomputed<K> {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let tape = Tape::new();
        let inputs: Vec<Var> = self
            .inputs
            .into_iter()
            .zip(&self.wanted)
            .map(|(input, &wanted)| {
                let value = input.into_tensor()?;
                Ok(if wanted {
                    tape.leaf(value)
                } else {
                    tape.constant(value)
                })
            })
            .collect::<Result<_>>()?;
        let outputs = (self.stretch)(&inputs)?;
        let mut seeds = Vec::with_capacity(K);
        for (index, output) in outputs.iter().enumerate() {
            if let Some(gradient) = context.take_output(index) {
                seeds.push((output, gradient));
            }
        }
        tape.backward_from(seeds, context.gradients())?;
        for (index, input) in inputs.iter().enumerate() {
            if let Some(gradient) = tape.take_gradient(input)? {
                context.add(index, gradient)?;
            }
        }
        Ok(())
    }
}
