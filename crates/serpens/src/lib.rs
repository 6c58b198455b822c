//! Serpens.
