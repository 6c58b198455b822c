//! Axes: from values to places, and the ticks that a reader expects.

use crate::svg::text_width;
use crate::text::number;

/// How a value becomes a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// In proportion.
    #[default]
    Linear,
    /// By its logarithm, with ticks at powers of ten and between them.
    Log10,
    /// By its logarithm, with ticks at powers of two.
    Log2,
}

impl Scale {
    /// The value on the scale's own line; none where the scale has no place for it.
    pub(super) fn apply(self, value: f64) -> Option<f64> {
        // The bounds keep differences, products and quotients of two values finite.
        if !value.is_finite() || value.abs() > 1e150 {
            return None;
        }
        let tiny = value.abs() < 1e-90;
        match self {
            Scale::Linear => Some(if tiny { 0.0 } else { value }),
            Scale::Log10 => (value > 0.0 && !tiny).then(|| value.log10()),
            Scale::Log2 => (value > 0.0 && !tiny).then(|| value.log2()),
        }
    }
}

/// An axis: its ends on the scale's line, and ticks (place in 0..=1, label).
#[derive(Clone, Debug)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    pub ticks: Vec<(f64, String)>,
}

/// Whether a place is on an axis, its ends included.
fn is_on(place: f64) -> bool {
    (-1e-6..=1.0 + 1e-6).contains(&place)
}

impl Axis {
    /// An axis over the values (those that the scale can place) with at most about `most` ticks (2 or more).
    /// `whole_steps` moves the ends out to ticks; `factor` multiplies what the labels say (100 for percents).
    pub(super) fn over(
        scale: Scale,
        values: impl Iterator<Item = f64>,
        most: usize,
        whole_steps: bool,
        factor: f64,
    ) -> Axis {
        let (mut low, mut high) = values
            .filter_map(|value| scale.apply(value))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            });
        if low > high {
            (low, high) = (0.0, 1.0);
        } else if high - low <= 1e-9 * high.abs().max(low.abs()).max(1e-100) {
            let pad = match scale {
                Scale::Linear if low != 0.0 => low.abs() * 0.1,
                _ => 0.5,
            };
            (low, high) = (low - pad, high + pad);
        }
        let mut axis = Axis {
            scale,
            low,
            high,
            ticks: Vec::new(),
        };
        match scale {
            Scale::Linear => axis.linear_ticks(most, whole_steps, factor),
            Scale::Log10 => axis.decade_ticks(most, factor),
            Scale::Log2 => axis.octave_ticks(most),
        }
        axis
    }

    /// The place of a value: 0 at the low end, 1 at the high end, beyond both outside.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        self.scale.apply(value).map(|v| self.between(v))
    }

    /// The place of a value that is on the axis.
    pub(super) fn place_on(&self, value: f64) -> Option<f64> {
        self.place(value).filter(|&place| is_on(place))
    }

    /// The width of its widest label, in letters of this size.
    pub(super) fn label_width(&self, size: f64) -> f64 {
        let widths = self.ticks.iter().map(|(_, label)| text_width(label, size));
        widths.fold(0.0, f64::max)
    }

    fn between(&self, on_line: f64) -> f64 {
        (on_line - self.low) / (self.high - self.low)
    }

    fn linear_ticks(&mut self, most: usize, whole_steps: bool, factor: f64) {
        let step = nice_step((self.high - self.low) / most as f64);
        if whole_steps {
            self.low = (self.low / step + 1e-6).floor() * step;
            self.high = (self.high / step - 1e-6).ceil() * step;
        }
        let first = (self.low / step - 1e-6).ceil();
        let decimals = (-(step * factor).log10().floor()).clamp(0.0, 12.0) as usize;
        let values = (0..=2 * most).map(|i| (first + i as f64) * step);
        let values = values.take_while(|value| *value <= self.high + 1e-6 * step);
        let tick = |value| (self.between(value), number(value * factor, decimals));
        self.ticks = values.map(tick).collect();
    }

    /// Powers of ten, and between them as many round values as `most` has room for.
    fn decade_ticks(&mut self, most: usize, factor: f64) {
        const DENSITIES: [&[f64]; 4] = [
            &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
            &[1.0, 2.0, 5.0],
            &[1.0, 3.0],
            &[1.0],
        ];
        for mantissas in DENSITIES {
            self.ticks = self.log_ticks(mantissas, factor);
            if self.ticks.len() <= most {
                return;
            }
        }
        // Only powers of ten are left: every second, third, … of them.
        let stride = self.ticks.len().div_ceil(most);
        self.ticks = self.ticks.drain(..).step_by(stride).collect();
    }

    /// The ticks at `mantissas` times the powers of ten in reach.
    fn log_ticks(&self, mantissas: &[f64], factor: f64) -> Vec<(f64, String)> {
        let mut ticks = Vec::new();
        for exponent in self.low.floor() as i32..=self.high.ceil() as i32 {
            for mantissa in mantissas {
                let place = self.between(f64::from(exponent) + mantissa.log10());
                if is_on(place) {
                    let value = mantissa * 10f64.powi(exponent) * factor;
                    let decimals = (-(value * (1.0 + 1e-9)).log10().floor()).max(0.0) as usize
                        + usize::from(mantissa.fract() > 0.0);
                    ticks.push((place, number(value, decimals)));
                }
            }
        }
        ticks
    }

    /// Powers of two, every first, second, … so that they are not too many. Where every second one has a label, the
    /// others stand between them without.
    fn octave_ticks(&mut self, most: usize) {
        let first = (self.low - 1e-9).ceil() as i64;
        let last = (self.high + 1e-9).floor() as i64;
        let stride = (last - first + 1).max(1).div_euclid(most as i64 + 1) + 1;
        let apart = if stride == 2 { 1 } else { stride };
        for exponent in (first..=last).step_by(apart as usize) {
            let label = match exponent {
                _ if (exponent - first) % stride != 0 => String::new(),
                0..=29 => number(2f64.powi(exponent as i32), 0),
                -4..=-1 => format!("{}", 2f64.powi(exponent as i32)),
                _ => format!("2^{exponent}"),
            };
            self.ticks.push((self.between(exponent as f64), label));
        }
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `rough`.
fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let mantissa = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|m| m * power >= rough * (1.0 - 1e-9));
    mantissa.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        let labels = axis.ticks.iter().map(|(_, label)| label.as_str());
        labels.filter(|label| !label.is_empty()).collect()
    }

    #[test]
    fn lengths_are_labelled_as_powers_of_two() {
        let axis = Axis::over(Scale::Log2, [64.0, 65536.0].into_iter(), 6, false, 1.0);
        assert_eq!(
            labels(&axis),
            ["64", "256", "1,024", "4,096", "16,384", "65,536"]
        );
        assert_eq!(
            axis.ticks.len(),
            11,
            "a tick for every length, labelled or not"
        );
        assert_eq!(axis.place(2048.0), Some(0.5));
        assert_eq!(axis.place(0.0), None);
    }

    #[test]
    fn fractions_are_labelled_as_percents() {
        let axis = Axis::over(Scale::Linear, [0.02, 1.0].into_iter(), 5, true, 100.0);
        assert_eq!(labels(&axis), ["0", "20", "40", "60", "80", "100"]);
    }

    #[test]
    fn short_log_axes_get_ticks_between_the_decades() {
        let axis = Axis::over(Scale::Log10, [0.02, 0.6].into_iter(), 6, false, 1.0);
        assert_eq!(labels(&axis), ["0.02", "0.05", "0.1", "0.2", "0.5"]);
        let axis = Axis::over(Scale::Log10, [0.002, 2.0].into_iter(), 6, false, 1.0);
        assert_eq!(labels(&axis), ["0.003", "0.01", "0.03", "0.1", "0.3", "1"]);
    }

    #[test]
    fn hostile_values_give_finite_places_and_few_ticks() {
        let hostile = [
            f64::NAN,
            f64::INFINITY,
            1e300,
            -1e300,
            0.0,
            5e-324,
            1e16,
            1e16 + 2.0,
            3.0,
        ];
        for scale in [Scale::Linear, Scale::Log10, Scale::Log2] {
            for a in hostile {
                for b in hostile {
                    let axis = Axis::over(scale, [a, b].into_iter(), 5, true, 1.0);
                    assert!(
                        axis.ticks.len() <= 12,
                        "{scale:?} {a} {b}: {:?}",
                        axis.ticks
                    );
                    assert!(
                        axis.ticks.iter().all(|(place, _)| place.is_finite()),
                        "{scale:?} {a} {b}"
                    );
                    assert!(axis.place(b).is_none_or(f64::is_finite));
                }
            }
        }
    }
}
