//! Matrices in blocks on a GPU: in what order its kernels read them.
//!
//! Two planes, one behind the other. Of every panel of 8 rows groups of values that a warp reads together, 16 bytes a
//! thread: (panels, groups, 8 rows, 4 threads); thread q of a row has values 8 q to 8 q + 7 of every block of the
//! group, block after block. Values of four bits are less by 8, in two's complement: four in the low halves of bytes,
//! then four in the high ones. Behind all values the scales, (panels, groups, 8 rows, blocks of a group) in f16. Rows
//! are filled up with zeros to whole groups, and with rows of zeros to an even number of panels, which some kernels
//! read in pairs.

use rayon::prelude::*;
use serpens_core::{Device, Error, Result, Tensor};

use super::{Blocks, OP, Packed};

/// Values of a block, and of a part of it that one thread has.
const BLOCK: usize = 32;
const PART: usize = 8;
/// Bytes of a thread's values of a group.
const ACCESS: usize = 16;
/// Rows that are read together.
const PANEL: usize = 8;

/// How a kind of blocks lies on a GPU.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// Blocks of a group.
    pub blocks: usize,
    /// Bytes of a part.
    part: usize,
    groups: usize,
    rows: usize,
}

impl Layout {
    /// Of a matrix.
    ///
    /// # Errors
    /// [`Error::Missing`] for kinds that the kernels do not read.
    pub(crate) fn new(blocks: Blocks, [rows, cols]: [usize; 2]) -> Result<Self> {
        let part = match blocks {
            Blocks::Q8_0 => PART,
            Blocks::Q4_0 => PART / 2,
            Blocks::Q4_K | Blocks::Q6_K => {
                let what = "blocks of Q8_0 or Q4_0 for the kernels of a GPU";
                return Err(Error::Missing { op: OP, what });
            }
        };
        let blocks = ACCESS / part;
        Ok(Self {
            blocks,
            part,
            groups: cols.div_ceil(blocks * BLOCK),
            rows,
        })
    }

    /// Bytes of a row's values.
    pub(crate) fn row(&self) -> usize {
        self.groups * BLOCK / PART * ACCESS
    }

    /// Bytes before the scales.
    pub(crate) fn values(&self) -> usize {
        self.panels() * PANEL * self.row()
    }

    fn panels(&self) -> usize {
        self.rows.div_ceil(2 * PANEL) * 2
    }

    fn bytes(&self) -> usize {
        self.values() + self.panels() * PANEL * self.scales()
    }

    /// Bytes of a row's scales.
    fn scales(&self) -> usize {
        2 * self.groups * self.blocks
    }

    /// Where the scale of a block of a row is among those of its panel, and part `q` of its values.
    fn places(&self, row: usize, block: usize) -> (usize, impl Fn(usize) -> usize) {
        let (group, inside) = (block / self.blocks, block % self.blocks);
        let place = group * PANEL + row;
        let scale = 2 * (place * self.blocks + inside);
        let first = place * (BLOCK / PART) * ACCESS + inside * self.part;
        (scale, move |q| first + q * ACCESS)
    }
}

/// Blocks of GGUF, row by row, as the kernels read them.
pub(crate) fn pack(
    blocks: Blocks,
    sizes: [usize; 2],
    bytes: &[u8],
    device: Device,
) -> Result<Tensor> {
    let words = packed(&Layout::new(blocks, sizes)?, sizes[1], bytes);
    Tensor::from_slice([words.len()], &words, device)
}

/// What [`pack`] was given.
pub(crate) fn unpack(packed: &Packed) -> Result<Vec<u8>> {
    let layout = Layout::new(packed.blocks(), [packed.rows(), packed.cols()])?;
    Ok(unpacked(&layout, packed.cols(), &packed.data().to_vec()?))
}

fn packed(layout: &Layout, cols: usize, bytes: &[u8]) -> Vec<u32> {
    let size = 2 + BLOCK / PART * layout.part;
    let mut words = vec![0; layout.bytes() / size_of::<u32>()];
    let all = bytemuck::cast_slice_mut::<u32, u8>(&mut words);
    let (values, scales) = all.split_at_mut(layout.values());
    let row = cols / BLOCK * size;
    let panels = values
        .par_chunks_mut((PANEL * layout.row()).max(1))
        .zip(scales.par_chunks_mut((PANEL * layout.scales()).max(1)))
        .zip(bytes.par_chunks((PANEL * row).max(1)));
    panels.for_each(|((values, scales), bytes)| {
        for (i, block) in bytes.chunks_exact(size).enumerate() {
            let (scale, part) = layout.places(i / (cols / BLOCK), i % (cols / BLOCK));
            let (first, quants) = block.split_at(2);
            scales[scale..scale + 2].copy_from_slice(first);
            for q in 0..BLOCK / PART {
                let to = &mut values[part(q)..][..layout.part];
                if layout.part == PART {
                    to.copy_from_slice(&quants[q * PART..][..PART]);
                    continue;
                }
                // Value i of a block is the low half of byte i, or the high half of byte i - 16.
                let value = |i: usize| quants[i % 16] >> (4 * (i / 16)) & 15;
                for (i, place) in (q * PART..).zip(NIBBLES) {
                    to[place / 2] |= (value(i) ^ 8) << (4 * (place % 2));
                }
            }
        }
    });
    words
}

/// Where the eight values of a part are among the halves of its bytes.
const NIBBLES: [usize; PART] = [0, 2, 4, 6, 1, 3, 5, 7];

fn unpacked(layout: &Layout, cols: usize, words: &[u32]) -> Vec<u8> {
    let size = 2 + BLOCK / PART * layout.part;
    let (values, scales) = bytemuck::cast_slice(words).split_at(layout.values());
    let mut bytes = vec![0_u8; layout.rows * (cols / BLOCK) * size];
    let row = cols / BLOCK * size;
    let panels = bytes
        .par_chunks_mut((PANEL * row).max(1))
        .zip(values.par_chunks((PANEL * layout.row()).max(1)))
        .zip(scales.par_chunks((PANEL * layout.scales()).max(1)));
    panels.for_each(|((bytes, values), scales)| {
        for (i, block) in bytes.chunks_exact_mut(size).enumerate() {
            let (scale, part) = layout.places(i / (cols / BLOCK), i % (cols / BLOCK));
            let (first, quants) = block.split_at_mut(2);
            first.copy_from_slice(&scales[scale..scale + 2]);
            for q in 0..BLOCK / PART {
                let from = &values[part(q)..][..layout.part];
                if layout.part == PART {
                    quants[q * PART..][..PART].copy_from_slice(from);
                    continue;
                }
                for (i, place) in (q * PART..).zip(NIBBLES) {
                    let value = from[place / 2] >> (4 * (place % 2)) & 15 ^ 8;
                    quants[i % 16] |= value << (4 * (i / 16));
                }
            }
        }
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_all_bits_come_back_and_lie_where_the_kernels_look() {
        for (kind, sizes) in [Blocks::Q8_0, Blocks::Q4_0]
            .into_iter()
            .flat_map(|kind| [[0, 64], [3, 0], [1, 32], [5, 96], [70, 160]].map(|s| (kind, s)))
        {
            let [rows, cols] = sizes;
            let (of_row, size) = (cols / BLOCK, kind.bytes());
            let byte = |i: usize| (i * 37 + i / 256 * 11) as u8;
            let bytes: Vec<u8> = (0..rows * of_row * size).map(byte).collect();
            let layout = Layout::new(kind, sizes).unwrap();
            let words = packed(&layout, cols, &bytes);
            assert_eq!(words.len() * size_of::<u32>(), layout.bytes());
            assert!(unpacked(&layout, cols, &words) == bytes, "{kind} {sizes:?}");
            let placed: &[u8] = bytemuck::cast_slice(&words);
            for (i, block) in bytes.chunks_exact(size).enumerate() {
                let (row, place) = (i / of_row, i % of_row);
                let (group, inside) = (place / layout.blocks, place % layout.blocks);
                let access = (row / 8 * layout.groups + group) * 8 + row % 8;
                let scale = layout.values() + 2 * (access * layout.blocks + inside);
                assert_eq!(placed[scale..scale + 2], block[..2]);
                let group = access * 64;
                // Thread q of a row has values 8 q to 8 q + 7 of every block of the group, block after block.
                let thread = |q: usize| group + 16 * q + inside * (size - 2) / 4;
                for value in 0..BLOCK {
                    let (to, i) = (thread(value / 8), value % 8);
                    let (found, expected) = match kind {
                        Blocks::Q8_0 => (placed[to + i], block[2 + value]),
                        _ => {
                            let found = (placed[to + i % 4] >> (4 * (i / 4)) & 15) ^ 8;
                            (found, block[2 + value % 16] >> (4 * (value / 16)) & 15)
                        }
                    };
                    assert_eq!(found, expected, "{kind} {sizes:?}: row {row}, {value}");
                }
            }
        }
    }
}
