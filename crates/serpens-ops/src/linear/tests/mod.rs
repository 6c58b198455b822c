pub(crate) mod devices;
mod few_rows;
mod gradcheck;
mod properties;
pub(crate) mod reference;
mod step;
mod steps_on_devices;
