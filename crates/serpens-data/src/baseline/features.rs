//! Examples as few numbers, whatever their length.

use crate::error::{Result, check_size};
use crate::spectrum::{BANDS, Mel};

/// The most k-mers that are counted apart.
const MOST: usize = 1 << 24;

/// How large a share of a sequence's k-mers each one is, the first token the most significant; 0 where there are none.
/// k-mers with a token beyond the vocabulary are left out. // (vocab^k)
///
/// # Errors
/// More than 2^24 k-mers, or k = 0.
pub fn kmer_counts(ids: &[u32], vocab: usize, k: usize) -> Result<Vec<f32>> {
    check_size("k-mers", "k", k, 1..=MOST)?;
    let all = u32::try_from(k).ok().and_then(|k| vocab.checked_pow(k));
    check_size("k-mers", "vocab^k", all.unwrap_or(usize::MAX), 0..=MOST)?;
    let mut counts = vec![0.0; all.unwrap_or(0)];
    let number = |ids: &[u32]| {
        ids.iter().try_fold(0, |number, &id| {
            ((id as usize) < vocab).then_some(number * vocab + id as usize)
        })
    };
    ids.windows(k)
        .filter_map(number)
        .for_each(|number| counts[number] += 1.0);
    let sum: f32 = counts.iter().sum::<f32>().max(1.0);
    counts.iter_mut().for_each(|count| *count /= sum);
    Ok(counts)
}

/// The mean and the deviation over time of each band of a sound ([`AudioForm::Mel`](crate::AudioForm::Mel)). // (64)
pub fn spectrum_features(samples: &[f32], rate: u32) -> Vec<f32> {
    band_features(&Mel::new(rate).next(samples, true))
}

/// The same of bands. // (frames, 32) → (64)
pub fn band_features(bands: &[f32]) -> Vec<f32> {
    let moments = (0..BANDS).map(|at| moments(bands.iter().skip(at).step_by(BANDS)));
    moments.flatten().collect()
}

/// The mean, the deviation and the mean |difference| of neighbours of each channel. // (channels · 3)
///
/// `values` is (length, channels), row-major.
pub fn value_features(values: &[f32], channels: usize) -> Vec<f32> {
    let channel = |channel: usize| {
        let series = values.iter().skip(channel).step_by(channels);
        let later = series.clone().skip(1);
        let changes: f64 = series
            .clone()
            .zip(later)
            .map(|(a, b)| f64::from((b - a).abs()))
            .sum();
        let change = changes / (values.len() / channels).saturating_sub(1).max(1) as f64;
        moments(series).into_iter().chain([change as f32])
    };
    (0..channels).flat_map(channel).collect()
}

/// Mean and deviation, 0 of nothing.
fn moments<'a>(values: impl Iterator<Item = &'a f32> + Clone) -> [f32; 2] {
    let values = values.map(|&value| f64::from(value));
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let square = values
        .map(|value| (value - mean) * (value - mean))
        .sum::<f64>()
        / count;
    [mean as f32, square.sqrt() as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kmers_are_shares() {
        assert_eq!(
            kmer_counts(&[0, 1, 1, 0, 1], 2, 2).unwrap(),
            [0.0, 0.5, 0.25, 0.25]
        );
        assert_eq!(
            kmer_counts(&[0, 9, 1, 1], 2, 2).unwrap(),
            [0.0, 0.0, 0.0, 1.0]
        );
        assert_eq!(kmer_counts(&[0], 2, 2).unwrap(), [0.0; 4]);
        let error = kmer_counts(&[], 256, 4).unwrap_err().to_string();
        assert_eq!(
            error,
            "k-mers: vocab^k is 4294967296: set it to at most 16777216"
        );
    }

    #[test]
    fn a_sine_is_loudest_in_its_band() {
        let step = std::f32::consts::TAU / 8000.0;
        let loudest = |hertz: f32| {
            let sine: Vec<f32> = (0..4000).map(|i| (step * hertz * i as f32).sin()).collect();
            let features = spectrum_features(&sine, 8000);
            assert_eq!(features.len(), 64);
            (0..32)
                .max_by(|&a, &b| features[2 * a].total_cmp(&features[2 * b]))
                .unwrap()
        };
        let mel = |hertz: f32| 2595.0 * (1.0 + hertz / 700.0).log10();
        for hertz in [500.0, 1000.0, 3000.0] {
            let expected = mel(hertz) / mel(4000.0) * 33.0 - 1.0;
            assert!(
                (loudest(hertz) as f32 - expected).abs() <= 0.6,
                "{hertz} Hz"
            );
        }
        assert_eq!(spectrum_features(&[], 0)[1], 0.0);
    }

    #[test]
    fn channels_have_mean_deviation_and_change() {
        let features = value_features(&[0.0, 5.0, 2.0, 5.0, 4.0, 5.0, 2.0, 5.0], 2);
        assert_eq!(features, [2.0, 2_f32.sqrt(), 2.0, 5.0, 0.0, 0.0]);
        assert_eq!(value_features(&[], 1), [0.0; 3]);
        assert!(value_features(&[1.0], 0).is_empty());
    }
}
