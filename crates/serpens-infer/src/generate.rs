//! Drawing the tokens of many sequences at once.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use serpens_core::{DType, Device, Tensor};
use serpens_nn::{LmState, MambaLm, StateRow};
use serpens_ops::elementwise::cast;
use serpens_ops::embedding::check_ids;
use serpens_ops::linear::cpu::FEW_ROWS;
use smart_default::SmartDefault;

use crate::pass::Reader;
use crate::state::Next;
use crate::{Error, Result, SampleOptions, Sampler, SequenceState, log_sum_exp, most_probable};

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
    /// The seed of the first sample; each other has the next one. A state that goes on draws from its seed's stream where
    /// it left it.
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
    /// Sequences that are drawn from at once, from 1 to 128.
    #[default = 32]
    pub slots: usize,
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
    /// Its end, and the state there: the last token is drawn, but not read.
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
}

/// Draws what is asked for. Prompts are read packed, without padding; then all slots draw a token at a time together.
/// Who is finished leaves its slot, and who waits enters: requests are taken from the iterator when there is room.
/// `listener` hears of each token when it is drawn, and ends a sample by breaking it off.
///
/// A sample depends on its request alone, not on those around it: on the processor to the bit. On a GPU, whose library
/// of products chooses how to sum by the number of rows, prompts are read one by one, and all slots are stepped whether
/// they are taken or not, so that the numbers of rows are always the same for as many slots.
///
/// # Errors
/// [`Error::EmptyPrompt`]; [`Error::SampleOption`], [`Error::Logits`]; tokens that the model does not know; those of the
/// listener, all of which end everything; memory.
pub fn generate<E: From<Error>>(
    model: &MambaLm,
    requests: impl IntoIterator<Item = Request>,
    batching: Batching<'_>,
    mut listener: impl FnMut(Of, Told<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let on_pass = batching.on_pass;
    let reader = Reader { model, on_pass };
    let mut batch = Batch {
        reader,
        most: batching.slots.clamp(1, FEW_ROWS),
        slots: Vec::new(),
        state: None,
    };
    let mut requests = requests.into_iter().enumerate();
    let mut ready: VecDeque<Slot> = VecDeque::new();
    loop {
        let taken = batch.slots.iter().filter(|slot| slot.end.is_none());
        let (mut entering, room) = (Vec::new(), batch.most - taken.count());
        while entering.len() < room {
            let Some(mut slot) = ready.pop_front() else {
                let next = requests.by_ref().take(room - entering.len());
                let next: Vec<(usize, Request)> = next.collect();
                if next.is_empty() {
                    break;
                }
                ready.extend(read(reader, next)?);
                continue;
            };
            if slot.left == 0 {
                slot.end = Some(End::Length);
            } else if let Next::Logits(logits) = slot.state.next.clone() {
                let drawn = slot.draw(&logits)?;
                slot.tell(&drawn, &mut listener)?;
            }
            match slot.end {
                Some(end) => listener(slot.of, Told::End(end, slot.state)).map(drop)?,
                None => entering.push(slot),
            }
        }
        for slot in batch.turn_over(entering)? {
            let end = slot.end.expect("it leaves as it has ended");
            listener(slot.of, Told::End(end, slot.state)).map(drop)?;
        }
        if batch.slots.is_empty() {
            return Ok(());
        }
        let logits = batch.step()?;
        let each = logits.par_chunks(model.config().vocab_size);
        let drawn = batch.slots.par_iter_mut().zip(each);
        let drawn: Result<Vec<Drawn>> = drawn.map(|(slot, logits)| slot.draw(logits)).collect();
        for (slot, drawn) in batch.slots.iter_mut().zip(drawn?) {
            slot.tell(&drawn, &mut listener)?;
        }
    }
}

/// Reads the prompts: a slot for each sample that can begin.
fn read(reader: Reader<'_>, requests: Vec<(usize, Request)>) -> Result<Vec<Slot>> {
    let (mut states, mut unread) = (Vec::new(), Vec::new());
    for (_, request) in &requests {
        let biases = request.sampling.logit_bias.iter();
        let biased: Vec<u32> = biases.map(|(token, _)| *token).collect();
        check_ids(&biased, reader.model.config().vocab_size)?;
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

/// A sequence's place in a batch.
struct Slot {
    of: Of,
    request: Arc<Request>,
    sampler: Sampler,
    rng: ChaCha8Rng,
    /// What the model remembers stands in the batch while the slot is in it.
    state: SequenceState,
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
            left: request.tokens,
            end: None,
            request,
        })
    }

    fn draw(&mut self, logits: &[f32]) -> Result<Drawn> {
        let state = &mut self.state;
        let token = self.sampler.sample(logits, &state.history, &mut self.rng)?;
        state.history.draw(token);
        (state.next, state.drawn) = (Next::Token(token), state.drawn + 1);
        let log_probs = self.request.log_probs.map(|top| LogProbs {
            drawn: f64::from(logits[token as usize]) - log_sum_exp(logits),
            top: most_probable(logits, top),
        });
        Ok(Drawn { token, log_probs })
    }

    /// Tells of a token, which may be the last.
    fn tell<E>(
        &mut self,
        drawn: &Drawn,
        listener: &mut impl FnMut(Of, Told<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let flow = listener(self.of, Told::Token(drawn))?;
        self.left -= 1;
        self.end = match flow {
            _ if self.request.ends.contains(&drawn.token) => Some(End::Token),
            ControlFlow::Break(()) => Some(End::Broken),
            ControlFlow::Continue(()) => (self.left == 0).then_some(End::Length),
        };
        Ok(())
    }
}

/// The slots that are taken, and what the model remembers of them.
struct Batch<'a> {
    reader: Reader<'a>,
    most: usize,
    slots: Vec<Slot>,
    state: Option<LmState>,
}

impl Batch<'_> {
    /// Takes those out that have ended, and lets others enter.
    fn turn_over(&mut self, entering: Vec<Slot>) -> Result<Vec<Slot>> {
        if entering.is_empty() && self.slots.iter().all(|slot| slot.end.is_none()) {
            return Ok(Vec::new());
        }
        if let Some(state) = self.state.take() {
            for (slot, row) in self.slots.iter_mut().zip(state.scatter()?) {
                slot.state.row = row;
            }
        }
        let slots = std::mem::take(&mut self.slots).into_iter().chain(entering);
        let (leaving, stay) = slots.partition(|slot| slot.end.is_some());
        self.slots = stay;
        let mut rows: Vec<&StateRow> = self.slots.iter().map(|slot| &slot.state.row).collect();
        let idle;
        if self.reader.model.device() != Device::Cpu {
            idle = SequenceState::new(self.reader.model)?.row;
            rows.resize(self.most, &idle);
        }
        if !self.slots.is_empty() {
            self.state = Some(LmState::gather(&rows)?);
        }
        Ok(leaving)
    }

    /// Reads the token that each slot drew, and gives the logits of the next, slot by slot.
    fn step(&mut self) -> Result<Vec<f32>> {
        let state = self
            .state
            .as_mut()
            .expect("slots that are taken have a state");
        let mut tokens = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
            slot.state.position += 1;
            match slot.state.next {
                Next::Token(token) => tokens.push(token),
                Next::Read | Next::Logits(_) => unreachable!("a slot is entered with a token"),
            }
        }
        let model = self.reader.model;
        if model.device() != Device::Cpu {
            tokens.resize(self.most, 0);
        }
        let tokens = Tensor::from_slice([tokens.len()], &tokens, Device::Cpu)?;
        let logits = cast(&model.step(&tokens, state)?.into(), DType::F32)?;
        Ok(logits.tensor()?.to_vec()?)
    }
}
