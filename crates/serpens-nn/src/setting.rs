//! What the settings of models may be.

use std::ops::RangeInclusive;

use crate::{Error, Result};

/// A size that memory alone bounds.
pub(crate) const SIZE: RangeInclusive<f64> = 1.0..=f64::MAX;

/// Refuses a value that a setting, by its name in recipes, may not have.
///
/// # Errors
/// [`Error::Config`].
pub(crate) fn check(setting: &str, found: f64, allowed: RangeInclusive<f64>) -> Result<()> {
    match allowed.contains(&found) {
        true => Ok(()),
        false => Err(Error::Config {
            field: setting.to_owned(),
            found,
            allowed,
        }),
    }
}
