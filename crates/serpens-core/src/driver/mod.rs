//! NVIDIA's driver: its libraries, the cards, their contexts, streams, events and memory. Nothing here knows of
//! tensors.

mod context;
mod event;
mod libraries;
pub(crate) mod memory;
mod properties;
mod stream;

pub use context::properties;
pub(crate) use context::{Entry, PerDevice, State, alone, lock, of, pretend, synchronize};
pub use event::Event;
pub use libraries::find;
pub use memory::DevicePtr;
pub(crate) use properties::count;
pub use properties::{Properties, cards};
pub use stream::Stream;
