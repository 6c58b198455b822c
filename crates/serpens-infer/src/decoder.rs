//! The next token of many sequences, again and again.

use std::sync::{Mutex, OnceLock, PoisonError};

use serpens_core::cuda::{Graph, Staging, compile_ahead};
use serpens_core::{Device, Tensor, expect_count, expect_range};
use serpens_nn::{LmSlots, LmStepper, MambaLm, StateRow};
use serpens_ops::Team;
use serpens_ops::embedding::check_ids;
use serpens_ops::sampling::{DeviceSampler, History, SampleOptions, token};

use crate::{Error, Result};

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
    /// Never locked: it is what other threads may not look at meanwhile.
    gpu: Option<Mutex<OnGpu>>,
    /// The logits on the processor, where they are computed elsewhere and were asked for.
    copied: OnceLock<Tensor>,
    /// What a GPU drew of each slot.
    drawn: Vec<u32>,
}

/// What a step on a GPU takes besides: the tokens go there through pinned memory, and the step is queued as a whole.
struct OnGpu {
    staging: Staging,
    /// Draws in place of the tokens that were read, and becomes a part of the graph.
    sampler: DeviceSampler,
    step: Graph,
}

impl OnGpu {
    /// Records a step of all slots, and the draw behind it. The step is rehearsed with others: what is copied then is
    /// copied, though nothing was computed.
    fn new(
        model: &MambaLm,
        stepper: &LmStepper,
        slots: &mut LmSlots,
        tokens: &mut Tensor,
    ) -> Result<Self> {
        let (device, count) = (model.device(), slots.count());
        let mut sampler = DeviceSampler::new(count, model.config().vocab_size, device)?;
        let mut step = |slots: &mut LmSlots| {
            stepper.step(tokens, count, slots)?;
            sampler.sample(slots.logits().view(), tokens.view_mut()?, None)?;
            Ok::<_, Error>(())
        };
        let mut others = stepper.slots(model, count)?;
        compile_ahead(device, || step(&mut others))?;
        let step = Graph::capture(device, || step(slots))?;
        let staging = Staging::new(device, count * size_of::<u32>())?;
        Ok(Self {
            staging,
            sampler,
            step,
        })
    }
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
        let mut places = stepper.slots(model, slots)?;
        let mut tokens = Tensor::full([slots], 0_u32, model.device())?;
        let on_gpu = model.device() != Device::Cpu;
        let gpu = on_gpu.then(|| OnGpu::new(model, &stepper, &mut places, &mut tokens));
        Ok(Self {
            slots: places,
            tokens,
            team: Team::new(threads),
            most: most.max(1),
            taken: 0,
            gpu: gpu.transpose()?.map(Mutex::new),
            copied: OnceLock::new(),
            drawn: Vec::new(),
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
        if let Some(gpu) = &mut self.gpu {
            let gpu = gpu.get_mut().unwrap_or_else(PoisonError::into_inner);
            gpu.sampler.leave(self.taken)?;
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
        let Some(gpu) = &mut self.gpu else {
            on.make_mut::<u32>()?[..tokens.len()].copy_from_slice(tokens);
            let step = || stepper.step(on, tokens.len(), slots);
            return Ok(self.team.enter(step)?);
        };
        let mut padded = tokens.to_vec();
        padded.resize(slots.count(), 0);
        let gpu = gpu.get_mut().unwrap_or_else(PoisonError::into_inner);
        gpu.staging.upload(on, &padded)?;
        gpu.step.replay()?;
        self.copied = OnceLock::new();
        self.drawn = on.to_vec()?;
        Ok(())
    }

    /// On a GPU, has the sequence in this slot drawn by the device from the next step on: with these options, after this
    /// history, with the numbers of the stream of `ChaCha8Rng` with this key of which `drawn` were taken. It is for the
    /// slot, not for the sequence, that [`Decoder::leave`] may move.
    ///
    /// # Errors
    /// Those of [`DeviceSampler::enter`].
    pub(crate) fn draw_by(
        &mut self,
        slot: usize,
        options: &SampleOptions,
        history: &History,
        (key, drawn): ([u8; 32], u64),
    ) -> Result<()> {
        let Some(gpu) = &mut self.gpu else {
            return Ok(());
        };
        let gpu = gpu.get_mut().unwrap_or_else(PoisonError::into_inner);
        Ok(gpu.sampler.enter(slot, options, history, key, drawn)?)
    }

    /// The token that the device drew for the sequence in this slot behind the last step; none on the processor, where
    /// the logits are at hand.
    ///
    /// # Errors
    /// [`Error::Logits`].
    pub(crate) fn drawn(&self, slot: usize) -> Result<Option<u32>> {
        let drawn = self.drawn.get(slot);
        Ok(drawn.map(|&drawn| token(drawn)).transpose()?)
    }

    /// The logits that the last step left for the next token of the sequence in this slot.
    ///
    /// # Errors
    /// A slot that is not taken.
    pub fn logits(&self, slot: usize) -> Result<&[f32]> {
        expect_range("Decoder", "the slot", 0..self.taken, slot)?;
        let vocabulary = self.model.config().vocab_size;
        let all = match (&self.gpu, self.copied.get()) {
            (None, _) => self.slots.logits(),
            (Some(_), Some(copied)) => copied,
            (Some(_), None) => {
                let copied = self.slots.logits().to(Device::Cpu)?;
                self.copied.get_or_init(|| copied)
            }
        };
        Ok(&all.as_slice()?[slot * vocabulary..(slot + 1) * vocabulary])
    }
}
