pub(crate) mod devices;
mod gradcheck;
mod properties;
pub(crate) mod reference;
mod step;
mod steps_on_devices;
