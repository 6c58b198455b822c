//! On the processor.

pub mod blocks;
