//! The GGUF format, versions 2 and 3: typed metadata, the name, shape, encoding and place of every tensor, then their
//! bytes. Knows no architecture.

mod encodings;
mod fault;
mod header;
mod metadata;
mod read;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub use fault::Fault;
pub use metadata::Metadata;
pub use read::open;
pub use value::{Kind, Value};
pub use write::write;

/// What files begin with.
const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written.
const VERSION: u32 = 3;
