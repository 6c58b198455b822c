//! Learnt absolute positions.

use serpens_core::{DType, Device, Tensor, Var};
use serpens_ops::positions::{PositionsOptions, positions, step};

use super::Sequence;
use crate::{Error, Param, Result, Start, module};

/// A vector for each position, added to a token's own. See [`serpens_ops::positions`].
#[derive(Clone, Debug)]
pub struct Positions {
    pub(crate) weight: Param, // (positions, d_model)
}

module!(Positions { weight => "weight" });

impl Positions {
    /// Vectors for `count` positions, which is what sequences have at most; they start normal with mean 0 and this
    /// standard deviation.
    pub fn plan(count: usize, d_model: usize, std: f32) -> Self {
        let weight = Param::new([count, d_model], Start::Normal { std }).without_decay();
        Self { weight }
    }

    /// How many tokens each of `batch` sequences has read: none. u32 (batch).
    pub(crate) fn initial_state(&self, batch: usize, device: Device) -> Result<Var> {
        Ok(Tensor::zeros([batch], DType::U32, device)?.into())
    }

    /// # Shapes
    /// (batch, length, d_model) → the same
    pub(crate) fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        read: Option<&mut Var>,
    ) -> Result<Var> {
        let table = self.weight.var()?;
        let Some(read) = read else {
            let options = PositionsOptions {
                from: 0,
                starts: sequence.starts,
            };
            return Ok(positions(x, &table, &options)?);
        };
        if sequence.starts.is_some() || x.tape().is_some() {
            let what = "positions that go on are of no packed sequences, and have no gradients";
            return Err(Error::Unsupported(what));
        }
        let shape = x.shape();
        let [batch, length, width] = shape.axes("positions", "x", "(batch, length, d_model)")?;
        let lengths = sequence.lengths_of([batch, length], read.shape()[0])?;
        let flat = x.tensor()?.reshape([batch * length, width])?;
        let mut of_all = read.tensor()?.to_vec::<u32>()?;
        let (mut at, mut outputs) = (0, Vec::new());
        for (read, length) in of_all.iter_mut().zip(lengths) {
            let own = flat.narrow(at..at + length)?.reshape([1, length, width])?;
            let options = PositionsOptions {
                from: *read as usize,
                starts: None,
            };
            self.check_room(options.from + length)?;
            outputs.push(positions(&own.into(), &table, &options)?.into_tensor()?);
            *read += length as u32;
            at += length;
        }
        let rows = outputs
            .iter()
            .map(|rows| rows.reshape([rows.len() / width, width]));
        let rows: Vec<Tensor> = rows.collect::<Result<_, _>>()?;
        *read = Tensor::from_slice([of_all.len()], &of_all, x.device())?.into();
        Ok(Tensor::concat(&rows)?.reshape(shape)?.into())
    }

    /// How many more tokens every sequence can read.
    pub(crate) fn left(&self, read: &Tensor) -> Result<usize> {
        let read = read.to_vec::<u32>()?;
        let most = read.into_iter().max().unwrap_or(0);
        Ok(self.weight.shape().rows().saturating_sub(most as usize))
    }

    /// Adds those of the first `slots` tokens, one of each sequence, in place.
    ///
    /// # Shapes
    /// h (S, d_model) of f32, read (S) of u32
    pub(crate) fn step(&self, h: &mut Tensor, read: &mut Tensor, slots: usize) -> Result<()> {
        let h = h.view_mut()?.first_rows(slots);
        let read = read.view_mut()?.columns(0..slots);
        Ok(step(h, self.weight.value()?.view(), read)?)
    }

    fn check_room(&self, tokens: usize) -> Result<()> {
        match tokens <= self.weight.shape().rows() {
            true => Ok(()),
            false => Err(Error::Full {
                tokens: self.weight.shape().rows(),
                learnt: true,
            }),
        }
    }
}
