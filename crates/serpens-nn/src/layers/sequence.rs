//! How a sequence is to be read.

use std::cell::RefCell;

use serpens_core::Var;
use serpens_core::tape::recompute;
use serpens_ops::Starts;

use crate::mixers::AttentionTrace;
use crate::ssm::SelectionTrace;
use crate::{Error, Recompute, Result};

/// How a layer is to read a sequence.
#[derive(Clone, Copy, Default)]
pub struct Sequence<'a> {
    /// Where packed sequences start: nothing is remembered across these positions. With a state, those of a chunk
    /// ([`Starts::chunk`]): whole rows go on from none.
    pub starts: Option<&'a Starts>,
    /// The lengths of sequences that stand one behind the other in a batch of one, without gradients; each goes on from
    /// its own place in the state, which has as many as its batch. Products are made of all rows at once, and what runs
    /// over time sequence by sequence, as each would by itself.
    pub lengths: Option<&'a [usize]>,
    /// From the last position to the first.
    pub reverse: bool,
    /// What is computed again for the gradients, where the sequence is read without a state.
    pub recompute: Recompute,
    /// Collects what layers did with each token, with their numbers from 0.
    pub trace: Option<&'a RefCell<Vec<(usize, Trace)>>>,
}

/// What a layer did with the tokens of a sequence, or of a chunk of one.
#[derive(Clone, Debug)]
pub enum Trace {
    /// Of a selective state space model.
    Selection(SelectionTrace),
    /// Of attention, one for each sequence, which are read from a state.
    Attention(AttentionTrace),
}

impl Sequence<'_> {
    /// Keeps what a layer did, where that is asked for.
    pub(crate) fn tell(&self, trace: impl FnOnce() -> Result<Trace>) -> Result<()> {
        if let Some(traces) = self.trace {
            let trace = trace()?;
            traces.borrow_mut().push((0, trace)); // the model tells which
        }
        Ok(())
    }

    /// The length of each sequence of (batch, length) rows, of which there are states for so many.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where they are not as many.
    pub(crate) fn lengths_of(
        &self,
        [batch, length]: [usize; 2],
        states: usize,
    ) -> Result<Vec<usize>> {
        let lengths = self
            .lengths
            .map_or_else(|| vec![length; batch], <[usize]>::to_vec);
        match lengths.len() == states {
            true => Ok(lengths),
            false => Err(Error::Unsupported(
                "each sequence is read with its own state",
            )),
        }
    }

    /// What `read` makes of the inputs, of which nothing but these is kept: it reads them once more for the gradients.
    pub(crate) fn read_twice<const N: usize>(
        &self,
        op: &'static str,
        inputs: &[&Var],
        read: impl Fn(&[Var], &Sequence<'_>) -> Result<[Var; N]> + 'static,
    ) -> Result<[Var; N]> {
        let (starts, reverse) = (self.starts.cloned(), self.reverse);
        Ok(recompute(op, inputs, move |inputs| {
            let sequence = Sequence {
                starts: starts.as_ref(),
                reverse,
                ..Sequence::default()
            };
            Ok(read(inputs, &sequence)?)
        })?)
    }
}
