mod devices;
mod properties;
mod reference;
