//! NVIDIA's driver: its libraries, the cards, their contexts, streams, events and memory. Nothing here knows of tensors.

mod context;
mod event;
mod libraries;
pub(crate) mod memory;
mod properties;
mod stream;

use cudarc::driver::result::DriverError;

pub(crate) use context::{Entry, PerDevice, State, alone, lock, of, pretend, state};
pub use context::{multiprocessors, properties, synchronize};
pub use event::Event;
pub use libraries::{Found, find};
pub use memory::DevicePtr;
pub(crate) use properties::count;
pub use properties::{Properties, cards};
pub use stream::Stream;

use crate::Error;

/// Puts an error code of the driver into words.
pub(crate) fn driver_error(what: &'static str) -> impl FnOnce(DriverError) -> Error {
    move |error| Error::Cuda {
        what,
        reason: error
            .error_string()
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_else(|_| format!("{error:?}")),
    }
}
