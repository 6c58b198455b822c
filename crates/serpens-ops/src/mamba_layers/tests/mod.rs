//! Layers of Mamba by one kernel against their definition.

pub(crate) mod devices;
mod reference;
