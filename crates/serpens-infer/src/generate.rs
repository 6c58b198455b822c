//! Drawing the tokens of many sequences at once.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use serpens_core::{DType, Device};
use serpens_nn::MambaLm;
use serpens_ops::linear::cpu::FEW_ROWS;
use smart_default::SmartDefault;

use crate::pass::Reader;
use crate::sampler::most_probable_of;
use crate::state::Next;
use crate::{Decoder, Error, Result, SampleOptions, Sampler, SequenceState, log_sum_exp};

/// What is to be drawn.
#[derive(Clone, Debug, SmartDefault)]
pub struct Request {
    /// What is read first. It may be empty where a state is given.
    pub prompt: Vec<u32>,
    /// What the prompt goes on from.
    pub state: Option<SequenceState>,
    /// How often the prompt is gone on from; it is read once.
    #[default = 1]
    pub samples: usize,
    /// How tokens are drawn.
    pub sampling: SampleOptions,
    /// The seed of the first sample; each other has the next one. A state that goes on draws from its seed's stream
    /// where it left it.
    pub seed: u64,
    /// The most tokens that are drawn of each sample.
    #[default = 256]
    pub tokens: usize,
    /// Tokens that end a sample, such as a tokenizer's [`end_of_text`](serpens_data::Tokenizer::end_of_text).
    pub ends: Vec<u32>,
    /// Whether log-probabilities are told, and of how many of the most probable tokens.
    pub log_probs: Option<usize>,
}

/// How requests are worked on.
#[derive(Clone, Copy, SmartDefault)]
pub struct Batching<'a> {
    /// Sequences that are drawn from at once, from 1 to [`most_slots`].
    #[default = 32]
    pub slots: usize,
    /// No token from this one on is drawn, such as the rows that fill a table up behind its tokenizer's
    /// [`vocab_size`](serpens_data::Tokenizer::vocab_size). At least 1.
    #[default(usize::MAX)]
    pub vocabulary: usize,
    /// The type of the states of selective scans while tokens are drawn: f32, or bf16 with half the bytes, rounded to
    /// nearest behind each token, where slow states lose what is small beside them (docs/kernels.md, "States in bf16").
    #[default(DType::F32)]
    pub states: DType,
    /// Hears of how many tokens of prompts a pass read.
    #[default(&|_| ())]
    pub on_pass: &'a dyn Fn(usize),
}

/// Which sample of which request, both from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Of {
    /// The request's place among all.
    pub request: usize,
    /// The sample's among the request's.
    pub sample: usize,
}

/// A token that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Where the request asks for them.
    pub log_probs: Option<LogProbs>,
}

/// Log-probabilities (natural) in the model's own distribution, softmax of the logits, before any option of sampling.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbs {
    /// Of the token that was drawn.
    pub drawn: f64,
    /// The most probable tokens and theirs.
    pub top: Vec<(u32, f64)>,
}

/// What is told of a sample.
#[derive(Debug)]
pub enum Told<'a> {
    /// The next token.
    Token(&'a Drawn),
    /// Its end, and the state there. The last token is drawn, but not read; where a GPU was ahead, it is read.
    End(End, SequenceState),
}

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// One of its ends was drawn.
    Token,
    /// It has all its tokens.
    Length,
    /// Who listens broke it off.
    Broken,
    /// The model reads no longer sequence ([`MambaLmConfig::context`](serpens_nn::MambaLmConfig::context)).
    Full,
}

/// Draws what is asked for. Prompts are read packed, without padding; then all slots draw a token at a time together.
/// Who is finished leaves its slot, and who waits enters: requests are taken from the iterator when there is room.
/// `listener` hears of each token when it is drawn, and ends a sample by breaking it off.
///
/// A GPU begins the next step before it is known here what the last one drew, where nobody asks for logits: no
/// log-probabilities, no bias and no penalties, whose errors are told by the logits. What it did beyond an end is
/// thrown away.
///
/// A sample depends on its request alone, not on those around it: on the processor to the bit. On a GPU, whose library
/// of products chooses how to sum by the number of rows, prompts are read one by one, and all slots are stepped whether
/// they are taken or not, so that the numbers of rows are always the same for as many slots.
///
/// # Errors
/// [`Error::EmptyPrompt`]; [`Error::SampleOption`], [`Error::Bias`], [`Error::Logits`]; tokens that the model does not
/// know; those of the listener, all of which end everything; memory.
pub fn generate<E: From<Error>>(
    model: &MambaLm,
    requests: impl IntoIterator<Item = Request>,
    batching: Batching<'_>,
    mut listener: impl FnMut(Of, Told<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let on_pass = batching.on_pass;
    let reader = Reader { model, on_pass };
    let slots = batching.slots.clamp(1, most_slots(model.device()));
    let mut decoder = Decoder::batching(model, Batching { slots, ..batching })?;
    let mut slots: Vec<Slot> = Vec::new(); // those of the decoder
    let mut requests = requests.into_iter().enumerate();
    let mut waiting: VecDeque<Slot> = VecDeque::new(); // read, and not in the decoder yet
    loop {
        while decoder.free() > 0 && !decoder.is_ahead() {
            let Some(slot) = waiting.pop_front() else {
                let next = requests.by_ref().take(decoder.free());
                let next: Vec<(usize, Request)> = next.collect();
                if next.is_empty() {
                    break;
                }
                waiting.extend(read(reader, decoder.drawable(), next)?);
                continue;
            };
            decoder.enter(&slot.state.row)?;
            slots.push(slot);
        }
        if slots.is_empty() {
            return Ok(());
        }
        let drawn = draw(&mut slots, &decoder)?;
        for (slot, drawn) in slots.iter_mut().zip(drawn) {
            if let Some(drawn) = drawn {
                let flow = listener(slot.of, Told::Token(&drawn))?;
                slot.count(drawn.token, flow);
            }
        }
        let places = slots.iter_mut().enumerate();
        for (_, slot) in places.filter(|(place, _)| decoder.is_full(*place)) {
            slot.end.get_or_insert(End::Full);
        }
        if !decoder.is_ahead() {
            for (of, end, state) in leave(&mut slots, &mut decoder)? {
                listener(of, Told::End(end, state)).map(drop)?;
            }
            for (i, slot) in slots.iter_mut().enumerate() {
                slot.draw_at(&mut decoder, i)?;
            }
        }
        let ahead = slots.iter().all(Slot::goes_on);
        let tokens: Vec<u32> = slots.iter_mut().map(Slot::read).collect();
        decoder.step_and(&tokens, ahead)?;
    }
}

/// Sequences that are drawn from at once, at most.
pub fn most_slots(device: Device) -> usize {
    match device {
        Device::Cpu => FEW_ROWS,
        Device::Cuda(_) => 512,
    }
}

/// Reads the prompts: a slot for each sample that can begin, of which a token below `vocabulary` is drawn.
fn read(
    reader: Reader<'_>,
    vocabulary: usize,
    requests: Vec<(usize, Request)>,
) -> Result<Vec<Slot>> {
    let (mut states, mut unread) = (Vec::new(), Vec::new());
    for (_, request) in &requests {
        let mut biased = request.sampling.logit_bias.iter().map(|(token, _)| *token);
        if let Some(token) = biased.find(|token| *token as usize >= vocabulary) {
            return Err(Error::Bias { token, vocabulary });
        }
        let state = request.state.clone();
        let mut state = state.map_or_else(|| SequenceState::new(reader.model), Ok)?;
        state.history.begin();
        // Without a prompt the token that was drawn last is read by the first step.
        unread.push(match request.prompt.is_empty() {
            true => Vec::new(),
            false => state.unread(&request.prompt),
        });
        states.push(state);
    }
    reader.read(&mut states, &unread)?;
    let mut slots = Vec::new();
    for ((place, request), state) in requests.into_iter().zip(states) {
        let request = Arc::new(request);
        for sample in 0..request.samples {
            let of = Of {
                request: place,
                sample,
            };
            slots.push(Slot::new(of, request.clone(), state.clone())?);
        }
    }
    Ok(slots)
}

/// Draws the next token of each slot, where that is to be done.
fn draw(slots: &mut [Slot], decoder: &Decoder<'_>) -> Result<Vec<Option<Drawn>>> {
    let mut places = slots.iter().enumerate();
    if places.any(|(i, slot)| slot.asks_for_logits(decoder, i)) {
        decoder.logits(0)?; // brought from a GPU once, not by each thread
    }
    match slots {
        // Threads that are woken for it would be in the way of the decoder's.
        [slot] => Ok(vec![slot.draw(decoder, 0)?]),
        slots => {
            let each = slots.par_iter_mut().enumerate();
            each.map(|(i, slot)| slot.draw(decoder, i)).collect()
        }
    }
}

/// Takes those that have ended out of the decoder.
fn leave(
    slots: &mut Vec<Slot>,
    decoder: &mut Decoder<'_>,
) -> Result<Vec<(Of, End, SequenceState)>> {
    // Before any of them leaves: the decoder's logits stay where they are.
    for (i, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| slot.passed) {
        slot.state.next = Next::Logits(decoder.last_logits(i)?.into());
    }
    let (mut left, mut i) = (Vec::new(), 0);
    while let Some(slot) = slots.get(i) {
        let Some(end) = slot.end else {
            i += 1;
            continue;
        };
        let mut slot = slots.swap_remove(i); // as the decoder does
        slot.state.row = decoder.leave(i)?;
        left.push((slot.of, end, slot.state));
    }
    Ok(left)
}

/// A sequence's place in a batch.
struct Slot {
    of: Of,
    request: Arc<Request>,
    sampler: Sampler,
    rng: ChaCha8Rng,
    /// What the model remembers stands in the decoder while the slot is in it, and so do the logits behind a token that
    /// was drawn and read.
    state: SequenceState,
    /// Whether the decoder has read the token that was drawn last.
    stepped: bool,
    /// Whether the decoder has read the token behind which it ended, as it was ahead.
    passed: bool,
    /// The place in the decoder for which the device was told how to draw.
    place: Option<usize>,
    /// Tokens that are still to be drawn.
    left: usize,
    end: Option<End>,
}

impl Slot {
    fn new(of: Of, request: Arc<Request>, state: SequenceState) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(request.seed.wrapping_add(of.sample as u64));
        rng.set_word_pos(2 * u128::from(state.drawn)); // a number has 64 bits, a word 32
        Ok(Self {
            of,
            sampler: Sampler::new(request.sampling.clone())?,
            rng,
            state,
            stepped: false,
            passed: false,
            place: None,
            left: request.tokens,
            end: (request.tokens == 0).then_some(End::Length),
            request,
        })
    }

    /// Whether the decoder's logits are asked for: besides the token, or to draw it here.
    fn asks_for_logits(&self, decoder: &Decoder<'_>, place: usize) -> bool {
        let by_device = || !matches!(decoder.drawn(place), Ok(None));
        self.stepped && (self.request.log_probs.is_some() || !by_device())
    }

    /// Whether its next token is drawn without the host, and is not the last that is asked for.
    fn goes_on(&self) -> bool {
        let asks = self.request.log_probs.is_some() || self.request.sampling.adjusts();
        self.end.is_none() && self.left > 1 && !asks
    }

    /// Draws the next token, where that is to be done; `place` is the slot's own.
    fn draw(&mut self, decoder: &Decoder<'_>, place: usize) -> Result<Option<Drawn>> {
        let state = &mut self.state;
        let of_prompt = match &state.next {
            _ if self.end.is_some() => return Ok(None),
            Next::Logits(logits) => Some(logits.clone()), // read before the slot was entered
            Next::Token(_) if self.stepped => None,
            Next::Token(_) | Next::Read => return Ok(None),
        };
        let logits = || match &of_prompt {
            Some(logits) => Ok(&logits[..]),
            None => decoder.logits(place),
        };
        let on_device = match of_prompt {
            Some(_) => None,
            None => decoder.drawn(place)?,
        };
        let token = match on_device {
            Some(token) => token,
            None => {
                let logits = &logits()?[..decoder.drawable()];
                (self.sampler).sample(logits, &state.history, &mut self.rng)?
            }
        };
        state.history.draw(token);
        (state.next, state.drawn) = (Next::Token(token), state.drawn + 1);
        let log_probs = self.request.log_probs.map(|top| {
            let logits = logits()?;
            let normaliser = log_sum_exp(logits);
            let drawn = f64::from(logits[token as usize]) - normaliser;
            let top = most_probable_of(logits, top, normaliser);
            Ok::<_, Error>(LogProbs { drawn, top })
        });
        let log_probs = log_probs.transpose()?;
        Ok(Some(Drawn { token, log_probs }))
    }

    /// Has a GPU draw what comes behind the token that is read next, for this place in the decoder.
    fn draw_at(&mut self, decoder: &mut Decoder<'_>, place: usize) -> Result<()> {
        if self.place == Some(place) {
            return Ok(());
        }
        self.place = Some(place);
        let (options, state) = (&self.request.sampling, &self.state);
        decoder.draw_by(
            place,
            options,
            &state.history,
            (self.rng.get_seed(), state.drawn),
        )
    }

    /// The token that the decoder is to read.
    fn read(&mut self) -> u32 {
        (self.stepped, self.state.position) = (true, self.state.position + 1);
        self.passed = self.end.is_some();
        match self.state.next {
            Next::Token(token) => token,
            Next::Read | Next::Logits(_) => unreachable!("who has not ended has drawn a token"),
        }
    }

    /// Counts a token that was told of, which may be the last.
    fn count(&mut self, token: u32, flow: ControlFlow<()>) {
        self.left -= 1;
        self.end = match flow {
            _ if self.request.ends.contains(&token) => Some(End::Token),
            ControlFlow::Break(()) => Some(End::Broken),
            ControlFlow::Continue(()) => (self.left == 0).then_some(End::Length),
        };
    }
}
