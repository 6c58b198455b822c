pub(crate) mod devices;
mod properties;
mod reference;
