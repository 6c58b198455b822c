//! A sequence that was read, as a value.

use std::path::Path;
use std::sync::Arc;

use serpens_core::{DType, Device, Tensor};
use serpens_data::Tokenizer;
use serpens_formats::Verify;
use serpens_formats::safetensors::{open, write_tensors};
use serpens_nn::{MambaLm, Module, StateRow};
use serpens_ops::elementwise::cast;
use serpens_ops::linear::Held;
use twox_hash::XxHash3_64;

use crate::pass::Reader;
use crate::{Error, History, Result};

/// The version of the files.
const VERSION: u64 = 1;
/// The tensor that says what a file is of.
const RECORD: &str = "serpens.state";
/// No sequence has more tokens than this: numbers of them may be added to.
const MOST: u64 = u64::MAX >> 2;
/// Values of each parameter that a fingerprint looks at.
const SAMPLE: usize = 256;

/// A sequence as far as it was read or drawn: what the model remembers of it, and what its next token is drawn from.
/// Cloning copies no values; clones go on apart from each other, on any thread.
///
/// # Files
/// [`SequenceState::save`] writes a safetensors file of these tensors:
///
/// - `serpens.state`: u32 (6, 2), six numbers of 64 bits, each its low half first: the version of this format, 1; the
///   fingerprint of the model ([`fingerprint`]); that of the tokenizer ([`Tokenizer::fingerprint`]), 0 without one; how
///   many tokens were read; how many were drawn; one more than the token that was drawn last and is to be read next, 0
///   where there is none;
/// - `recent`: u32 (up to 64), the tokens that the repetition penalty looks at;
/// - `logits`: f32 (vocabulary), those of the next token; (0) where a token is to be read first;
/// - `layers.0.0` and so on: (1, …), what each layer remembers, in its own order and types; of attention its whole cache.
#[derive(Clone, Debug)]
pub struct SequenceState {
    pub(crate) row: StateRow,
    pub(crate) next: Next,
    pub(crate) history: History,
    pub(crate) position: u64,
    /// Numbers that were taken from the seed's stream.
    pub(crate) drawn: u64,
}

/// What comes next.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// A token that is to be read: nothing was read yet.
    Read,
    /// A token that was drawn, and is to be read.
    Token(u32),
    /// A token that is to be drawn from these.
    Logits(Arc<[f32]>),
}

impl SequenceState {
    /// The state before the first token.
    ///
    /// # Errors
    /// Memory.
    pub fn new(model: &MambaLm) -> Result<Self> {
        Ok(Self {
            row: model.initial_state(1)?.scatter()?.remove(0),
            next: Next::Read,
            history: History::default(),
            position: 0,
            drawn: 0,
        })
    }

    /// The state after these tokens too, and before them the one that was drawn last.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`] where there is no token to read; tokens that the model does not know; a state of another
    /// model; memory.
    pub fn read(&self, model: &MambaLm, ids: &[u32]) -> Result<Self> {
        let (mut states, unread) = ([self.clone()], self.unread(ids));
        if unread.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        Reader::new(model).read(&mut states, &[unread])?;
        let [state] = states;
        Ok(state)
    }

    /// These tokens, and before them the one that was drawn last.
    pub(crate) fn unread(&self, ids: &[u32]) -> Vec<u32> {
        match self.next {
            Next::Token(token) => [&[token], ids].concat(),
            Next::Read | Next::Logits(_) => ids.to_vec(),
        }
    }

    /// How many tokens were read or drawn.
    pub fn position(&self) -> u64 {
        self.position + u64::from(matches!(self.next, Next::Token(_)))
    }

    /// The logits of the next token; none before the first token and behind one that was drawn, until that is read.
    pub fn logits(&self) -> Option<&[f32]> {
        match &self.next {
            Next::Logits(logits) => Some(logits),
            Next::Read | Next::Token(_) => None,
        }
    }

    /// Writes the file, which appears complete or not at all.
    ///
    /// # Errors
    /// Those of the file; memory.
    pub fn save(&self, path: &Path, model: &MambaLm, tokenizer: Option<&Tokenizer>) -> Result<()> {
        let next = match self.next {
            Next::Token(token) => u64::from(token) + 1,
            Next::Read | Next::Logits(_) => 0,
        };
        let tokenizer = tokenizer.map_or(0, Tokenizer::fingerprint);
        let model = fingerprint(model)?;
        let record = [VERSION, model, tokenizer, self.position, self.drawn, next];
        let halves = record.map(|number| [number as u32, (number >> 32) as u32]);
        let recent: Vec<u32> = self.history.recent().collect();
        let logits = self.logits().unwrap_or_default();
        let values = [
            Tensor::from_slice([6, 2], halves.as_flattened(), Device::Cpu)?,
            Tensor::from_slice([recent.len()], &recent, Device::Cpu)?,
            Tensor::from_slice([logits.len()], logits, Device::Cpu)?,
        ];
        let names = [RECORD, "recent", "logits"].map(str::to_owned);
        let mut tensors: Vec<_> = names.into_iter().zip(values).collect();
        self.row.try_map(|name, tensor| {
            tensors.push((name, tensor.clone()));
            Ok::<_, Error>(tensor.clone())
        })?;
        Ok(write_tensors(path, &tensors)?)
    }

    /// Reads a file that [`SequenceState::save`] wrote, to go on with the same model and tokenizer.
    ///
    /// # Errors
    /// [`Error::ForeignState`]; [`Error::NoState`]; those of the file.
    pub fn load(path: &Path, model: &MambaLm, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let file = open(path, Verify::Digests)?;
        let refused = |tensor: &str| Error::NoState {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
        };
        let words = |name: &str| {
            let tensor = file.tensor(name, Device::Cpu)?;
            tensor.to_vec::<u32>().map_err(|_| refused(name))
        };
        let record = words(RECORD)?;
        let numbers = record.as_chunks().0.iter();
        let numbers = numbers.map(|[low, high]| u64::from(*high) << 32 | u64::from(*low));
        let [VERSION, of_model, of_tokenizer, position, drawn, next] =
            numbers.collect::<Vec<u64>>()[..]
        else {
            return Err(refused(RECORD));
        };
        if position.max(drawn) > MOST {
            return Err(refused(RECORD));
        }
        let tokenizer = tokenizer.map_or(0, Tokenizer::fingerprint);
        for (what, expected, found) in [
            ("model", fingerprint(model)?, of_model),
            ("tokenizer", tokenizer, of_tokenizer),
        ] {
            if found != expected {
                return Err(Error::ForeignState {
                    path: path.to_owned(),
                    what,
                    expected,
                    found,
                });
            }
        }
        let mut history = History::default();
        history.read(&words("recent")?);
        let logits = file.tensor("logits", Device::Cpu)?;
        let logits = logits.as_slice::<f32>().map_err(|_| refused("logits"))?;
        let vocabulary = model.config().vocab_size;
        let next = match (next.checked_sub(1), logits.len()) {
            (None, 0) => Next::Read,
            (None, length) if length == vocabulary => Next::Logits(logits.into()),
            (Some(token), 0) if token < vocabulary as u64 => Next::Token(token as u32),
            _ => return Err(refused("logits")),
        };
        let row = Self::new(model)?.row.try_map(|name, like| {
            let tensor = file.tensor(&name, model.device())?;
            let alike = (tensor.shape(), tensor.dtype()) == (like.shape(), like.dtype());
            alike.then_some(tensor).ok_or_else(|| refused(&name))
        })?;
        Ok(Self {
            row,
            next,
            history,
            position,
            drawn,
        })
    }
}

/// A number that tells models apart: the XXH3 (64 bits, seed 0) of the configuration as JSON and of the first 256
/// values of each parameter behind its name, little-endian: those of matrices in bf16, which may be all that is kept of
/// them ([`Checkpoint::load_to_infer`](serpens_nn::checkpoint::Checkpoint::load_to_infer)), all others in f32.
///
/// # Errors
/// A model without values.
pub fn fingerprint(model: &MambaLm) -> Result<u64> {
    let mut bytes = serde_json::to_vec(model.config()).expect("settings have string keys");
    model.visit("", &mut |name, param| {
        let value = match param.held()? {
            Held::Plain(value) => value,
            Held::Packed(value) => value.dequantize()?,
        };
        let first = value.reshape([value.len()])?;
        let first = first.narrow(0..value.len().min(SAMPLE))?.to(Device::Cpu)?;
        let dtype = if param.matrix {
            DType::BF16
        } else {
            DType::F32
        };
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(cast(&first.into(), dtype)?.tensor()?.as_bytes()?);
        Ok(())
    })?;
    Ok(XxHash3_64::oneshot(&bytes))
}
