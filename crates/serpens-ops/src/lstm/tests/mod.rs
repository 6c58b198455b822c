mod gradcheck;
mod properties;
mod reference;
