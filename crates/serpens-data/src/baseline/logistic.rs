//! Multinomial logistic regression.

use rayon::prelude::*;

use crate::error::{Result, check_size};

/// Iterations of the fit, at most, and how many steps L-BFGS remembers.
const ITERATIONS: usize = 100;
const REMEMBERED: usize = 10;
/// Parts that examples are cut into, whatever the number of threads: their sums are added in order.
const PARTS: usize = 64;

/// Classes by a linear model of features: p(c | x) = softmax_c(Σ_j w_cj z_j + b_c), z_j = (x_j - mean_j) / deviation_j.
///
/// Means and deviations are the training examples'; a feature that does not vary there (or is not finite) counts for
/// nothing. W and b make Σ -ln p(label | x) + ½ Σ w² least, by L-BFGS (Liu and Nocedal, 1989) from 0.
#[derive(Clone, Debug)]
pub struct Logistic {
    /// Mean, and one by the deviation (0 where it counts for nothing).
    scales: Vec<[f32; 2]>,
    /// The weights of each class, then its bias. // (classes, features + 1)
    weights: Vec<f32>,
}

impl Logistic {
    /// Fits a model to `count` examples. Results do not depend on the number of threads.
    ///
    /// `features` is (count, features), row-major, with a label below `classes` for each example.
    ///
    /// # Errors
    /// No example, feature or class, sizes that do not fit together, a label beyond the classes.
    pub fn fit(features: &[f32], count: usize, labels: &[u32], classes: usize) -> Result<Self> {
        let place = "logistic regression";
        check_size(place, "examples", count, 1..=usize::MAX)?;
        check_size(place, "classes", classes, 1..=1 << 20)?;
        check_size(place, "labels", labels.len(), count..=count)?;
        let width = features.len() / count;
        let whole = width.max(1) * count;
        check_size(place, "features", features.len(), whole..=whole)?;
        for &label in labels {
            check_size(place, "label", label as usize, 0..=classes - 1)?;
        }
        let scales = (0..width)
            .map(|feature| scale(features, width, feature))
            .collect();
        let weights = vec![0.0; classes * (width + 1)];
        let mut model = Self { scales, weights };
        let standard = model.standard(features);
        let mut start = vec![0.0; model.weights.len()];
        minimise(&mut start, |weights| model.loss(weights, &standard, labels));
        model.weights = start.iter().map(|&weight| weight as f32).collect();
        Ok(model)
    }

    /// The probabilities of the classes of each example; `features` as in [`fit`](Self::fit). // (count, classes)
    pub fn probabilities(&self, features: &[f32]) -> Vec<f32> {
        let rows = self.standard(features);
        let rows = rows.par_chunks_exact(self.scales.len() + 1);
        rows.flat_map_iter(|row| self.softmax(&self.weights, row))
            .collect()
    }

    /// Features in units of the deviation, and a 1 for the bias. // (count, features + 1)
    fn standard(&self, features: &[f32]) -> Vec<f32> {
        let width = self.scales.len();
        let value =
            |(&x, &[mean, by]): (&f32, &[f32; 2])| if by > 0.0 { (x - mean) * by } else { 0.0 };
        let rows = features.chunks_exact(width);
        rows.flat_map(|row| row.iter().zip(&self.scales).map(value).chain([1.0]))
            .collect()
    }

    fn softmax(&self, weights: &[f32], row: &[f32]) -> Vec<f32> {
        let mut scores: Vec<f32> = weights
            .chunks_exact(row.len())
            .map(|weights| dot(weights, row))
            .collect();
        let most = scores.iter().copied().fold(f32::MIN, f32::max);
        scores
            .iter_mut()
            .for_each(|score| *score = (*score - most).exp());
        let sum: f32 = scores.iter().sum();
        scores.iter_mut().for_each(|score| *score /= sum);
        scores
    }

    /// What is to be least, and its gradient.
    fn loss(&self, weights: &[f64], rows: &[f32], labels: &[u32]) -> (f64, Vec<f64>) {
        let width = self.scales.len() + 1;
        let narrow: Vec<f32> = weights.iter().map(|&weight| weight as f32).collect();
        let part = labels.len().div_ceil(PARTS);
        let parts = rows.par_chunks(part * width).zip(labels.par_chunks(part));
        let parts = parts.map(|(rows, labels)| {
            let (mut loss, mut gradient) = (0.0, vec![0.0_f32; narrow.len()]);
            for (row, &label) in rows.chunks_exact(width).zip(labels) {
                let mut off = self.softmax(&narrow, row);
                loss -= f64::from(off[label as usize].max(f32::MIN_POSITIVE)).ln();
                off[label as usize] -= 1.0;
                for (gradient, off) in gradient.chunks_exact_mut(width).zip(off) {
                    gradient
                        .iter_mut()
                        .zip(row)
                        .for_each(|(sum, x)| *sum += off * x);
                }
            }
            (loss, gradient)
        });
        let (mut loss, mut gradient) = (0.0, vec![0.0; weights.len()]);
        for (more, part) in parts.collect::<Vec<_>>() {
            loss += more;
            gradient
                .iter_mut()
                .zip(part)
                .for_each(|(sum, more)| *sum += f64::from(more));
        }
        for (place, (sum, weight)) in gradient.iter_mut().zip(weights).enumerate() {
            if place % width < width - 1 {
                loss += weight * weight / 2.0;
                *sum += weight;
            }
        }
        (loss, gradient)
    }
}

/// The mean of a feature, and one by its deviation.
fn scale(features: &[f32], width: usize, feature: usize) -> [f32; 2] {
    let column = features
        .iter()
        .skip(feature)
        .step_by(width)
        .map(|&x| f64::from(x));
    let count = (features.len() / width) as f64;
    let mean = column.clone().sum::<f64>() / count;
    let square = column.map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    let by = 1.0 / square.sqrt();
    let varies = square > 1e-12 * mean * mean && by.is_normal();
    [mean as f32, if varies { by as f32 } else { 0.0 }]
}

/// Σ a b in eight sums, which the processor adds at once.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// L-BFGS with halved steps until the value falls as it should (Armijo); ends where it does not fall any more.
fn minimise(x: &mut [f64], of: impl Fn(&[f64]) -> (f64, Vec<f64>)) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
    let mut past: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    let (mut value, mut gradient) = of(x);
    for _ in 0..ITERATIONS {
        let mut down: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
        let add = |to: &mut [f64], by: f64, what: &[f64]| {
            to.iter_mut()
                .zip(what)
                .for_each(|(to, what)| *to += by * what);
        };
        let mut shares = Vec::new();
        for (step, change) in past.iter().rev() {
            let share = dot(step, &down) / dot(step, change);
            add(&mut down, -share, change);
            shares.push(share);
        }
        let curvature = past
            .last()
            .map_or(dot(&gradient, &gradient).sqrt(), |(step, change)| {
                dot(change, change) / dot(step, change)
            });
        down.iter_mut().for_each(|down| *down /= curvature);
        for ((step, change), share) in past.iter().zip(shares.into_iter().rev()) {
            let other = dot(change, &down) / dot(step, change);
            add(&mut down, share - other, step);
        }
        let slope = dot(&gradient, &down);
        let tried = (0..20)
            .map(|halvings| 0.5_f64.powi(halvings))
            .find_map(|length| {
                let mut there = x.to_vec();
                add(&mut there, length, &down);
                let (new, slopes) = of(&there);
                (new <= value + 1e-4 * length * slope).then_some((there, new, slopes))
            });
        let Some((there, new, slopes)) = tried.filter(|(_, new, _)| value - new > 1e-9 * value)
        else {
            return;
        };
        let (step, change) = (less(&there, x), less(&slopes, &gradient));
        if dot(&step, &change) > 0.0 {
            past.push((step, change));
            past.drain(..past.len().saturating_sub(REMEMBERED));
        }
        x.copy_from_slice(&there);
        (value, gradient) = (new, slopes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of a normal distribution.
    fn normal(seed: u32) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            let mut even = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (f64::from(state) + 0.5) / 2_f64.powi(32)
            };
            let (a, b) = (even(), even());
            ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
        }
    }

    #[test]
    fn what_can_be_separated_is() {
        let mut normal = normal(1);
        let labels: Vec<u32> = (0..300).map(|i| i % 3).collect();
        let features: Vec<f32> = labels
            .iter()
            .flat_map(|&label| {
                let middle = [[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]][label as usize];
                [
                    middle[0] + normal(),
                    1e4 * (middle[1] + normal()),
                    7.0,
                    f32::NAN,
                ]
            })
            .collect();
        let model = Logistic::fit(&features, 300, &labels, 3).unwrap();
        let probabilities = model.probabilities(&features);
        for (row, &label) in probabilities.chunks_exact(3).zip(&labels) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(row[label as usize] > 0.5, "{row:?} for {label}");
        }
    }

    #[test]
    fn probabilities_are_those_of_a_mixture_that_is_known() {
        let mut normal = normal(2);
        let count = 20_000;
        let labels: Vec<u32> = (0..count).map(|i| u32::from(i % 4 == 0)).collect();
        let middle = |label: u32| if label == 1 { 1.0 } else { -1.0 };
        let features: Vec<f32> = labels
            .iter()
            .map(|&label| middle(label) + normal())
            .collect();
        let model = Logistic::fit(&features, labels.len(), &labels, 2).unwrap();
        for x in [-2.0_f32, -0.5, 0.0, 0.5, 1.0, 2.0] {
            // ln of the odds is 2x plus that of 1 to 3.
            let expected = 1.0 / (1.0 + 3.0 * (-2.0 * x).exp());
            let found = model.probabilities(&[x])[1];
            assert!(
                (found - expected).abs() < 0.02,
                "at {x}: {found} for {expected}"
            );
        }
    }

    #[test]
    fn the_gradient_vanishes_where_the_fit_ends_whatever_the_threads() {
        let mut normal = normal(3);
        let features: Vec<f32> = (0..500 * 20).map(|_| normal()).collect();
        let labels: Vec<u32> = (0..500)
            .map(|i| u32::from(features[i * 20] + normal() > 0.0) * (1 + i as u32 % 3))
            .collect();
        let fit = || Logistic::fit(&features, 500, &labels, 4).unwrap();
        let model = fit();
        let wide: Vec<f64> = model.weights.iter().map(|&weight| weight.into()).collect();
        let (_, gradient) = model.loss(&wide, &model.standard(&features), &labels);
        assert!(
            gradient.iter().all(|slope| slope.abs() < 0.02),
            "{gradient:?}"
        );
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        assert_eq!(pool.install(fit).weights, model.weights);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let message = |fitted: Result<Logistic>| fitted.unwrap_err().to_string();
        let labels = message(Logistic::fit(&[1.0, 2.0], 2, &[0], 2));
        assert_eq!(
            labels,
            "logistic regression: labels is 1: set it to at least 2"
        );
        let label = message(Logistic::fit(&[1.0, 2.0], 2, &[0, 2], 2));
        assert_eq!(
            label,
            "logistic regression: label is 2: set it to at most 1"
        );
        assert!(Logistic::fit(&[], 0, &[], 2).is_err());
        assert!(Logistic::fit(&[1.0; 3], 2, &[0, 1], 2).is_err());
        assert!(Logistic::fit(&[], 1, &[0], 2).is_err());
    }
}
