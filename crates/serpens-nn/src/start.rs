//! How parameters start, as data, and the drawing of random values.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serpens_core::{DType, Device, Shape, Tensor};
use smart_default::SmartDefault;

use crate::Result;
use crate::setting::check;

/// Values that one task draws. Where they stand among the random words depends on this and not on who draws them.
const DRAWN_AT_ONCE: usize = 1 << 14;

/// How the values of a parameter start.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// All of them equal.
    Constant(f32),
    /// Every row equal to this one.
    Row(Vec<f32>),
    /// Uniform in [-bound, bound).
    Uniform {
        /// The bound.
        bound: f32,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// ln Δ, for step sizes Δ.
    LogStep(StepSize),
    /// softplus⁻¹(Δ), for step sizes Δ that are not below the floor.
    StepBias(StepSize),
}

/// The range of initial step sizes Δ, which are uniform in their logarithm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct StepSize {
    /// Smallest.
    #[default = 1e-3]
    pub min: f32,
    /// Largest.
    #[default = 0.1]
    pub max: f32,
    /// No initial value is below this.
    #[default = 1e-4]
    pub floor: f32,
}

impl StepSize {
    /// Refuses what are no step sizes, or no range of them.
    pub(crate) fn check(self) -> Result<()> {
        // Longer steps forget everything, shorter ones nothing, in f32 at least.
        const STEPS: [f64; 2] = [1e-9, 1e3];
        let [min, max] = [self.min, self.max].map(f64::from);
        check("dt.min", min, STEPS[0]..=STEPS[1])?;
        check("dt.max", max, min..=STEPS[1])?;
        // Above the largest it would be the only one.
        check("dt.floor", self.floor.into(), 0.0..=max)
    }

    /// ln Δ, with `unit` from 0 to 1 between the smallest and the largest.
    fn log(self, unit: f32) -> f32 {
        let (low, high) = (self.min.ln(), self.max.ln());
        low + (high - low) * unit
    }

    /// softplus⁻¹(Δ), of the same.
    fn bias(self, unit: f32) -> f32 {
        let dt = self.log(unit).exp().max(self.floor);
        dt + (-(-dt).exp_m1()).ln()
    }
}

impl Start {
    /// The values of a parameter of this shape and name, f32: the same for one seed, whatever the device and the
    /// number of threads.
    pub fn draw(&self, shape: Shape, name: &str, seed: u64, device: Device) -> Result<Tensor> {
        match self {
            Start::Constant(value) => return Ok(Tensor::full(shape, *value, device)?),
            Start::Row(row) => {
                let rows = row.repeat(shape.rows());
                return Ok(Tensor::from_slice(shape, &rows, device)?);
            }
            _ => {}
        }
        let mut words = ChaCha8Rng::seed_from_u64(seed);
        words.set_stream(stream_of(name));
        let mut tensor = Tensor::empty(shape, DType::F32, Device::Cpu)?;
        let values = tensor.make_mut::<f32>()?;
        let tasks = values.par_chunks_mut(DRAWN_AT_ONCE).enumerate();
        tasks.for_each(|(i, values)| {
            let mut words = words.clone();
            words.set_word_pos((i * DRAWN_AT_ONCE) as u128);
            self.write(values, &mut words);
        });
        Ok(tensor.to(device)?)
    }

    fn write(&self, values: &mut [f32], words: &mut ChaCha8Rng) {
        words.fill_bytes(bytemuck::cast_slice_mut(values));
        let drawn: &mut [u32] = bytemuck::cast_slice_mut(values);
        match *self {
            Start::Uniform { bound } => replace(drawn, |unit| bound * (2.0 * unit - 1.0)),
            Start::LogStep(dt) => replace(drawn, |unit| dt.log(unit)),
            Start::StepBias(dt) => replace(drawn, |unit| dt.bias(unit)),
            Start::Normal { std } => {
                for pair in drawn.chunks_mut(2) {
                    let second = pair.get(1).copied();
                    let normal = normal_pair(pair[0], second.unwrap_or_else(|| words.next_u32()));
                    for (value, normal) in pair.iter_mut().zip(normal) {
                        *value = (std * normal).to_bits();
                    }
                }
            }
            Start::Constant(_) | Start::Row(_) => unreachable!("nothing random is in them"),
        }
    }
}

/// Puts the bits of f(unit) in place of each word, with unit uniform in [0, 1).
fn replace(words: &mut [u32], f: impl Fn(f32) -> f32) {
    for word in words {
        let unit = (*word >> 8) as f32 * (1.0 / (1 << 24) as f32);
        *word = f(unit).to_bits();
    }
}

/// Two independent normal values from two words (Box and Muller's transform).
fn normal_pair(first: u32, second: u32) -> [f32; 2] {
    let unit = |word: u32| (f64::from(word) + 0.5) * (-32.0_f64).exp2();
    let radius = (-2.0 * unit(first).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * unit(second)).sin_cos();
    [(radius * cos) as f32, (radius * sin) as f32]
}

/// A parameter's own stream of random words, told by its name (FNV-1a).
fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: StepSize = StepSize {
        min: 1e-3,
        max: 0.1,
        floor: 1e-4,
    };

    fn drawn(start: &Start, count: usize, name: &str, seed: u64) -> Vec<f32> {
        let tensor = start.draw(Shape::from(count), name, seed, Device::Cpu);
        tensor.unwrap().to_vec::<f32>().unwrap()
    }

    /// Mean of the k-th powers.
    fn moment(values: &[f32], k: i32) -> f64 {
        values.iter().map(|&v| f64::from(v).powi(k)).sum::<f64>() / values.len() as f64
    }

    #[test]
    fn uniform_and_normal_values_have_the_moments_of_their_distributions() {
        const COUNT: usize = 1 << 20;
        let scale = (COUNT as f64).sqrt().recip();
        let uniform = drawn(&Start::Uniform { bound: 2.0 }, COUNT, "w", 1);
        assert!(uniform.iter().all(|v| (-2.0..2.0).contains(v)));
        let normal = drawn(&Start::Normal { std: 0.5 }, COUNT, "w", 1);
        let normal: Vec<f32> = normal.iter().map(|v| v / 0.5).collect();
        // Each estimate lies within five of its standard deviations, √(m_2k - m_k²) / √count.
        let cases: [(&[f32], [f64; 4], [f64; 4]); 2] = [
            (
                &uniform,
                [0.0, 4.0 / 3.0, 0.0, 16.0 / 5.0],
                [1.16, 1.2, 3.1, 4.3],
            ),
            (&normal, [0.0, 1.0, 0.0, 3.0], [1.0, 1.42, 3.88, 9.8]),
        ];
        for (values, moments, deviations) in cases {
            for (k, (expected, deviation)) in (1..).zip(moments.iter().zip(deviations)) {
                let off = (moment(values, k) - expected).abs();
                assert!(off < 5.0 * deviation * scale, "moment {k}: off by {off}");
            }
        }
        // Both values of a pair, neighbours, and the two ends of a task's values are independent.
        for apart in [1, 2, DRAWN_AT_ONCE] {
            let pairs = normal.iter().zip(&normal[apart..]);
            let products: Vec<f32> = pairs.map(|(a, b)| a * b).collect();
            assert!(moment(&products, 1).abs() < 5.0 * scale, "{apart} apart");
        }
        let beyond = normal.iter().filter(|v| v.abs() > 3.0).count() as f64;
        assert!((beyond / COUNT as f64 - 2.7e-3).abs() < 5.0 * 0.052 * scale);
    }

    #[test]
    fn step_sizes_are_uniform_in_their_logarithm() {
        let (low, high) = (STEPS.min.ln(), STEPS.max.ln());
        let logs = drawn(&Start::LogStep(STEPS), 1 << 16, "log_dt", 1);
        assert!(logs.iter().all(|log| (low..=high).contains(log)));
        let middle = f64::from(low + high) / 2.0;
        assert!((moment(&logs, 1) - middle).abs() < 5.0 * 1.33 / 256.0);
        let biases = drawn(&Start::StepBias(STEPS), 1 << 16, "log_dt", 1);
        for (log, bias) in logs.iter().zip(biases) {
            let dt = bias.exp().ln_1p(); // softplus
            assert!((dt.ln() - log).abs() < 1e-3, "{dt} and {}", log.exp());
        }
    }

    #[test]
    fn values_are_the_same_for_any_number_of_threads_and_others_for_another_seed_or_name() {
        for start in [
            Start::Normal { std: 1.0 },
            Start::Uniform { bound: 1.0 },
            Start::StepBias(STEPS),
        ] {
            let draw = |threads: usize, seed: u64, name: &str| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let pool = pool.build().unwrap();
                pool.install(|| drawn(&start, 3 * DRAWN_AT_ONCE + 7, name, seed))
            };
            let one = draw(1, 5, "a");
            assert_eq!(one, draw(3, 5, "a"));
            for other in [draw(1, 6, "a"), draw(1, 5, "b")] {
                let equal = one.iter().zip(&other).filter(|(a, b)| a == b).count();
                assert!(equal < one.len() / 1000, "{equal} values are the same");
            }
            // A shorter parameter of the same name starts with the same values.
            assert_eq!(
                one[..DRAWN_AT_ONCE + 1],
                drawn(&start, DRAWN_AT_ONCE + 1, "a", 5)
            );
        }
    }
}
