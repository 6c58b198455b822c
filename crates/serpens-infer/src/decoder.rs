//! The next token of many sequences, again and again.

use serpens_core::{Device, Tensor, expect_count, expect_range};
use serpens_nn::{LmSlots, LmStepper, MambaLm, StateRow};
use serpens_ops::Team;
use serpens_ops::embedding::check_ids;

use crate::Result;

/// Sequences in the slots of one model, which read a token each at a time. States are moved on in place, threads stay
/// awake from layer to layer, and on the processor a step of Mamba allocates nothing. A sequence has the same bits
/// whichever others are beside it; on a GPU all slots are stepped whether they are taken or not, as there the library
/// of products chooses how to sum by the number of rows.
pub struct Decoder<'a> {
    model: &'a MambaLm,
    stepper: LmStepper,
    slots: LmSlots,
    team: Team,
    /// One for each slot.
    tokens: Tensor,
    /// The most slots that there may be.
    most: usize,
    /// Those that are taken, from the first on.
    taken: usize,
    /// The logits on the processor, where they are computed elsewhere.
    copied: Option<Tensor>,
}

impl<'a> Decoder<'a> {
    /// For up to this many sequences of the model with its values of now, none yet.
    ///
    /// # Errors
    /// A model without values; memory.
    pub fn new(model: &'a MambaLm, most: usize) -> Result<Self> {
        let stepper = model.stepper()?;
        // On the processor memory is taken as sequences enter.
        let (slots, threads) = match model.device() {
            Device::Cpu => (1, rayon::current_num_threads()),
            Device::Cuda(_) => (most.max(1), 1),
        };
        Ok(Self {
            slots: stepper.slots(model, slots)?,
            tokens: Tensor::full([slots], 0_u32, model.device())?,
            team: Team::new(threads),
            most: most.max(1),
            taken: 0,
            copied: None,
            stepper,
            model,
        })
    }

    /// Slots that are taken.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Sequences that can still enter.
    pub fn free(&self) -> usize {
        self.most - self.taken
    }

    /// Has a sequence go on from this state, in the slot behind those that are taken.
    ///
    /// # Errors
    /// The state of another model; no slot that is free; memory.
    pub fn enter(&mut self, row: &StateRow) -> Result<()> {
        expect_range("Decoder", "the sequences", 0..self.most, self.taken)?;
        if self.taken == self.slots.count() {
            let grown = (2 * self.taken).min(self.most);
            let mut slots = self.stepper.slots(self.model, grown)?;
            (0..self.taken).try_for_each(|slot| slots.put(slot, &self.slots.row(slot)?))?;
            self.tokens = Tensor::full([grown], 0_u32, self.model.device())?;
            self.slots = slots;
        }
        self.slots.put(self.taken, row)?;
        self.taken += 1;
        Ok(())
    }

    /// Takes the sequence out of a slot, which the last of those that are taken then has.
    ///
    /// # Errors
    /// A slot that is not taken; memory.
    pub fn leave(&mut self, slot: usize) -> Result<StateRow> {
        expect_range("Decoder", "the slot", 0..self.taken, slot)?;
        let row = self.slots.row(slot)?;
        self.taken -= 1;
        if slot < self.taken {
            self.slots.put(slot, &self.slots.row(self.taken)?)?;
        }
        Ok(row)
    }

    /// Reads a token of every sequence.
    ///
    /// # Errors
    /// More or fewer tokens than sequences, or tokens that the model does not know, before any state has gone on;
    /// memory.
    pub fn step(&mut self, tokens: &[u32]) -> Result<()> {
        expect_count("Decoder", "tokens", self.taken, tokens.len())?;
        check_ids(tokens, self.model.config().vocab_size)?;
        if tokens.is_empty() {
            return Ok(());
        }
        let (stepper, slots, on) = (&self.stepper, &mut self.slots, &mut self.tokens);
        if self.model.device() == Device::Cpu {
            on.make_mut::<u32>()?[..tokens.len()].copy_from_slice(tokens);
            let step = || stepper.step(on, tokens.len(), slots);
            return Ok(self.team.enter(step)?);
        }
        let mut padded = tokens.to_vec();
        padded.resize(slots.count(), 0);
        *on = Tensor::from_slice([slots.count()], &padded, self.model.device())?;
        stepper.step(on, slots.count(), slots)?;
        self.copied = Some(slots.logits().to(Device::Cpu)?);
        Ok(())
    }

    /// The logits that the last step left for the next token of the sequence in this slot.
    ///
    /// # Errors
    /// A slot that is not taken.
    pub fn logits(&self, slot: usize) -> Result<&[f32]> {
        expect_range("Decoder", "the slot", 0..self.taken, slot)?;
        let vocabulary = self.model.config().vocab_size;
        let all = self.copied.as_ref().unwrap_or(self.slots.logits());
        Ok(&all.as_slice()?[slot * vocabulary..(slot + 1) * vocabulary])
    }
}
