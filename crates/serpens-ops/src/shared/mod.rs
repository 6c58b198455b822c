//! What operations share.

pub(crate) mod check;
pub(crate) mod fold;
pub(crate) mod operands;
pub(crate) mod record;
pub(crate) mod scratch;
mod starts;
pub(crate) mod tasks;
mod team;
#[cfg(test)]
pub(crate) mod tests;

pub use operands::{Layout, Role};
pub(crate) use starts::DeviceStarts;
pub use starts::Starts;
pub use team::Team;
