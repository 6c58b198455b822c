//! Axes: from values to places, and the ticks that a reader expects.

use serde::{Deserialize, Serialize};

use crate::svg::text_width;
use crate::text::{is_far, number, short_number, superscript};

/// How a value becomes a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// An axis over the values (those that the scale can place) with at most about `most` ticks (2 or more), one of
    /// them at the top. `whole_steps` moves the ends out to ticks; `factor` multiplies what the labels say (100 for
    /// percents).
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
            Scale::Log10 => axis.decade_ticks(most, whole_steps, factor),
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

    /// The width of its widest label.
    pub(super) fn label_width(&self) -> f64 {
        let widths = self.ticks.iter().map(|(_, label)| text_width(label));
        widths.fold(0.0, f64::max)
    }

    fn between(&self, on_line: f64) -> f64 {
        (on_line - self.low) / (self.high - self.low)
    }

    fn linear_ticks(&mut self, most: usize, whole_steps: bool, factor: f64) {
        let step = nice_step((self.high - self.low) / most as f64, self.high);
        if whole_steps {
            self.low = (self.low / step + 1e-6).floor() * step;
            self.high = (self.high / step - 1e-6).ceil() * step;
        }
        let first = (self.low / step - 1e-6).ceil();
        let values = (0..=2 * most).map(|i| (first + i as f64) * step);
        // The top has a label of its own, and what is too close to it has none.
        let values = values.take_while(|value| *value < self.high - 0.7 * step);
        let values: Vec<f64> = values.chain([self.high]).collect();
        let steps = self.high.abs().max(self.low.abs()) / step;
        let digits = 2 + steps.log10().ceil().clamp(0.0, 12.0) as usize;
        let places = values.iter().map(|value| self.between(*value));
        self.ticks = places.zip(labels(&values, factor, digits)).collect();
    }

    /// Powers of ten, and between them as many round values as `most` has room for, or only every second, third, …
    fn decade_ticks(&mut self, most: usize, whole_steps: bool, factor: f64) {
        const DENSITIES: [&[f64]; 4] = [
            &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
            &[1.0, 2.0, 5.0],
            &[1.0, 3.0],
            &[1.0],
        ];
        let denser = DENSITIES.into_iter().map(|mantissas| (mantissas, 1));
        let mut choices = denser.chain((2..).map(|stride| (DENSITIES[3], stride)));
        let fitting = choices.find_map(|(mantissas, stride)| {
            let places = self.round_places(mantissas, stride, whole_steps);
            (places.len() <= most).then_some(places)
        });
        let places = fitting.expect("a stride is longer than the axis");
        if let (true, [low, .., high]) = (whole_steps, &places[..]) {
            (self.low, self.high) = (*low, *high);
        }
        let values: Vec<f64> = places.iter().map(|place| 10f64.powf(*place)).collect();
        let places = places.iter().map(|place| self.between(*place));
        self.ticks = places.zip(labels(&values, factor, 2)).collect();
    }

    /// On the scale's line, the `mantissas` times every `stride`-th power of ten down from the top: those on the axis,
    /// and if `whole_steps` the next beyond an end that is none of them.
    fn round_places(&self, mantissas: &[f64], stride: i32, whole_steps: bool) -> Vec<f64> {
        let (first, last) = (self.low.floor() as i32, self.high.ceil() as i32);
        let first = last - ((last - first) / stride + 1) * stride;
        let powers = (first..=last).step_by(stride as usize);
        let of = |power: i32| mantissas.iter().map(move |m| f64::from(power) + m.log10());
        let places: Vec<f64> = powers.flat_map(of).collect();
        let count = |end: f64| places.partition_point(|place| *place < end);
        let (more, slack) = if whole_steps { (1, 1e-9) } else { (0, -1e-9) };
        let from = count(self.low + slack).saturating_sub(more);
        let to = (count(self.high - slack) + more).min(places.len());
        places[from..to].to_vec()
    }

    /// Powers of two, every first, second, … down from the top so that they are not too many. Where every second one
    /// has a label, the others stand between them without.
    fn octave_ticks(&mut self, most: usize) {
        let first = (self.low - 1e-9).ceil() as i64;
        let last = (self.high + 1e-9).floor() as i64;
        let stride = (last - first + 1).max(1).div_euclid(most as i64 + 1) + 1;
        let apart = if stride == 2 { 1 } else { stride };
        for exponent in (first..=last).rev().step_by(apart as usize) {
            let label = match exponent {
                _ if (last - exponent) % stride != 0 => String::new(),
                0..=29 => number(2f64.powi(exponent as i32), 0),
                -4..=-1 => format!("{}", 2f64.powi(exponent as i32)),
                _ => format!("2{}", superscript(&exponent.to_string())),
            };
            self.ticks.push((self.between(exponent as f64), label));
        }
        self.ticks.reverse();
    }
}

/// What ticks at these values say, all in one form.
fn labels(values: &[f64], factor: f64, digits: usize) -> Vec<String> {
    let values: Vec<f64> = values.iter().map(|value| value * factor).collect();
    let far = values.iter().any(|value| is_far(*value));
    let label = |value: &f64| short_number(*value, digits, far);
    values.iter().map(label).collect()
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `rough`; up to twice as much where that divides
/// `top`.
fn nice_step(rough: f64, top: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0, 20.0].map(|m| m * power);
    let large = |step: &&f64| **step >= rough * (1.0 - 1e-9);
    let divides = |step: &&f64| {
        let times = top / **step;
        **step < 2.2 * rough && (times - times.round()).abs() < 1e-6
    };
    let steps = || steps.iter().filter(large);
    *steps().find(divides).or(steps().next()).unwrap_or(&power)
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
    fn the_top_of_an_axis_has_a_label() {
        for (scale, low, high, top) in [
            (Scale::Linear, 20.0, 1500.0, "1,500"),
            (Scale::Linear, 10.0, 3750.0, "3,750"),
            (Scale::Log2, 64.0, 32768.0, "32,768"),
        ] {
            let axis = Axis::over(scale, [low, high].into_iter(), 6, false, 1.0);
            assert_eq!(labels(&axis).pop(), Some(top), "{:?}", axis.ticks);
            assert_eq!(axis.ticks.last().map(|tick| tick.0), Some(1.0));
        }
        let axis = Axis::over(Scale::Log10, [3e-3, 60.0].into_iter(), 6, true, 1.0);
        assert_eq!(labels(&axis), ["0.001", "0.01", "0.1", "1", "10", "100"]);
        assert!(axis.place_on(60.0).is_some());
    }

    #[test]
    fn labels_of_one_axis_have_one_form() {
        let form = |scale, low: f64, high, whole| {
            let axis = Axis::over(scale, [low, high].into_iter(), 7, whole, 1.0);
            labels(&axis).join(" ")
        };
        let (log, linear) = (Scale::Log10, Scale::Linear);
        assert_eq!(
            form(log, 3e-9, 60.0, true),
            "10⁻¹⁰ 10⁻⁸ 10⁻⁶ 10⁻⁴ 10⁻² 10⁰ 10²"
        );
        assert_eq!(
            form(log, 2e-4, 0.1, true),
            "0.0001 0.0003 0.001 0.003 0.01 0.03 0.1"
        );
        assert_eq!(form(log, 1e-5, 1e-4, true), "10⁻⁵ 2·10⁻⁵ 5·10⁻⁵ 10⁻⁴");
        assert_eq!(
            form(linear, 0.0, 1e-4, true),
            "0 2·10⁻⁵ 4·10⁻⁵ 6·10⁻⁵ 8·10⁻⁵ 10⁻⁴"
        );
        assert_eq!(
            form(linear, 0.0, 0.0035, false),
            "0 0.0005 0.001 0.0015 0.002 0.0025 0.003 0.0035"
        );
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
