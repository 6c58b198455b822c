//! Reading several sequences at once.
//!
//! Sequences of different lengths are read packed one behind the other, without padding, each from a state of its own
//! ([`Sequence::lengths`]). On the processor up to [`FEW_ROWS`] tokens are read together: a row of a product has the
//! same bits among up to so many others, so that every sequence is read to the bits that it has alone, and more are
//! read no faster together than apart. On a GPU the library of products chooses how to sum by the number of rows: where
//! bits matter each sequence is read alone.

use std::sync::atomic::{AtomicBool, Ordering};

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

/// Reads sequences until an end is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) model: &'a MambaLm,
    pub(crate) stop: Option<&'a AtomicBool>,
    /// Hears of how many tokens a pass read.
    pub(crate) on_pass: Option<&'a dyn Fn(usize)>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(model: &'a MambaLm, stop: Option<&'a AtomicBool>) -> Self {
        let on_pass = None;
        Self {
            model,
            stop,
            on_pass,
        }
    }

    /// # Errors
    /// [`Error::Stopped`] once that was asked for.
    pub(crate) fn go_on(&self) -> Result<()> {
        match self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            true => Err(Error::Stopped),
            false => Ok(()),
        }
    }

    /// Which sequences of these lengths are read together; `alike` where their bits must not depend on each other.
    pub(crate) fn packs(&self, lengths: &[usize], alike: bool) -> Vec<Vec<usize>> {
        let most = match self.model.device() {
            Device::Cpu => FEW_ROWS,
            Device::Cuda(_) if alike => 0,
            Device::Cuda(_) => self.model.longest_pass(1),
        };
        let (mut packs, mut rows) = (Vec::<Vec<usize>>::new(), 0);
        for (i, length) in lengths.iter().enumerate() {
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

    /// Reads a pack: the tokens of each sequence from its state, which is replaced. One that is longer than a pass, which
    /// is alone, is read in passes of about equal length.
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
            self.go_on()?;
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
            if let Some(on_pass) = self.on_pass {
                on_pass(at);
            }
        }
        Ok(())
    }

    /// Logits of the next token: (rows, d_model) → rows · vocabulary values, on the processor. Rows are few at a time.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        let rows = hidden.shape().rows();
        let mut all = Vec::new();
        for from in (0..rows).step_by(FEW_ROWS) {
            let few = hidden.narrow(from..rows.min(from + FEW_ROWS))?;
            let logits = self.model.logits(&few.into())?;
            all.extend(cast(&logits, DType::F32)?.tensor()?.to_vec::<f32>()?);
        }
        Ok(all)
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
        for mut pack in self.packs(&lengths, true) {
            pack.retain(|&i| lengths[i] > 0);
            let chosen: Vec<&[u32]> = pack.iter().map(|&i| &ids[i][..]).collect();
            let mut rows: Vec<StateRow> = pack.iter().map(|&i| states[i].row.clone()).collect();
            let mut last: Vec<Option<Tensor>> = vec![None; pack.len()];
            self.read_pack(&chosen, &mut rows, &mut |i, _, hidden| {
                let length = hidden.shape().rows();
                last[i] = Some(hidden.narrow(length - 1..length)?);
                Ok(())
            })?;
            let last: Vec<Tensor> = last.into_iter().flatten().collect();
            let logits = match last.is_empty() {
                true => continue,
                false => self.logits(&Tensor::concat(&last)?)?,
            };
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
