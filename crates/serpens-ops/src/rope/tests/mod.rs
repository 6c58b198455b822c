pub(crate) mod devices;
mod gradcheck;
mod properties;
pub(crate) mod reference;
