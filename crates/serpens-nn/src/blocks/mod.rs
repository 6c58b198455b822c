//! Residual blocks: what stands between two normalisations of a model.

mod h3;
mod mamba;
mod plain;

use serde::{Deserialize, Serialize};
use serpens_core::{Device, Var};

pub use h3::{H3Block, H3BlockConfig};
pub use mamba::{MambaBlock, MambaBlockConfig};
pub use plain::{PlainBlock, PlainBlockConfig};

use crate::layers::{InnerConfig, Sequence};
use crate::{Error, Module, Result, Visit, VisitMut};

/// What a block remembers of the tokens it has read: one state per layer over time, in the block's order.
pub type BlockState = Vec<Var>;

/// Which block a model is made of, and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BlockConfig {
    /// The Mamba block.
    Mamba(MambaBlockConfig),
    /// The H3 block.
    H3(H3BlockConfig),
    /// No gate and no convolution.
    Plain(PlainBlockConfig),
}

impl BlockConfig {
    /// A block for a model of width `d_model`; the weights of its output projection are divided by `output_divisor`.
    pub fn plan(&self, d_model: usize, output_divisor: f32) -> Result<Block> {
        Ok(match self {
            BlockConfig::Mamba(config) => {
                Block::Mamba(Box::new(config.plan(d_model, output_divisor)?))
            }
            BlockConfig::H3(config) => Block::H3(Box::new(config.plan(d_model, output_divisor)?)),
            BlockConfig::Plain(config) => {
                Block::Plain(Box::new(config.plan(d_model, output_divisor)?))
            }
        })
    }

    /// The state space model inside.
    pub fn inner(&self) -> &InnerConfig {
        match self {
            BlockConfig::Mamba(config) => &config.inner,
            BlockConfig::H3(config) => &config.inner,
            BlockConfig::Plain(config) => &config.inner,
        }
    }
}

/// A residual block.
#[derive(Clone, Debug)]
pub enum Block {
    /// The Mamba block.
    Mamba(Box<MambaBlock>),
    /// The H3 block.
    H3(Box<H3Block>),
    /// No gate and no convolution.
    Plain(Box<PlainBlock>),
}

impl Module for Block {
    fn visit(&self, path: &str, f: &mut Visit<'_>) -> Result<()> {
        match self {
            Block::Mamba(block) => block.visit(path, f),
            Block::H3(block) => block.visit(path, f),
            Block::Plain(block) => block.visit(path, f),
        }
    }

    fn visit_mut(&mut self, path: &str, f: &mut VisitMut<'_>) -> Result<()> {
        match self {
            Block::Mamba(block) => block.visit_mut(path, f),
            Block::H3(block) => block.visit_mut(path, f),
            Block::Plain(block) => block.visit_mut(path, f),
        }
    }
}

impl Block {
    /// The state before the first token.
    pub fn initial_state(&self, batch: usize, device: Device) -> Result<BlockState> {
        match self {
            Block::Mamba(block) => block.initial_state(batch, device),
            Block::H3(block) => block.initial_state(batch, device),
            Block::Plain(block) => block.initial_state(batch, device),
        }
    }

    /// Reads a sequence of normalised inputs. With `state`, it continues the sequence that left it, and it is replaced.
    ///
    /// # Shapes
    /// (batch, length, d_model) → the same
    pub fn forward(
        &self,
        x: &Var,
        sequence: &Sequence<'_>,
        state: Option<&mut BlockState>,
    ) -> Result<Var> {
        match self {
            Block::Mamba(block) => block.forward(x, sequence, state),
            Block::H3(block) => block.forward(x, sequence, state),
            Block::Plain(block) => block.forward(x, sequence, state),
        }
    }

    /// Reads one token of each sequence.
    ///
    /// # Shapes
    /// (batch, d_model) → the same
    pub fn step(&self, x: &Var, state: &mut BlockState) -> Result<Var> {
        let [batch, width] = *x.shape() else {
            return Err(
                serpens_core::Error::shape("step", "x", "(batch, d_model)", x.shape()).into(),
            );
        };
        let y = self.forward(
            &x.reshape([batch, 1, width])?,
            &Sequence::default(),
            Some(state),
        )?;
        Ok(y.reshape([batch, width])?)
    }
}

/// The inner width of a block; what exceeds the address space is told when memory is asked for.
fn inner_width(d_model: usize, expand: usize) -> Result<usize> {
    match d_model.saturating_mul(expand) {
        0 => Err(Error::Config {
            field: "expand",
            value: expand.to_string(),
            reason: "the inner width d_model · expand must be at least 1",
        }),
        width => Ok(width),
    }
}

/// The parts of a block's state, checked: their number is the block's own.
fn split<const K: usize>(state: Option<&mut BlockState>) -> Result<[Option<&mut Var>; K]> {
    let Some(state) = state else {
        return Ok([const { None }; K]);
    };
    let count = state.len();
    let parts: Result<&mut [Var; K], _> = state.as_mut_slice().try_into();
    match parts {
        Ok(parts) => Ok(parts.each_mut().map(Some)),
        Err(_) => Err(Error::State {
            what: "tensors",
            expected: K,
            found: count,
        }),
    }
}
