//! Series: what comes next of several channels.

use std::ops::Range;
use std::sync::Arc;

use crate::Split;
use crate::error::{Error, Result, check_batch, check_size};
use crate::permutation::{moved, spread, visit};
use crate::records::Records;
use crate::source::{Batch, Bounds, Numbers, Source};

const PLACE: &str = "forecast";

/// The most values of a batch's targets.
const MOST_VALUES: usize = 1 << 31;

/// Rows of values over time, each record a series, whose next rows are to be told.
///
/// A model reads values less the mean, over the standard deviation, of its channel in the rows that are learnt from
/// ([`Series::scale`]). At each position t it answers with `x[t + h] − x[t]` of each channel, h = 1 … horizon, in the same
/// unit: nothing answered is the forecast that all stays as it is. // (length, horizon, channels)
///
/// The last rows of each series are held out.
#[derive(Clone, Debug)]
pub struct Series {
    records: Arc<Records>,
    /// Of each series its rows, and the first that is held out.
    parts: Vec<(Range<usize>, usize)>,
    scale: Vec<[f32; 2]>,
    length: usize,
    horizon: usize,
}

impl Series {
    /// Holds out the last `fraction` of each series; windows have `length` rows, and `horizon` more are told.
    ///
    /// # Errors
    /// [`Error::InvalidFraction`], [`Error::Size`]; [`Error::TooShort`] where no series has enough rows.
    pub fn new(records: Records, length: usize, horizon: usize, fraction: f64) -> Result<Self> {
        check_size(PLACE, "length", length, 1..=MOST_VALUES)?;
        check_size(PLACE, "horizon", horizon, 1..=MOST_VALUES)?;
        if !(0.0..1.0).contains(&fraction) {
            return Err(Error::InvalidFraction(fraction));
        }
        let parts: Vec<(Range<usize>, usize)> = (records.all().iter())
            .map(|record| {
                let rows = record.positions.clone();
                let held_out = (rows.len() as f64 * fraction) as usize;
                (rows.clone(), rows.end - held_out)
            })
            .collect();
        let learnt = |(rows, held_out): &(Range<usize>, usize)| held_out - rows.start;
        let (needed, available) = (
            length + horizon,
            parts.iter().map(learnt).max().unwrap_or(0),
        );
        if available < needed {
            return Err(Error::TooShort {
                split: Split::Train,
                available,
                needed,
                length,
            });
        }
        let held_out = |(rows, held_out): &(Range<usize>, usize)| rows.end - held_out;
        let available = parts.iter().map(held_out).max().unwrap_or(0);
        if fraction > 0.0 && available < horizon {
            return Err(Error::TooShort {
                split: Split::Validation,
                available,
                needed: horizon,
                length: horizon,
            });
        }
        let scale = scale(&records, &parts)?;
        Ok(Self {
            records: records.into(),
            parts,
            scale,
            length,
            horizon,
        })
    }

    /// The mean and the standard deviation of each channel in the rows that are learnt from; 1 where that is 0.
    pub fn scale(&self) -> &[[f32; 2]] {
        &self.scale
    }

    /// The rows of each series that are learnt from.
    pub fn learnt(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.parts
            .iter()
            .map(|(rows, held_out)| rows.start..*held_out)
    }

    /// All series.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Rows of both parts.
    pub fn rows(&self, split: Split) -> usize {
        let rows = |(rows, held_out): &(Range<usize>, usize)| match split {
            Split::Train => held_out - rows.start,
            Split::Validation => rows.end - held_out,
        };
        self.parts.iter().map(rows).sum()
    }

    /// Windows of the held-out part: `length` rows up to a last one, and the `horizon` rows behind it, none of which
    /// was learnt from. They are `horizon` rows apart, or further where there would be more than `most`.
    pub fn held_out(&self, most: usize) -> Vec<Range<usize>> {
        let (length, horizon) = (self.length, self.horizon);
        let windows = self.parts.iter().flat_map(|(rows, held_out)| {
            let first = (*held_out).max(rows.start + length);
            let last = (rows.end + 1).saturating_sub(horizon);
            let firsts = (first..last.max(first)).step_by(horizon);
            firsts.map(move |first| first - length..first + horizon)
        });
        spread(windows.collect(), most)
    }

    /// Rows as they are in the files. // (rows, channels)
    ///
    /// # Errors
    /// A temporary file that cannot be read.
    pub fn values(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        match self.records.read(rows)? {
            Numbers::Values(values) => Ok(values),
            Numbers::Ids(_) => Err(Error::other("a series has values")),
        }
    }

    /// Windows as a model reads them, with what it is to answer.
    ///
    /// # Errors
    /// A temporary file that cannot be read.
    pub fn batch(&self, windows: &[Range<usize>]) -> Result<Batch<Numbers>> {
        let (channels, horizon) = (self.scale.len(), self.horizon);
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for window in windows {
            let mut rows = self.values(window.clone())?;
            scaled(&mut rows, &self.scale);
            inputs.extend_from_slice(&rows[..self.length * channels]);
            for at in 0..self.length {
                let now = &rows[at * channels..][..channels];
                for next in rows[(at + 1) * channels..].chunks(channels).take(horizon) {
                    targets.extend(next.iter().zip(now).map(|(next, now)| next - now));
                }
            }
        }
        Ok(Batch {
            inputs: Numbers::Values(inputs),
            targets: Numbers::Values(targets),
            starts: None,
            batch: windows.len(),
            length: self.length,
        })
    }

    /// Random windows of the part that is learnt from, in an order of this seed: laid end to end from a random offset
    /// on, each visited once before one is visited again.
    ///
    /// # Errors
    /// [`Error::Size`] for batches that no memory holds.
    pub fn source(&self, batch: usize, seed: u64) -> Result<SeriesSource> {
        let answers = self.length.saturating_mul(self.horizon * self.scale.len());
        check_batch(PLACE, batch, answers)?;
        let needed = self.length + self.horizon;
        let long_enough =
            |(rows, held_out): &&(Range<usize>, usize)| held_out - rows.start >= needed;
        let mut windows = Vec::new();
        for (rows, held_out) in self.parts.iter().filter(long_enough) {
            let room = held_out - self.horizon - rows.start;
            let count = room / self.length;
            let left = room - count * self.length;
            windows.extend((0..count).map(|i| (rows.start + i * self.length, left)));
        }
        Ok(SeriesSource {
            fingerprint: self.records.fingerprint()?,
            series: self.clone(),
            windows: windows.into(),
            batch,
            seed,
        })
    }
}

/// The mean and the standard deviation of each channel, of what is learnt from.
fn scale(records: &Records, parts: &[(Range<usize>, usize)]) -> Result<Vec<[f32; 2]>> {
    const ROWS: usize = 1 << 16;
    let channels = records.channels();
    let mut sums = vec![[0.0_f64; 2]; channels];
    // Around the first row, so that large values do not swallow small changes.
    let mut first: Option<Vec<f32>> = None;
    let mut count = 0_u64;
    for (rows, held_out) in parts {
        for from in (rows.start..*held_out).step_by(ROWS) {
            let Numbers::Values(values) = records.read(from..(from + ROWS).min(*held_out))? else {
                continue;
            };
            let first = first.get_or_insert_with(|| values[..channels].to_vec());
            for row in values.chunks(channels) {
                count += 1;
                for ((value, first), [sum, squares]) in row.iter().zip(&*first).zip(&mut sums) {
                    let off = f64::from(*value) - f64::from(*first);
                    *sum += off;
                    *squares += off * off;
                }
            }
        }
    }
    let (first, count) = (first.unwrap_or_default(), count as f64);
    let of = |(first, [sum, squares]): (f32, [f64; 2])| {
        let mean = sum / count;
        let deviation = (squares / count - mean * mean).max(0.0).sqrt() as f32;
        let deviation = if deviation > 0.0 { deviation } else { 1.0 };
        [(f64::from(first) + mean) as f32, deviation]
    };
    Ok(first.into_iter().zip(sums).map(of).collect())
}

/// Brings rows to the scale of a [`Series`]. // (rows, channels)
pub fn scaled(rows: &mut [f32], scale: &[[f32; 2]]) {
    for row in rows.chunks_mut(scale.len().max(1)) {
        for (value, [mean, deviation]) in row.iter_mut().zip(scale) {
            *value = (*value - mean) / deviation;
        }
    }
}

/// What [`Series::source`] draws.
#[derive(Clone, Debug)]
pub struct SeriesSource {
    series: Series,
    fingerprint: u64,
    /// Where each begins at least, and how many rows later at most.
    windows: Arc<[(usize, usize)]>,
    batch: usize,
    seed: u64,
}

impl Source for SeriesSource {
    fn batch(&self, index: u64) -> Result<Batch<Numbers>> {
        let count = self.windows.len() as u64;
        let first = u128::from(index) * self.batch as u128;
        let window = |number: u128| {
            let (place, share) = visit(self.seed, number, count, |epoch| epoch);
            let (start, left) = self.windows[place];
            let start = start + moved(share, left);
            start..start + self.series.length + self.series.horizon
        };
        let windows: Vec<Range<usize>> = (0..self.batch as u128)
            .map(|row| window(first + row))
            .collect();
        self.series.batch(&windows)
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            inputs: 0,
            targets: self.series.horizon * self.series.scale.len(),
        }
    }

    fn description(&self) -> String {
        let Series {
            length,
            horizon,
            scale,
            ..
        } = &self.series;
        let (batch, seed, windows) = (self.batch, self.seed, self.windows.len());
        let data = self.fingerprint;
        format!(
            "{windows} windows of series {data:016x}, scale {scale:?}, batch {batch}, length {length}, horizon {horizon}, seed {seed}"
        )
    }
}
