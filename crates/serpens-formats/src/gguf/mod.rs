//! The GGUF format, versions 2 and 3: typed metadata, the name, shape, encoding and place of every tensor, then their
//! bytes. Knows no architecture.

mod encodings;
mod file;
mod metadata;
#[cfg(test)]
mod tests;

pub use file::{open, write};
pub use metadata::{Kind, Metadata};
