//! How strong each frequency of a sound is over time.

use std::f32::consts::TAU;

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// The log power spectrum of frames of `window` samples, one each `hop`. // (frames, window / 2 + 1)
///
/// 10 log10(|2 Σ_n w_n x_n e^(-2πikn/N) / Σ_n w_n|² + 10⁻¹²) decibels, in which a sine of amplitude 1 has 0.
/// The window is Hann's, w_n = ½ - ½ cos(2πn/N). Frames lie within the samples; of fewer than a window there is one,
/// with silence behind them. `window` is at least 2 and `hop` at least 1, whatever is given.
pub fn spectrogram(samples: &[f32], window: usize, hop: usize) -> Vec<Vec<f32>> {
    let (window, hop) = (window.max(2), hop.max(1));
    let phase = |n: usize| TAU * n as f32 / window as f32;
    let weights: Vec<f32> = (0..window).map(|n| 0.5 - 0.5 * phase(n).cos()).collect();
    let scale = 2.0 / weights.iter().sum::<f32>();
    let fft = FftPlanner::new().plan_fft_forward(window);
    let frames = samples.len().saturating_sub(window) / hop + 1;
    let mut buffer = vec![Complex::default(); window];
    let frame = |frame: usize| {
        buffer.fill(Complex::default());
        let weighed = samples[frame * hop..].iter().zip(&weights);
        for (into, (sample, weight)) in buffer.iter_mut().zip(weighed) {
            into.re = sample * weight * scale;
        }
        fft.process(&mut buffer);
        let bins = buffer[..window / 2 + 1].iter();
        bins.map(|bin| 10.0 * (bin.norm_sqr() + 1e-12).log10())
            .collect()
    };
    (0..frames).map(frame).collect()
}

/// Bands of a sound.
pub(crate) const BANDS: usize = 32;

/// Frames of bands of a sound that comes in parts: the log power of triangles whose middles are evenly spaced in mel,
/// 2595 log10(1 + f/700), up to half the rate. Frames have the next power of two from 25 ms on, and are half a frame
/// apart; a sound shorter than one is filled up with silence.
pub(crate) struct Mel {
    window: usize,
    /// The share of each bin in each band.
    shares: Vec<Vec<f32>>,
    /// Samples that are not in all of their frames yet.
    left: Vec<f32>,
    begun: bool,
}

impl Mel {
    pub(crate) fn new(rate: u32) -> Self {
        let window = (rate as usize / 40).clamp(64, 1 << 16).next_power_of_two();
        let mel = |hertz: f32| 2595.0 * (1.0 + hertz / 700.0).log10();
        let bin_width = rate as f32 / window as f32;
        let spacing = mel(rate as f32 / 2.0).max(1.0) / (BANDS + 1) as f32;
        let share = |band: usize, bin: usize| {
            let off = mel(bin as f32 * bin_width) / spacing - (band + 1) as f32;
            (1.0 - off.abs()).max(0.0)
        };
        let bins = 0..window / 2 + 1;
        let shares = (0..BANDS).map(|band| bins.clone().map(|bin| share(band, bin)).collect());
        Self {
            window,
            shares: shares.collect(),
            left: Vec::new(),
            begun: false,
        }
    }

    /// The frames that the next samples complete; at the end what is left of them makes none, unless it is all.
    /// // (frames, bands)
    pub(crate) fn next(&mut self, samples: &[f32], ends: bool) -> Vec<f32> {
        self.left.extend_from_slice(samples);
        if ends && !self.begun && self.left.len() < self.window {
            self.left.resize(self.window, 0.0);
        }
        let hop = self.window / 2;
        let Some(frames) = (self.left.len() / hop).checked_sub(1).filter(|&n| n > 0) else {
            return Vec::new();
        };
        self.begun = true;
        let whole = &self.left[..(frames + 1) * hop];
        let spectrum = spectrogram(whole, self.window, hop);
        let bands = spectrum.iter().take(frames).flat_map(|decibels| {
            let power = |decibels: &f32| 10_f32.powf(decibels / 10.0);
            let powers: Vec<f32> = decibels.iter().map(power).collect();
            self.shares.iter().map(move |shares| {
                let weighed = shares.iter().zip(&powers);
                let sum: f32 = weighed.map(|(share, power)| share * power).sum();
                10.0 * (sum + 1e-12).log10() / 30.0 + 2.0
            })
        });
        let bands = bands.collect();
        self.left.drain(..frames * hop);
        bands
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    #[test]
    fn bins_are_those_of_the_definition() {
        let samples: Vec<f32> = (0..200)
            .map(|i| ((i * i) as f32 * 0.01).sin() * 0.7)
            .collect();
        for (window, hop) in [(32, 16), (27, 5), (200, 1), (2, 3)] {
            let frames = spectrogram(&samples, window, hop);
            assert_eq!(frames.len(), (200 - window) / hop + 1);
            let weight = |n: usize| 0.5 - 0.5 * (TAU * n as f64 / window as f64).cos();
            let sum: f64 = (0..window).map(weight).sum();
            for (frame, bins) in frames.iter().enumerate() {
                assert_eq!(bins.len(), window / 2 + 1);
                for (k, &bin) in bins.iter().enumerate() {
                    let (mut re, mut im) = (0.0, 0.0);
                    for n in 0..window {
                        let x = weight(n) * f64::from(samples[frame * hop + n]);
                        let phase = TAU * (k * n) as f64 / window as f64;
                        (re, im) = (re + x * phase.cos(), im - x * phase.sin());
                    }
                    let power = (re * re + im * im) * 4.0 / (sum * sum);
                    let amplitude = 10_f64.powf(f64::from(bin) / 20.0);
                    assert!(
                        (amplitude - power.sqrt()).abs() < 3e-6,
                        "{window} {k}: {bin}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_full_sine_has_no_decibels_and_silence_the_least() {
        let sine: Vec<f32> = (0..64)
            .map(|i| (TAU * 8.0 * f64::from(i) / 64.0).sin() as f32)
            .collect();
        assert!(spectrogram(&sine, 64, 64)[0][8].abs() < 1e-3);
        assert_eq!(spectrogram(&[], 0, 0), [[-120.0; 2]]);
    }

    #[test]
    fn frames_are_the_same_whatever_the_parts_that_a_sound_comes_in() {
        let sound: Vec<f32> = (0..5000).map(|i| ((i * i) as f32 * 1e-4).sin()).collect();
        let whole = Mel::new(8000).next(&sound, true);
        assert_eq!(whole.len(), (5000 / 128 - 1) * BANDS);
        for part in [1, 100, 128, 256, 999] {
            let mut mel = Mel::new(8000);
            let count = sound.len().div_ceil(part);
            let parts = sound.chunks(part).enumerate();
            let frames = parts.flat_map(|(i, part)| mel.next(part, i + 1 == count));
            assert_eq!(frames.collect::<Vec<_>>(), whole, "{part}");
        }
        assert_eq!(Mel::new(8000).next(&[0.5; 3], true).len(), BANDS);
        assert_eq!(Mel::new(0).next(&[], true).len(), BANDS);
    }
}
