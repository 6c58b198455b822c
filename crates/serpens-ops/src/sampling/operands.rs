//! What a draw reads beside logits: options and history; and what can be wrong with it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Bound::{Excluded, Included};
use std::ops::RangeBounds;

use smart_default::SmartDefault;

/// How many tokens back the repetition penalty looks.
pub const WINDOW: usize = 64;

/// How to draw. The default draws from the model's own distribution.
#[derive(Clone, Debug, PartialEq, SmartDefault)]
pub struct SampleOptions {
    /// T ≥ 0; 0 takes the most probable token.
    #[default = 1.0]
    pub temperature: f32,
    /// Number of most probable tokens kept; 0 keeps all.
    pub top_k: usize,
    /// Probability mass kept, in (0, 1]; 1 keeps all.
    #[default = 1.0]
    pub top_p: f32,
    /// Least probability kept, relative to the largest, in [0, 1); 0 keeps all.
    pub min_p: f32,
    /// θ > 0; above 1 makes recent tokens less probable.
    #[default = 1.0]
    pub repetition_penalty: f32,
    /// Above 0 makes tokens that were drawn less probable.
    pub presence_penalty: f32,
    /// Above 0 makes tokens less probable the more often they were drawn.
    pub frequency_penalty: f32,
    /// What is added to the logits of these tokens; −∞ forbids one.
    pub logit_bias: Vec<(u32, f32)>,
}

impl SampleOptions {
    /// Refuses options outside their ranges.
    ///
    /// # Errors
    /// [`BadOption`].
    pub fn check(&self) -> Result<(), BadOption> {
        let (temperature, penalty) = (self.temperature, self.repetition_penalty);
        let (top_p, min_p) = (self.top_p, self.min_p);
        let mut biases = self.logit_bias.iter().map(|(_, bias)| *bias);
        let (name, value, expected) = if !(0.0..f32::INFINITY).contains(&temperature) {
            ("temperature", temperature, "it is at least 0")
        } else if !(Excluded(0.0), Included(1.0)).contains(&top_p) {
            ("top-p", top_p, "it lies above 0 and up to 1")
        } else if !(0.0..1.0).contains(&min_p) {
            ("min-p", min_p, "it lies from 0 to below 1")
        } else if !(Excluded(0.0), Excluded(f32::INFINITY)).contains(&penalty) {
            ("repetition penalty", penalty, "it is above 0")
        } else if !self.presence_penalty.is_finite() {
            ("presence penalty", self.presence_penalty, "it is finite")
        } else if !self.frequency_penalty.is_finite() {
            ("frequency penalty", self.frequency_penalty, "it is finite")
        } else if let Some(bias) = biases.find(|bias| bias.is_nan() || *bias == f32::INFINITY) {
            ("logit bias", bias, "it is finite, or -inf for none of it")
        } else {
            return Ok(());
        };
        Err(BadOption {
            name,
            value,
            expected,
        })
    }

    /// Whether bias or penalties change logits.
    pub fn adjusts(&self) -> bool {
        !self.logit_bias.is_empty() || self.repetition_penalty != 1.0 || self.counts()
    }

    /// Whether tokens that were drawn are counted.
    pub(super) fn counts(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// An option of sampling outside its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BadOption {
    /// The option.
    pub name: &'static str,
    /// Its value.
    pub value: f32,
    /// What it may be.
    pub expected: &'static str,
}

impl fmt::Display for BadOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, value, expected) = (self.name, self.value, self.expected);
        write!(f, "{name} = {value} is not possible: {expected}")
    }
}

impl std::error::Error for BadOption {}

/// The tokens before the next one, as far as penalties ask for them.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The last ones, [`WINDOW`] at most.
    recent: VecDeque<u32>,
    /// How often each was drawn.
    drawn: HashMap<u32, u32>,
}

impl History {
    /// Forgets what was drawn: another completion begins.
    pub fn begin(&mut self) {
        self.drawn.clear();
    }

    /// Goes on with tokens that were read.
    pub fn read(&mut self, tokens: &[u32]) {
        let kept = tokens.len().saturating_sub(WINDOW);
        self.recent.extend(&tokens[kept..]);
        self.recent
            .drain(..self.recent.len().saturating_sub(WINDOW));
    }

    /// Goes on with a token that was drawn.
    pub fn draw(&mut self, token: u32) {
        self.read(&[token]);
        *self.drawn.entry(token).or_default() += 1;
    }

    /// The last tokens, [`WINDOW`] at most.
    pub fn recent(&self) -> impl Iterator<Item = u32> {
        self.recent.iter().copied()
    }

    /// Each token that was drawn, and how often.
    pub fn drawn(&self) -> impl Iterator<Item = (u32, u32)> {
        self.drawn.iter().map(|(token, count)| (*token, *count))
    }
}

/// Logits that leave nothing to draw from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// One of them is NaN.
    Nan,
    /// The largest is +∞ or −∞.
    NotFinite,
    /// There are none.
    Empty,
    /// They are as they should be, but not so behind bias and penalties.
    Adjusted,
}

impl Broken {
    /// What a GPU writes in place of a token.
    pub(super) const CODES: [(u32, Self); 2] =
        [(u32::MAX, Broken::Nan), (u32::MAX - 1, Broken::NotFinite)];
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = match self {
            Broken::Nan => "NaN",
            Broken::NotFinite => "no finite largest value",
            Broken::Empty => "nothing",
            Broken::Adjusted => {
                return f.write_str("bias and penalties leave no token with a finite logit: forbid fewer, or choose milder ones");
            }
        };
        write!(
            f,
            "the model's logits hold {held}: its weights are damaged or training diverged"
        )
    }
}

impl std::error::Error for Broken {}

/// What a GPU drew: a token, or that there was none to draw.
///
/// # Errors
/// [`Broken`].
pub fn token(drawn: u32) -> Result<u32, Broken> {
    match Broken::CODES.iter().find(|(code, _)| *code == drawn) {
        Some((_, broken)) => Err(*broken),
        None => Ok(drawn),
    }
}
