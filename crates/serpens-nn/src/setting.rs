//! The settings of models by their names in recipes, and the values that each may have.

use crate::{Error, Result};

/// A setting's name, its smallest and its largest value.
pub(crate) struct Setting(&'static str, f64, f64);

/// A size that memory alone bounds.
const ANY: f64 = f64::MAX;
/// Longer steps forget everything, shorter ones nothing, in f32 at least.
const STEPS: [f64; 2] = [1e-9, 1e3];

pub(crate) const D_MODEL: Setting = Setting("d_model", 1.0, ANY);
/// More layers than any model has: their plan alone would take memory.
pub(crate) const N_LAYER: Setting = Setting("n_layer", 1.0, 16_384.0);
pub(crate) const VOCAB_SIZE: Setting = Setting("vocab_size", 1.0, ANY);
pub(crate) const NORM_EPS: Setting = Setting("norm_eps", 0.0, 1.0);
pub(crate) const DT_B_C_RMS_EPS: Setting = Setting("dt_b_c_rms_eps", 0.0, 1.0);
pub(crate) const LORA_RANK: Setting = Setting("lora.rank", 1.0, ANY);
pub(crate) const LORA_ALPHA: Setting = Setting("lora.alpha", 0.0, 1e6);
pub(crate) const EMBEDDING_STD: Setting = Setting("embedding_std", 0.0, 1e3);
pub(crate) const MIXERS: Setting = Setting("block (number of mixers)", 1.0, ANY);
pub(crate) const EXPAND: Setting = Setting("expand", 1.0, ANY);
pub(crate) const D_CONV: Setting = Setting("d_conv", 1.0, ANY);
/// The kernels' limit.
pub(crate) const D_STATE: Setting = Setting("d_state", 1.0, 256.0);
pub(crate) const DT_MIN: Setting = Setting("dt.min", STEPS[0], STEPS[1]);
pub(crate) const DT_MAX: Setting = Setting("dt.max", STEPS[0], STEPS[1]);
pub(crate) const DT_FLOOR: Setting = Setting("dt.floor", 0.0, STEPS[1]);
pub(crate) const MAX_LR: Setting = Setting("max_lr", 0.0, f64::INFINITY);

impl Setting {
    /// The same setting, where another one bounds it from below.
    pub(crate) fn at_least(self, least: f64) -> Self {
        Setting(self.0, least, self.2)
    }

    /// The same setting, where another one bounds it from above.
    pub(crate) fn at_most(self, most: f64) -> Self {
        Setting(self.0, self.1, most)
    }

    /// Refuses a value that it may not have.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn check(self, found: f64) -> Result<()> {
        let Setting(field, least, most) = self;
        let allowed = least..=most;
        match allowed.contains(&found) {
            true => Ok(()),
            false => Err(Error::Config {
                field: field.to_owned(),
                found,
                allowed,
            }),
        }
    }
}
