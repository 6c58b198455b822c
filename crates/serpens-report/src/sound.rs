//! Sounds: their wave and their spectrum over one axis of time, and the sound itself in a page.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::axis::{Axis, Scale};
use crate::encode::{base64, png, wav};
use crate::groups::{groups, mean};
use crate::heat;
use crate::plot::Plot;
use crate::svg::{Drawing, Face, ROUND, short};
use crate::text::{escape, is_far, short_number};
use crate::theme::{Inks, MEMORY};

/// Columns of a waveform that are kept at most.
const MOST_COLUMNS: usize = 2000;
/// Columns and rows of a spectrogram that are kept at most.
const MOST_PIXELS: [usize; 2] = [600, 128];
/// What a page plays of a sound at most: seconds, and samples of two bytes.
const MOST_PLAYED: [usize; 2] = [10, 350_000];
/// Decibels from the darkest to the lightest colour at most: what is softer is not heard beside the loudest.
const MOST_DECIBELS: f64 = 80.0;
const WAVE_HEIGHT: f64 = 72.0;
const SPECTRUM_HEIGHT: f64 = 150.0;
const TIME: &str = "time, s";

/// A sound. What is empty of it is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sound {
    /// Heading.
    pub title: String,
    /// Its samples over time; a page plays them too.
    pub waveform: Waveform,
    /// Its spectrum over time.
    pub spectrogram: Spectrogram,
    /// What the reader should see in it.
    pub caption: String,
}

/// The samples of a sound as a figure shows them: the least and the largest of each of at most 2,000 columns; and
/// their beginning as a WAV file, at most 10 s or 350,000 samples, for a page to play.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Waveform {
    seconds: f64,
    /// In steps of 16 bits. // (columns)
    columns: Vec<Option<(i16, i16)>>,
    wav: String,
}

/// The spectrum of a sound over time as a figure shows it: an image of at most 600 × 128 pixels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spectrogram {
    seconds: f64,
    /// The highest frequency, in Hz.
    top: f64,
    /// What the first and the last colour are, in dB.
    decibels: (f64, f64),
    png: String,
}

impl Waveform {
    /// Of samples from -1 to 1, `rate` of them a second. What is beyond is clipped;
    /// what is not finite is a gap, and silent.
    pub fn new(samples: &[f32], rate: u32) -> Self {
        let sample = |sample: &f32| (sample * 32767.0) as i16;
        let ends = |of: &[f32]| {
            let finite = || of.iter().filter(|value| value.is_finite()).map(sample);
            Some((finite().min()?, finite().max()?))
        };
        let columns = groups(samples.len(), MOST_COLUMNS).into_iter();
        let [seconds, most] = MOST_PLAYED;
        let most = most.min(seconds.saturating_mul(rate as usize));
        let played = samples.iter().take(most).map(sample);
        Self {
            seconds: samples.len() as f64 / f64::from(rate.max(1)),
            columns: columns.map(|column| ends(&samples[column])).collect(),
            wav: base64(&wav(played, rate)),
        }
    }

    /// As much up as down.
    fn axis(&self) -> Axis {
        let ends = self.columns.iter().flatten();
        let sizes = ends.flat_map(|ends| [ends.0, ends.1].map(i16::unsigned_abs));
        let largest = f64::from(sizes.max().unwrap_or(0)) / 32767.0;
        Axis::over(Scale::Linear, [-largest, largest].into_iter(), 4, true, 1.0)
    }

    /// A line through the ends of the columns, in as many of them as the plot has pixels.
    fn path(&self, plot: &Plot) -> String {
        let mut path = String::new();
        let mut pen = 'M';
        let all = groups(self.columns.len(), plot.width as usize);
        for column in all {
            let centre = (column.start + column.end) as f64 / 2.0 / self.columns.len() as f64;
            let known = || self.columns[column.clone()].iter().flatten();
            let low = known().map(|ends| ends.0).min().map(f64::from);
            let high = known().map(|ends| ends.1).max().map(f64::from);
            let place = |end: f64| plot.locate((centre * self.seconds, end / 32767.0));
            pen = match (low.and_then(place), high.and_then(place)) {
                (Some((x, low)), Some((_, high))) => {
                    let [x, low, high] = [x, low, high].map(short);
                    path += &format!("{pen}{x} {high}V{low}");
                    'L'
                }
                _ => 'M',
            };
        }
        path
    }
}

impl Spectrogram {
    /// Of columns of decibels, each `hop` samples after the one before, from 0 Hz in even steps to half of the `rate`
    /// (samples a second). Neighbours are taken in groups, of which the mean is shown; what is not finite, missing, or
    /// more than 80 dB below the loudest is silence. Bins are those of the first column. // columns: (length, bins)
    pub fn new(columns: &[Vec<f32>], rate: u32, hop: usize) -> Self {
        let bins = columns.first().map_or(0, Vec::len);
        if bins == 0 {
            return Self::default();
        }
        let times = groups(columns.len(), MOST_PIXELS[0]);
        let value = |time: &Range<usize>, pitch: &Range<usize>| {
            let cells = |column: &Vec<f32>| column.get(pitch.clone()).unwrap_or_default().to_vec();
            mean(columns[time.clone()].iter().flat_map(cells).map(f64::from))
        };
        // The highest first.
        let pitches = groups(bins, MOST_PIXELS[1]).into_iter().rev();
        let row = |pitch: Range<usize>| times.iter().map(move |time| value(time, &pitch));
        let values: Vec<Option<f64>> = pitches.flat_map(row).collect();
        let known = || values.iter().flatten().copied();
        let high = known().reduce(f64::max).unwrap_or(0.0);
        let low = known().fold(high - 1.0, f64::min).max(high - MOST_DECIBELS);
        let place = |value: f64| (value - low) / (high - low);
        let pixel = |value: &Option<f64>| (value.map_or(0.0, place) * 255.0).round() as u8;
        let pixels: Vec<u8> = values.iter().map(pixel).collect();
        let palette = std::array::from_fn(|i| MEMORY.rgb(i as f64 / 255.0));
        Self {
            seconds: columns.len() as f64 * hop as f64 / f64::from(rate.max(1)),
            top: f64::from(rate) / 2.0,
            decibels: (low, high),
            png: base64(&png(&pixels, times.len(), &palette)),
        }
    }

    /// In kHz.
    fn axis(&self) -> Axis {
        Axis::over(Scale::Linear, [0.0, self.top].into_iter(), 5, false, 1e-3)
    }

    fn draw(&self, drawing: &mut Drawing, plot: &Plot, inks: &Inks) {
        let decibels = |value: f64| short_number(value.round(), 3, is_far(value));
        let [low, high] = [self.decibels.0, self.decibels.1].map(decibels);
        let texts = ["", &low, &(high + " dB")];
        let x = plot.right() - heat::key_width(texts);
        let at = (x, plot.top - 12.0);
        heat::key(drawing, at, &Face::new(inks.muted), &MEMORY, texts);
        let width = plot.x.place(self.seconds).unwrap_or(1.0).clamp(0.0, 1.0) * plot.width;
        let [x, y, width, height] = [plot.left, plot.top, width, plot.height].map(short);
        let png = escape(&self.png);
        drawing.shapes += &format!(
            "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" href=\"data:image/png;base64,{png}\"/>\n"
        );
    }
}

impl Sound {
    /// What plays it in a page.
    pub(super) fn player(&self) -> String {
        let (title, wav) = (escape(&self.title), escape(&self.waveform.wav));
        match wav.is_empty() {
            true => String::new(),
            false => format!(
                "<audio controls aria-label=\"{title}\" src=\"data:audio/wav;base64,{wav}\"></audio>\n"
            ),
        }
    }

    pub(super) fn draw(&self, width: f64, inks: &Inks) -> Drawing {
        let (wave, spectrum) = (&self.waveform, &self.spectrogram);
        let (has_wave, has_spectrum) = (!wave.columns.is_empty(), !spectrum.png.is_empty());
        if !has_wave && !has_spectrum {
            return Drawing::without_data(width, inks);
        }
        let mut drawing = Drawing::new(width);
        let [amplitudes, pitches] = [wave.axis(), spectrum.axis()];
        let left = Plot::left_of(amplitudes.label_width().max(pitches.label_width()));
        let ends = [0.0, wave.seconds.max(spectrum.seconds)];
        let x = |most| Axis::over(Scale::Linear, ends.into_iter(), most, false, 1.0);
        let mut bottom = 0.0;
        if has_wave {
            let corner = (left, 24.0);
            let mut plot = Plot::new(width, corner, WAVE_HEIGHT, x, amplitudes);
            let mut time = TIME;
            if has_spectrum {
                plot.x.ticks.clear();
                time = "";
            }
            plot.frame(&mut drawing, inks, [time, "amplitude"]);
            drawing.stroke(&wave.path(&plot), inks.s0, 1.0, &[ROUND]);
            bottom = plot.bottom() + 10.0;
        }
        if has_spectrum {
            let corner = (left, bottom + 24.0);
            let plot = Plot::new(width, corner, SPECTRUM_HEIGHT, x, pitches);
            plot.frame(&mut drawing, inks, [TIME, "frequency, kHz"]);
            spectrum.draw(&mut drawing, &plot, inks);
            bottom = plot.bottom() + 10.0;
        }
        drawing.height = bottom + 30.0;
        drawing
    }
}
