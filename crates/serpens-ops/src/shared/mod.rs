//! What operations share.

pub(crate) mod check;
pub(crate) mod fold;
pub(crate) mod operands;
pub(crate) mod record;
pub(crate) mod scratch;
mod starts;
pub(crate) mod tasks;
#[cfg(test)]
pub(crate) mod tests;

pub use operands::{Layout, Role};
pub(crate) use starts::DeviceStarts;
pub use starts::Starts;
