//! Reading several sequences at once.
//!
//! Sequences of different lengths are read packed one behind the other, without padding, each from a state of its own
//! ([`Sequence::lengths`]). On the processor up to [`FEW_ROWS`] tokens are read together: a row of a product has the
//! same bits among up to so many others, so that every sequence is read to the bits that it has alone, and more are
//! read no faster together than apart. On a GPU the library of products chooses how to sum by the number of rows: where
//! bits matter each sequence is read alone.

use serpens_core::{DType, Device, Tensor};
use serpens_nn::layers::Sequence;
use serpens_nn::{LmState, MambaLm, StateRow};
use serpens_ops::elementwise::cast;
use serpens_ops::embedding::check_ids;
use serpens_ops::linear::cpu::FEW_ROWS;

use crate::state::Next;
use crate::{Error, Result, SequenceState};

/// What is done with the normalised outputs (rows, d_model) of one of the sequences from this position on.
pub(crate) type Outputs<'a> = dyn FnMut(usize, usize, Tensor) -> Result<()> + 'a;

/// Reads sequences.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) model: &'a MambaLm,
    /// Hears of how many tokens a pass read.
    pub(crate) on_pass: &'a dyn Fn(usize),
}

impl<'a> Reader<'a> {
    pub(crate) fn new(model: &'a MambaLm) -> Self {
        let on_pass = &|_| ();
        Self { model, on_pass }
    }

    /// Which sequences of these lengths are read together, of those that have any; `alike` where their bits must not
    /// depend on each other.
    pub(crate) fn packs(&self, lengths: &[usize], alike: bool) -> Vec<Vec<usize>> {
        let most = match self.model.device() {
            Device::Cpu => FEW_ROWS,
            Device::Cuda(_) if alike => 0,
            Device::Cuda(_) => self.model.longest_pass(1),
        };
        let (mut packs, mut rows) = (Vec::<Vec<usize>>::new(), 0);
        for (i, length) in lengths
            .iter()
            .enumerate()
            .filter(|(_, length)| **length > 0)
        {
            rows += length;
            match packs.last_mut() {
                Some(pack) if rows <= most => pack.push(i),
                _ => {
                    packs.push(vec![i]);
                    rows = *length;
                }
            }
        }
        packs
    }

    /// Reads a pack: the tokens of each sequence from its state, which is replaced. One that is longer than a pass,
    /// which is alone, is read in passes of about equal length.
    pub(crate) fn read_pack(
        &self,
        ids: &[&[u32]],
        rows: &mut [StateRow],
        outputs: &mut Outputs<'_>,
    ) -> Result<()> {
        for ids in ids {
            check_ids(ids, self.model.config().vocab_size)?; // before any state has gone on
        }
        let longest = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let passes = longest.div_ceil(self.model.longest_pass(1));
        for pass in 0..passes {
            let chunk = |ids: &[u32]| ids.len() * pass / passes..ids.len() * (pass + 1) / passes;
            let lengths: Vec<usize> = ids.iter().map(|ids| chunk(ids).len()).collect();
            let flat: Vec<u32> = ids
                .iter()
                .flat_map(|ids| ids[chunk(ids)].to_vec())
                .collect();
            let mut state = LmState::gather(&rows.iter().collect::<Vec<_>>())?;
            let flat = Tensor::from_slice([1, flat.len()], &flat, self.model.device())?;
            let sequence = Sequence {
                lengths: (lengths.len() > 1).then_some(&lengths),
                ..Sequence::default()
            };
            let hidden = self
                .model
                .hidden(&flat.into(), &sequence, Some(&mut state))?;
            let hidden = hidden.into_tensor()?;
            let hidden = hidden.reshape([hidden.shape().rows(), hidden.shape().cols()])?;
            rows.clone_from_slice(&state.scatter()?);
            let mut at = 0;
            for (i, length) in lengths.into_iter().enumerate() {
                outputs(i, chunk(ids[i]).start, hidden.narrow(at..at + length)?)?;
                at += length;
            }
            (self.on_pass)(at);
        }
        Ok(())
    }

    /// Logits of the next token: (rows, d_model) → rows · vocabulary values, on the processor. Rows are few.
    pub(crate) fn logits(&self, hidden: Tensor) -> Result<Vec<f32>> {
        let logits = self.model.logits(&hidden.into())?;
        Ok(cast(&logits, DType::F32)?.tensor()?.to_vec()?)
    }

    /// Reads these tokens ([`SequenceState::unread`]) from each state, which stays where there are none: then the next
    /// is to be drawn.
    pub(crate) fn read(&self, states: &mut [SequenceState], ids: &[Vec<u32>]) -> Result<()> {
        let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
        let nothing = |(state, ids): (&SequenceState, &Vec<u32>)| {
            matches!(state.next, Next::Read) && ids.is_empty()
        };
        if states.iter().zip(ids).any(nothing) {
            return Err(Error::EmptyPrompt);
        }
        for pack in self.packs(&lengths, true) {
            let chosen: Vec<&[u32]> = pack.iter().map(|&i| &ids[i][..]).collect();
            let mut rows: Vec<StateRow> = pack.iter().map(|&i| states[i].row.clone()).collect();
            let mut last: Vec<Tensor> = Vec::new();
            self.read_pack(&chosen, &mut rows, &mut |i, _, hidden| {
                let length = hidden.shape().rows();
                last.truncate(i); // an earlier pass of the same sequence
                last.push(hidden.narrow(length - 1..length)?);
                Ok(())
            })?;
            let logits = self.logits(Tensor::concat(&last)?)?;
            let each = logits.chunks(self.model.config().vocab_size);
            for ((i, row), logits) in pack.into_iter().zip(rows).zip(each) {
                let state = &mut states[i];
                // What was drawn is in the history already.
                let drawn = usize::from(matches!(state.next, Next::Token(_)));
                state.history.read(&ids[i][drawn..]);
                state.position += lengths[i] as u64;
                (state.row, state.next) = (row, Next::Logits(logits.into()));
            }
        }
        Ok(())
    }
}
