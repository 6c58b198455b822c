//! Shares found by counting, and how far they can be trusted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The 97.5th percentile of the normal distribution.
const Z: f64 = 1.959_964;

/// So many right of so many asked; prints as `96.9 % (84.3–99.4)`, the interval in brackets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How many were right.
    pub right: u64,
    /// How many were asked.
    pub of: u64,
}

impl Share {
    /// The share itself, right / of; not a number where none were asked.
    pub fn value(self) -> f64 {
        self.right as f64 / self.of as f64
    }

    /// The ends of the 95 % interval of what was measured by the share, in 0..=1 (E. B. Wilson, "Probable inference,
    /// the law of succession, and statistical inference", 1927): `(p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 +
    /// z²/n)`.
    pub fn interval(self) -> (f64, f64) {
        if self.of == 0 {
            return (0.0, 1.0);
        }
        let (p, n) = (self.value().min(1.0), self.of as f64);
        let centre = p + Z * Z / (2.0 * n);
        let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let end = |sum: f64| (sum / (1.0 + Z * Z / n)).clamp(0.0, 1.0);
        (end(centre - half), end(centre + half))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, high) = self.interval();
        let [share, low, high] = [self.value(), low, high].map(|share| 100.0 * share);
        write!(f, "{share:.1} % ({low:.1}–{high:.1})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wilson's ends are the values p that a share is just Z standard deviations of p away from.
    #[test]
    fn the_share_is_as_far_from_the_ends_as_they_allow() {
        for (right, of) in [(0, 32), (1, 32), (32, 32), (8, 10), (500, 1000), (3, 3)] {
            let share = Share { right, of };
            let (low, high) = share.interval();
            for end in [low, high] {
                let away = (share.value() - end).abs();
                let allowed = Z * (end * (1.0 - end) / of as f64).sqrt();
                assert!((away - allowed).abs() < 1e-7, "{share}: {away} {allowed}");
            }
            assert!(low <= share.value() && share.value() <= high && low < high);
        }
        assert_eq!(Share::default().interval(), (0.0, 1.0));
    }

    #[test]
    fn a_share_is_printed_with_its_interval() {
        assert_eq!(Share { right: 1, of: 32 }.to_string(), "3.1 % (0.6–15.7)");
    }
}
