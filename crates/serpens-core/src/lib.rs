//! Tensors, memory pools and the gradient tape under Serpens. This crate knows no model.

mod view;

pub use view::{Mat, MatMut};
