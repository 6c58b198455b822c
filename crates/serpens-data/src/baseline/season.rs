//! How a series repeats itself.

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// The season of a series: the lag from 2 to `most` rows, or half its length, at which its autocorrelation, a mean over channels, has
/// its largest local maximum, if that is 0.3 at least. `values` is (length, channels), row-major.
///
/// r_k = Σ_t x_t x_{t+k} / Σ_t x_t², of values less the straight line of least squares.
pub fn season(values: &[f32], channels: usize, most: usize) -> Option<usize> {
    let channels = channels.max(1);
    let length = values.len() / channels;
    let size = (2 * length).next_power_of_two();
    let mut planner = FftPlanner::new();
    let (forward, inverse) = (
        planner.plan_fft_forward(size),
        planner.plan_fft_inverse(size),
    );
    let mut mean = vec![0.0; length / 2 + 2];
    for channel in 0..channels {
        let series = values.iter().skip(channel).step_by(channels).take(length);
        let series: Vec<f64> = series.map(|&value| f64::from(value)).collect();
        let rounding = 1e-12 * size as f64 * series.iter().map(|value| value * value).sum::<f64>();
        let mut buffer = detrended(series);
        buffer.resize(size, Complex::default());
        forward.process(&mut buffer);
        for value in &mut buffer {
            *value = value.norm_sqr().into();
        }
        inverse.process(&mut buffer);
        let all = buffer[0].re;
        for (mean, value) in mean.iter_mut().zip(&buffer).filter(|_| all > rounding) {
            *mean += value.re / all / channels as f64;
        }
    }
    let peak =
        |&lag: &usize| mean[lag] >= 0.3 && mean[lag] > mean[lag - 1] && mean[lag] >= mean[lag + 1];
    let peaks = (2..=most.min(length / 2)).filter(peak);
    peaks.max_by(|&a, &b| mean[a].total_cmp(&mean[b]))
}

/// Values less their straight line of least squares.
fn detrended(values: Vec<f64>) -> Vec<Complex<f64>> {
    let count = values.len() as f64;
    let (middle, mean) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
    let places = (0..values.len()).map(|place| place as f64 - middle);
    let along: f64 = places
        .clone()
        .zip(&values)
        .map(|(place, value)| place * value)
        .sum();
    let slope = along
        / places
            .clone()
            .map(|place| place * place)
            .sum::<f64>()
            .max(1.0);
    let left = places
        .zip(values)
        .map(|(place, value)| value - mean - slope * place);
    left.map(Complex::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_season_is_found_in_spite_of_a_trend_and_in_noise_there_is_none() {
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as f32 / u32::MAX as f32 - 0.5
        };
        let daily = |place: usize| (std::f32::consts::TAU * place as f32 / 24.0).sin();
        let rising: Vec<f32> = (0..1000)
            .map(|i| daily(i) + 0.1 * i as f32 + noise())
            .collect();
        assert_eq!(season(&rising, 1, usize::MAX), Some(24));
        let both: Vec<f32> = (0..500)
            .flat_map(|i| [daily(i), daily(i + 5) * 100.0])
            .collect();
        assert_eq!(season(&both, 2, usize::MAX), Some(24));
        assert_eq!(season(&both, 2, 20), None);
        let none: Vec<f32> = (0..1000).map(|_| noise()).collect();
        assert_eq!(season(&none, 1, usize::MAX), None);
        for short in [&[][..], &[1.0], &[0.1; 500]] {
            assert_eq!(season(short, 0, 100), None);
        }
    }
}
