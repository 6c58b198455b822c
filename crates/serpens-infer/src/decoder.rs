//! The next token of many sequences, again and again.

use std::sync::{Mutex, OnceLock, PoisonError};

use serpens_core::cuda::{Graph, Staging, compile_ahead};
use serpens_core::{DType, Device, Tensor, expect_count, expect_range};
use serpens_nn::{LmSlots, LmStepper, MambaLm, StateRow};
use serpens_ops::Team;
use serpens_ops::embedding::check_ids;
use serpens_ops::sampling::{DeviceSampler, History, MOST_TOKENS, SampleOptions, token};

use crate::{Batching, Result};

/// Sequences in the slots of one model, which read a token each at a time. States are moved on in place, threads stay
/// awake from layer to layer, and on the processor a step of Mamba allocates nothing. A sequence has the same bits
/// whichever others are beside it; on a GPU all slots are stepped whether they are taken or not, as there the library
/// of products chooses how to sum by the number of rows. With pooled layers those alone are stepped that are taken, and
/// there the bits depend on how many they are. A model that computes in TF32 is stepped in f32.
pub struct Decoder<'a> {
    model: &'a MambaLm,
    stepper: LmStepper,
    slots: LmSlots,
    /// The type of their states.
    states: DType,
    team: Team,
    /// One for each slot.
    tokens: Tensor,
    /// The most slots that there may be.
    most: usize,
    /// For each that is taken, from the first on, how many more tokens it can read, where that has an end.
    left: Vec<Option<usize>>,
    /// Never locked: it is what other threads may not look at meanwhile.
    gpu: Option<Mutex<OnGpu>>,
    /// The logits on the processor, where they are computed elsewhere and were asked for.
    copied: OnceLock<Tensor>,
    /// Tokens that can be drawn, from the first on.
    drawable: usize,
    /// What a GPU drew of each slot.
    drawn: Vec<u32>,
    /// Whether a GPU has begun a step that was not asked for yet: the one that reads what it drew.
    ahead: bool,
}

/// What a step on a GPU takes besides: the tokens go there through pinned memory, and the step is queued as a whole.
struct OnGpu {
    staging: Staging,
    /// Where the tokens come that were drawn by the step whose results are awaited, and by the one behind it.
    drawn: [Staging; 2],
    /// Draws in place of the tokens that were read, and becomes a part of the graph; none for more tokens than it draws
    /// from, where the processor draws.
    sampler: Option<DeviceSampler>,
    /// Of the tokens that can be drawn, from the first on.
    drawable: usize,
    /// Where a step can be recorded.
    step: Option<Graph>,
}

impl OnGpu {
    /// Records, where it can be, a step of all slots, and the draw behind it of one of the first `drawable` tokens.
    fn new(
        stepper: &LmStepper,
        slots: &mut LmSlots,
        tokens: &mut Tensor,
        drawable: usize,
    ) -> Result<Self> {
        let (device, count) = (tokens.device(), slots.count());
        let sampler = || DeviceSampler::new(count, drawable, device);
        let sampler = (drawable <= MOST_TOKENS).then(sampler);
        let staging = || Staging::new(device, count * size_of::<u32>());
        let mut gpu = Self {
            staging: staging()?,
            drawn: [staging()?, staging()?],
            sampler: sampler.transpose()?,
            drawable,
            step: None,
        };
        if stepper.is_recordable() {
            let mut step = || gpu.launch(stepper, slots, tokens, count);
            // What a rehearsal copies means nothing, but every sequence brings its state.
            compile_ahead(device, &mut step)?;
            gpu.step = Some(Graph::capture(device, &mut step)?);
        }
        Ok(gpu)
    }

    /// Launches what a step of the first slots is of.
    fn launch(
        &mut self,
        stepper: &LmStepper,
        slots: &mut LmSlots,
        tokens: &mut Tensor,
        taken: usize,
    ) -> Result<()> {
        stepper.step(tokens, taken, slots)?;
        if let Some(sampler) = &mut self.sampler {
            let logits = slots.logits().view().columns(0..self.drawable);
            sampler.sample(logits, tokens.view_mut()?)?;
        }
        Ok(())
    }

    /// Queues a step, and the tokens that it draws for the host where it draws.
    fn queue(
        &mut self,
        stepper: &LmStepper,
        slots: &mut LmSlots,
        tokens: &mut Tensor,
        taken: usize,
    ) -> Result<()> {
        match &self.step {
            Some(graph) => graph.replay()?,
            // What nobody has taken may be beyond what caches hold.
            None => self.launch(stepper, slots, tokens, taken)?,
        }
        if self.sampler.is_some() {
            self.drawn.swap(0, 1);
            self.drawn[1].download(tokens)?;
        }
        Ok(())
    }
}

impl<'a> Decoder<'a> {
    /// For up to this many sequences of the model with its values of now, none yet.
    ///
    /// # Errors
    /// A model without values; memory.
    pub fn new(model: &'a MambaLm, most: usize) -> Result<Self> {
        let batching = Batching {
            slots: most,
            ..Batching::default()
        };
        Self::batching(model, batching)
    }

    /// For up to as many sequences as `batching` has slots, with states of its type; a GPU draws from its vocabulary.
    ///
    /// # Errors
    /// A model without values, or whose states cannot be of this type; no token that may be drawn; memory.
    pub fn batching(model: &'a MambaLm, batching: Batching<'_>) -> Result<Self> {
        let (most, states, all) = (batching.slots, batching.states, model.config().vocab_size);
        let drawable = batching.vocabulary.min(all);
        expect_range("Decoder", "the vocabulary", 1..all + 1, drawable)?;
        let stepper = model.stepper()?;
        // On the processor memory is taken as sequences enter.
        let (slots, threads) = match model.device() {
            Device::Cpu => (1, rayon::current_num_threads()),
            Device::Cuda(_) => (most.max(1), 1),
        };
        let mut places = stepper.slots(model, slots, states)?;
        let mut tokens = Tensor::full([slots], 0_u32, model.device())?;
        let on_gpu = model.device() != Device::Cpu;
        let gpu = on_gpu.then(|| OnGpu::new(&stepper, &mut places, &mut tokens, drawable));
        Ok(Self {
            slots: places,
            states,
            tokens,
            team: Team::new(threads),
            most: most.max(1),
            left: Vec::new(),
            gpu: gpu.transpose()?.map(Mutex::new),
            copied: OnceLock::new(),
            drawable,
            drawn: Vec::new(),
            ahead: false,
            stepper,
            model,
        })
    }

    /// Slots that are taken.
    pub fn taken(&self) -> usize {
        self.left.len()
    }

    /// Sequences that can still enter.
    pub fn free(&self) -> usize {
        self.most - self.taken()
    }

    /// Bytes of what is remembered of each sequence.
    pub fn bytes_per_sequence(&self) -> usize {
        self.slots.bytes_per_slot()
    }

    /// Has a sequence go on from this state, in the slot behind those that are taken.
    ///
    /// # Errors
    /// The state of another model; no slot that is free; memory.
    pub fn enter(&mut self, row: &StateRow) -> Result<()> {
        let taken = self.taken();
        expect_range("Decoder", "the sequences", 0..self.most, taken)?;
        let left = self.stepper.left(row)?;
        if taken == self.slots.count() {
            let grown = (2 * taken).min(self.most);
            let mut slots = self.stepper.slots(self.model, grown, self.states)?;
            (0..taken).try_for_each(|slot| slots.put(slot, &self.slots.row(slot)?))?;
            self.tokens = Tensor::full([grown], 0_u32, self.model.device())?;
            self.slots = slots;
        }
        self.slots.put(taken, row)?;
        self.left.push(left);
        Ok(())
    }

    /// Takes the sequence out of a slot, which the last of those that are taken then has.
    ///
    /// # Errors
    /// A slot that is not taken; memory.
    pub fn leave(&mut self, slot: usize) -> Result<StateRow> {
        expect_range("Decoder", "the slot", 0..self.taken(), slot)?;
        let row = self.slots.row(slot)?;
        self.left.swap_remove(slot);
        let taken = self.taken();
        if slot < taken {
            self.slots.put(slot, &self.slots.row(taken)?)?;
        }
        if let Some(gpu) = &mut self.gpu {
            let gpu = gpu.get_mut().unwrap_or_else(PoisonError::into_inner);
            let sampler = gpu.sampler.as_mut();
            sampler.map_or(Ok(()), |sampler| sampler.leave(taken))?;
        }
        Ok(row)
    }

    /// Reads a token of every sequence.
    ///
    /// # Errors
    /// More or fewer tokens than sequences, tokens that the model does not know, or a sequence that is as long as its
    /// caches are ([`serpens_nn::Error::Full`]), before any state has gone on; memory.
    pub fn step(&mut self, tokens: &[u32]) -> Result<()> {
        self.step_and(tokens, false)
    }

    /// As [`Decoder::step`]; where a GPU draws, and `ahead`, it also begins the step that reads what it draws now.
    /// Until that step is asked for, no sequence enters or leaves, and the logits are not those of the last one.
    pub(crate) fn step_and(&mut self, tokens: &[u32], ahead: bool) -> Result<()> {
        expect_count("Decoder", "tokens", self.taken(), tokens.len())?;
        check_ids(tokens, self.model.config().vocab_size)?;
        if self.left.contains(&Some(0)) {
            return Err(self.model.config().full().into());
        }
        if tokens.is_empty() {
            return Ok(());
        }
        self.left.iter_mut().flatten().for_each(|left| *left -= 1);
        let (stepper, slots, on) = (&self.stepper, &mut self.slots, &mut self.tokens);
        let Some(gpu) = &mut self.gpu else {
            on.make_mut::<u32>()?[..tokens.len()].copy_from_slice(tokens);
            let step = || stepper.step(on, tokens.len(), slots);
            return Ok(self.team.enter(step)?);
        };
        let mut padded = tokens.to_vec();
        padded.resize(slots.count(), 0);
        let gpu = gpu.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !self.ahead {
            gpu.staging.upload(on, &padded)?;
            gpu.queue(stepper, slots, on, tokens.len())?;
        }
        self.ahead = false;
        if ahead && gpu.sampler.is_some() && !self.left.contains(&Some(0)) {
            gpu.queue(stepper, slots, on, tokens.len())?;
            self.ahead = true;
        }
        self.copied = OnceLock::new();
        if gpu.sampler.is_some() {
            let awaited = usize::from(!self.ahead);
            self.drawn = gpu.drawn[awaited].values(padded.len())?;
        }
        Ok(())
    }

    /// Whether the sequence in this slot can read no more.
    pub(crate) fn is_full(&self, slot: usize) -> bool {
        self.left[slot] == Some(0)
    }

    /// Whether a GPU has begun a step that was not asked for yet.
    pub(crate) fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// On a GPU, has the sequence in this slot drawn by the device from the next step on: with these options, after
    /// this history, with the numbers of the stream of `ChaCha8Rng` with this key of which `drawn` were taken. It is
    /// for the slot, not for the sequence, that [`Decoder::leave`] may move.
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
        let enter = |sampler: &mut DeviceSampler| sampler.enter(slot, options, history, key, drawn);
        Ok(gpu.sampler.as_mut().map_or(Ok(()), enter)?)
    }

    /// The token that the device drew for the sequence in this slot behind the last step; none where there was none to
    /// draw, which the logits explain, and where the processor draws.
    ///
    /// # Errors
    /// That there was none to draw, where the logits are gone.
    pub(crate) fn drawn(&self, slot: usize) -> Result<Option<u32>> {
        match self.drawn.get(slot).map(|drawn| token(*drawn)) {
            Some(Err(broken)) if self.ahead => Err(broken.into()),
            drawn => Ok(drawn.and_then(Result::ok)),
        }
    }

    /// Tokens that can be drawn, from the first on.
    pub(crate) fn drawable(&self) -> usize {
        self.drawable
    }

    /// The logits that the last step left for the next token of the sequence in this slot.
    ///
    /// # Errors
    /// A slot that is not taken.
    pub fn logits(&self, slot: usize) -> Result<&[f32]> {
        expect_range("Decoder", "the slot", 0..self.taken(), slot)?;
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

    /// The logits that the last step left in one place, without bringing those of all from a GPU.
    pub(crate) fn last_logits(&self, slot: usize) -> Result<Vec<f32>> {
        Ok(self.slots.logits().narrow(slot..slot + 1)?.to_vec()?)
    }
}
