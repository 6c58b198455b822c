pub(crate) mod devices;
mod gradcheck;
mod properties;
mod reference;
