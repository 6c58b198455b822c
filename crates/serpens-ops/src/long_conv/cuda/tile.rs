//! The part of a transform that one block has, and the resources it takes: as in `fft.cuh`.

use serpens_core::cuda::{Kernel, Source, kernel, properties};
use serpens_core::{DType, Device, Result};

/// `size` points of `width` channels, with room for `spectra` spectra put by.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) size: usize,
    pub(super) width: usize,
    spectra: usize,
}

impl Tile {
    /// With fewer channels where the device has too little shared memory for `width`.
    pub(super) fn new(device: Device, size: usize, width: usize, spectra: usize) -> Result<Self> {
        // What a block may take at most.
        let limit = match properties(device)?.capability {
            (8, 0 | 7) => 163 << 10,
            (9, _) | (10 | 11, _) => 227 << 10,
            _ => 99 << 10,
        };
        let mut tile = Self {
            size,
            width,
            spectra,
        };
        while tile.shared() > limit && tile.width > 1 {
            tile.width /= 2;
        }
        Ok(tile)
    }

    /// Threads of a block: each has 16 points of one channel.
    pub(super) fn threads(self) -> u32 {
        (self.size / 16 * self.width) as u32
    }

    /// Bytes of shared memory: the points with a row of padding after every 16, the passes' factors, the spectra.
    pub(super) fn shared(self) -> u32 {
        let points = (self.size + self.size / 16) * self.width;
        let spectra = self.spectra * self.size * self.width;
        (8 * (points + factors(self.size) + spectra)) as u32
    }

    /// Blocks of 128 registers a thread that a multiprocessor has room for.
    pub(super) fn resident(self) -> usize {
        (512 / self.threads() as usize).max(1)
    }

    /// A kernel for this tile, for sequences of a type where it reads or writes them.
    pub(super) fn kernel(
        self,
        device: Device,
        source: &'static Source,
        entry: &'static str,
        dtype: Option<DType>,
    ) -> Result<Kernel> {
        let defines = self.defines(dtype);
        let defines: Vec<_> = defines
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        kernel(device, source, entry, &defines)
    }

    fn defines(self, dtype: Option<DType>) -> Vec<(&'static str, String)> {
        let mut defines = vec![
            ("SIZE", self.size.to_string()),
            ("WIDTH", self.width.to_string()),
        ];
        defines.extend(dtype.map(|dtype| ("IO", dtype.cuda_name().to_owned())));
        defines
    }
}

/// The factors between the passes: seven for every distance from a pass's first point.
fn factors(points: usize) -> usize {
    match points {
        0..=16 => 0,
        _ => 7 * (points / 16) + factors(points / 16),
    }
}
