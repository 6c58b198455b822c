//! Heads of attention over whole sequences, and with caches of keys and values as their state.

use std::ops::Range;

use serpens_core::{DType, Device, Tensor, Var, View, ViewMut};
use serpens_ops::attention::{AttentionOptions, StepOperands, StepOptions, attention, step};
use serpens_ops::elementwise::{cast, scale};
use serpens_ops::rope::{RopeOptions, rope};

use super::{AttentionTrace, MixerState};
use crate::layers::{Sequence, Trace};
use crate::setting::check;
use crate::{Error, Result};

/// The settings of heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadsPlan {
    /// Columns of each.
    pub(super) head: usize,
    /// Those of keys and values.
    pub(super) kv_heads: usize,
    /// The base of rope's angles, where there is rope.
    pub(super) rope: Option<f32>,
    /// Tokens that a cache holds where there is no window.
    pub(super) context: usize,
    /// Tokens that each sees at most.
    pub(super) window: Option<usize>,
}

impl HeadsPlan {
    /// # Errors
    /// [`Error::Config`], [`Error::Uneven`].
    pub(super) fn plan(self) -> Result<Heads> {
        let head = self.head;
        if let Some(base) = self.rope {
            check("rope_base", base.into(), 1.0..=1e12)?;
            if head % 2 == 1 {
                let what = format!("rope = true turns pairs of columns, and a head has {head}");
                return Err(Error::Uneven(what));
            }
        }
        let most = f64::from((1 << 30) - 1);
        check("context", self.context as f64, 1.0..=most)?;
        if let Some(window) = self.window {
            check("window", window as f64, 1.0..=most)?;
        }
        Ok(Heads {
            head,
            kv_heads: self.kv_heads,
            rope: self.rope,
            capacity: self.window.unwrap_or(self.context),
            window: self.window,
        })
    }
}

/// Causal attention of queries, keys and values from wherever they come.
#[derive(Clone, Debug)]
pub(super) struct Heads {
    head: usize,
    kv_heads: usize,
    /// The base of rope's angles.
    rope: Option<f32>,
    /// Tokens that a cache holds.
    capacity: usize,
    window: Option<usize>,
}

impl Heads {
    /// Columns of a token's keys, or values.
    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head
    }

    /// How many tokens were read, u32 (batch, 2) with a second number that is 0, and the last of their keys and values,
    /// each (batch, capacity, kv_heads · head): the n-th token's in place n mod capacity.
    pub(super) fn initial_state(
        &self,
        batch: usize,
        dtype: DType,
        device: Device,
    ) -> Result<MixerState> {
        let cache = || Tensor::zeros([batch, self.capacity, self.kv_width()], dtype, device);
        let read = Tensor::zeros([batch, 2], DType::U32, device)?;
        Ok(vec![read.into(), cache()?.into(), cache()?.into()])
    }

    /// What each query finds among the keys of its sequence up to its own, and in the cache where there is a state.
    ///
    /// # Shapes
    /// q (batch, length, heads · head), k, v (batch, length, kv_heads · head) → as q
    pub(super) fn forward(
        &self,
        [q, k, v]: [Var; 3],
        sequence: &Sequence<'_>,
        state: Option<&mut MixerState>,
    ) -> Result<Var> {
        if sequence.reverse {
            return Err(Error::Unsupported("attention is not read in reverse"));
        }
        if let Some(state) = state {
            return self.go_on([q, k, v], sequence, state);
        }
        if sequence.lengths.is_some() {
            let what = "sequences with lengths are read with a state for each, without gradients";
            return Err(Error::Unsupported(what));
        }
        if sequence.trace.is_some() {
            let what = "attention is traced where a sequence is read from a state";
            return Err(Error::Unsupported(what));
        }
        let options = AttentionOptions {
            starts: sequence.starts,
            ..self.options()
        };
        let [q, k] = [self.turned(q, 0)?, self.turned(k, 0)?];
        Ok(attention(&q, &k, &v, &options)?)
    }

    /// [`super::Mixer::attention_flops`] where queries have so many columns.
    pub(super) fn flops(&self, columns: usize, length: usize) -> f64 {
        let (length, most) = (
            length as f64,
            self.window.map_or(f64::MAX, |most| most as f64),
        );
        let most = length.min(most);
        let seen = most - most * (most - 1.0) / (2.0 * length.max(1.0)); // the first see fewer
        4.0 * columns as f64 * seen
    }

    fn options(&self) -> AttentionOptions<'static> {
        AttentionOptions {
            head: self.head,
            scale: None,
            window: self.window,
            starts: None,
        }
    }

    /// Queries or keys turned to positions from `from` on.
    fn turned(&self, x: Var, from: usize) -> Result<Var> {
        let Some(base) = self.rope else {
            return Ok(x);
        };
        let head = self.head;
        Ok(rope(&x, &RopeOptions { head, base, from })?)
    }

    /// What each sequence's queries find among what its cache holds and its own keys, which go into it.
    fn go_on(&self, qkv: [Var; 3], sequence: &Sequence<'_>, state: &mut MixerState) -> Result<Var> {
        if sequence.starts.is_some() || qkv.iter().any(|rows| rows.tape().is_some()) {
            let what = "attention with a cache reads no packed sequences, and has no gradients";
            return Err(Error::Unsupported(what));
        }
        let shape = qkv[0].shape();
        let [batch, length, width] = shape.axes("attention", "q", "(batch, length, columns)")?;
        let [read, keys, values] = parts(state)?;
        let lengths = sequence.lengths_of([batch, length], read.shape()[0])?;
        let mut read = read.tensor()?.to_vec::<u32>()?;
        let of_sequences = read.as_chunks_mut().0;
        for ([read, _], length) in of_sequences.iter().zip(&lengths) {
            self.check_room(*read as usize + length)?;
        }
        let caches = [keys.tensor()?, values.tensor()?];
        let flat = |rows: &Var| {
            let rows = scale(rows, 1.0)?.into_tensor()?; // a copy without gaps
            let columns = rows.shape().cols();
            Ok::<_, Error>(rows.reshape([batch * length, columns])?)
        };
        let flat = [flat(&qkv[0])?, flat(&qkv[1])?, flat(&qkv[2])?];
        let (mut at, mut outputs, mut moved) = (0, Vec::new(), [Vec::new(), Vec::new()]);
        for (i, ([read, _], length)) in of_sequences.iter_mut().zip(lengths).enumerate() {
            let from = *read as usize;
            let own = |part: usize| {
                let rows = flat[part].narrow(at..at + length)?;
                let columns = rows.shape().cols();
                Ok::<_, Error>(Var::from(rows.reshape([1, length, columns])?))
            };
            let mut joined = [self.turned(own(1)?, from)?, own(2)?];
            for ((new, cache), moved) in joined.iter_mut().zip(caches).zip(&mut moved) {
                let mut cache = Cache::of(cache, i)?;
                let rows = new.tensor()?.reshape([length, self.kv_width()])?;
                *new = cache.join(from, self.window, &rows)?;
                cache.write(from, &rows)?;
                moved.push(cache.rows);
            }
            let ([k, v], q) = (joined, self.turned(own(0)?, from)?);
            sequence.tell(|| self.trace(&q, &k, from))?;
            let y = attention(&q, &k, &v, &self.options())?;
            outputs.push(y.into_tensor()?.reshape([length, width])?);
            *read += length as u32;
            at += length;
        }
        let [keys, values] = moved.map(|rows| {
            let joined = Tensor::concat(&rows)?;
            joined.reshape(caches[0].shape())
        });
        let read = Tensor::from_slice([read.len() / 2, 2], &read, qkv[0].device())?;
        *state = vec![read.into(), keys?.into(), values?.into()];
        Ok(Var::from(Tensor::concat(&outputs)?).reshape(shape)?)
    }

    /// What queries from `from` on give to the keys up to theirs.
    fn trace(&self, q: &Var, k: &Var, from: usize) -> Result<Trace> {
        let flat = |x: &Var| x.tensor()?.reshape([x.shape().rows(), x.shape().cols()]);
        Ok(Trace::Attention(AttentionTrace {
            first: from,
            window: self.window,
            head: self.head,
            queries: flat(q)?,
            keys: flat(k)?,
        }))
    }

    /// Refuses a sequence of so many tokens that its cache does not hold.
    fn check_room(&self, tokens: usize) -> Result<()> {
        match self.window.is_some() || tokens <= self.capacity {
            true => Ok(()),
            false => Err(Error::Full {
                tokens: self.capacity,
                learnt: false,
            }),
        }
    }

    /// How many more tokens every sequence of this state can read; none where they have no end.
    pub(super) fn left(&self, state: &[Tensor]) -> Result<Option<usize>> {
        if self.window.is_some() {
            return Ok(None);
        }
        let read = state.first().map_or(Ok(vec![]), Tensor::to_vec::<u32>)?;
        let most = read.iter().max().map_or(0, |read| *read as usize);
        Ok(Some(self.capacity.saturating_sub(most)))
    }

    /// What the query of one token of each of the first slots finds, in place.
    ///
    /// # Shapes
    /// q and o (slots, heads · head), k and v (slots, kv_heads · head)
    pub(super) fn step(
        &self,
        [q, k, v]: [View<'_>; 3],
        o: ViewMut<'_>,
        state: &mut [Tensor],
    ) -> Result<()> {
        let slots = q.rows();
        let [read, keys, values] = parts(state)?.each_mut().map(|all| {
            let rows = all.shape()[0];
            all.view_mut()
                .map(|all| all.with_rows(rows).first_rows(slots))
        });
        let operands = StepOperands {
            q,
            k,
            v,
            read: read?,
            keys: keys?,
            values: values?,
        };
        let options = StepOptions {
            head: self.head,
            kv_heads: self.kv_heads,
            scale: None,
            window: self.window,
            rope: self.rope,
        };
        Ok(step(operands, o, &options)?)
    }
}

/// The tensors of a state.
fn parts<T>(state: &mut [T]) -> Result<&mut [T; 3]> {
    let found = state.len();
    state
        .try_into()
        .map_err(|_| Error::state("tensors", 3, found))
}

/// A sequence's keys, or its values: (capacity, columns), the n-th token's in place n mod capacity.
struct Cache {
    rows: Tensor,
}

impl Cache {
    /// That of the `i`-th sequence of (batch, capacity, columns), by itself.
    fn of(all: &Tensor, i: usize) -> Result<Self> {
        let shape = [all.shape()[1], all.shape()[2]];
        let rows = all.narrow(i..i + 1)?.reshape(shape)?;
        Ok(Self { rows })
    }

    /// The places of so many tokens from this one on.
    fn places(&self, from: usize, count: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let capacity = self.rows.shape()[0];
        let first = from % capacity;
        let end = (first + count).min(capacity);
        let places = [first..end, 0..first + count - end];
        places.into_iter().filter(|places| !places.is_empty())
    }

    /// What is held of the tokens before `from` that the first of `rows` sees, and these: (1, tokens, columns).
    fn join(&self, from: usize, window: Option<usize>, rows: &Tensor) -> Result<Var> {
        let past = window.map_or(from, |window| from.min(window - 1));
        let held = self.places(from - past, past);
        let held = held.map(|places| {
            let held = self.rows.narrow(places)?;
            Ok(cast(&held.into(), rows.dtype())?.into_tensor()?)
        });
        let mut all: Vec<Tensor> = held.collect::<Result<_>>()?;
        all.push(rows.clone());
        let joined = Tensor::concat(&all)?;
        let [tokens, columns] = [joined.shape()[0], joined.shape()[1]];
        Ok(joined.reshape([1, tokens, columns])?.into())
    }

    /// Holds these rows, of tokens from `from` on, or the last of them.
    fn write(&mut self, from: usize, rows: &Tensor) -> Result<()> {
        let all = rows.shape()[0];
        let kept = all.min(self.rows.shape()[0]);
        let rows = cast(&rows.clone().into(), self.rows.dtype())?.into_tensor()?;
        let mut at = all - kept;
        for places in self.places(from + at, kept) {
            let end = at + places.len();
            self.rows.put(places.start, &rows.narrow(at..end)?)?;
            at = end;
        }
        Ok(())
    }
}
