//! What operations share.

pub(crate) mod check;
pub(crate) mod fold;
pub(crate) mod operands;
pub(crate) mod record;
mod starts;
#[cfg(test)]
pub(crate) mod tests;

pub use operands::{Layout, Role};
pub(crate) use starts::DeviceStarts;
pub use starts::Starts;
