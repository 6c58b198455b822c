//! Sound at another rate.

use std::cell::Cell;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

/// Samples of the lower rate, at least, that the filter reaches over: so it is flat up to 0.95 of that one's half, and
/// below -80 dB soon after it.
const REACH: usize = 1024;
/// The most that one rate may be of the other, and the highest rate: the filter's memory grows with them.
const MOST: (u32, u32) = (256, 1 << 20);

/// Band-limited resampling of a stream: n samples become round(n · to / from), in phase with those they are of.
pub(super) struct Resampler {
    rates: [u32; 2],
    /// None where the rates are the same.
    filter: Option<Fft<f32>>,
    /// What does not fill a block of the filter yet.
    rest: Vec<f32>,
    block: Vec<f32>,
    /// Samples that the filter is still late by.
    late: usize,
    taken: u64,
    given: u64,
}

thread_local! {
    /// The filter that was used last: making one takes longer than a short file.
    static LAST: Cell<Option<([u32; 2], Fft<f32>)>> = const { Cell::new(None) };
}

impl Resampler {
    /// None where the rates lie too far apart.
    pub(super) fn new(from: u32, to: u32) -> Option<Self> {
        let (low, high) = (from.min(to), from.max(to));
        if low == 0 || high > MOST.1 || high.div_ceil(low) > MOST.0 {
            return None;
        }
        let last = LAST.take().filter(|(rates, _)| *rates == [from, to]);
        let mut filter = match last {
            _ if from == to => None,
            Some((_, filter)) => Some(filter),
            None => Some(filter(from as usize, to as usize)?),
        };
        let late = filter.as_mut().map_or(0, |filter| {
            filter.reset();
            filter.output_delay()
        });
        let (rest, block) = (Vec::new(), Vec::new());
        Some(Self {
            rates: [from, to],
            filter,
            rest,
            block,
            late,
            taken: 0,
            given: 0,
        })
    }

    /// Appends to `into` what is known once these samples are, too.
    pub(super) fn put(&mut self, samples: &[f32], into: &mut Vec<f32>) {
        self.taken += samples.len() as u64;
        if self.filter.is_none() {
            return into.extend_from_slice(samples);
        }
        self.rest.extend_from_slice(samples);
        self.blocks(u64::MAX, into);
    }

    /// Appends what is left, as if silence followed.
    pub(super) fn finish(mut self, into: &mut Vec<f32>) {
        let [from, to] = self.rates.map(u128::from);
        let all = ((2 * u128::from(self.taken) * to + from) / (2 * from)) as u64;
        while let Some(filter) = self.filter.as_ref().filter(|_| self.given < all) {
            self.rest.resize(filter.input_frames_next(), 0.0);
            self.blocks(all, into);
        }
        LAST.set(self.filter.map(|filter| (self.rates, filter)));
    }

    /// Filters every whole block, up to so many samples since the beginning.
    fn blocks(&mut self, all: u64, into: &mut Vec<f32>) {
        let Some(filter) = &mut self.filter else {
            return;
        };
        let (size, mut at) = (filter.input_frames_next(), 0);
        self.block.resize(filter.output_frames_next(), 0.0);
        while at + size <= self.rest.len() {
            let input = InterleavedSlice::new(&self.rest[at..at + size], 1, size);
            let frames = self.block.len();
            let output = InterleavedSlice::new_mut(&mut self.block, 1, frames);
            let (Ok(input), Ok(mut output)) = (input, output) else {
                unreachable!("both are as long as they say");
            };
            let done = filter.process_into_buffer(&input, &mut output, None);
            done.expect("blocks are as long as the filter asks");
            let first = self.late.min(frames);
            self.late -= first;
            let more = (frames - first).min((all - self.given) as usize);
            let kept = &self.block[first..first + more];
            into.extend(kept.iter().map(|sample| sample.clamp(-1.0, 1.0)));
            self.given += more as u64;
            at += size;
        }
        self.rest.drain(..at);
    }
}

/// A filter whose blocks are of an even length at both rates, so that it is late by a whole number of samples.
fn filter(from: usize, to: usize) -> Option<Fft<f32>> {
    let (mut divisor, mut rest) = (from, to);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    let least = from.min(to) / divisor;
    let chunk = REACH.div_ceil(least).next_multiple_of(2) * (from / divisor);
    let (window, fixed) = (WindowFunction::BlackmanHarris2, FixedSync::Both);
    Fft::new_custom(from, to, chunk, 1, 1, window, fixed).ok()
}
