//! Matrices in blocks on a GPU: in what order its kernels read them.
//!
//! Two planes, one behind the other. Of every row groups of values that are read together by four threads, 16 bytes
//! each: thread q has values 8 q to 8 q + 7 of every block of the group, block after block. Behind all rows the scales,
//! (rows, groups, blocks of a group) in f16. A row is filled up with zeros to whole groups.

use rayon::prelude::*;
use serpens_core::{Device, Error, Result, Tensor};

use super::{Blocks, OP, Packed};

/// Values of a block, and of a part of it that one thread has.
const BLOCK: usize = 32;
const PART: usize = 8;
/// Bytes of a thread's values of a group.
const ACCESS: usize = 16;

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
        self.rows * self.row()
    }

    fn bytes(&self) -> usize {
        self.values() + (self.rows * self.scales()).next_multiple_of(4)
    }

    /// Bytes of a row's scales.
    fn scales(&self) -> usize {
        2 * self.groups * self.blocks
    }

    /// Where part `q` of a block's values is in its row.
    fn part(&self, block: usize, q: usize) -> usize {
        let (group, inside) = (block / self.blocks, block % self.blocks);
        (group * (BLOCK / PART) + q) * ACCESS + inside * self.part
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
    let rows = values
        .par_chunks_mut(layout.row().max(1))
        .zip(scales.par_chunks_mut(layout.scales().max(1)))
        .zip(bytes.par_chunks((cols / BLOCK * size).max(1)));
    rows.for_each(|((values, scales), row)| {
        let scales = scales.as_chunks_mut().0.iter_mut();
        for ((i, block), scale) in row.chunks_exact(size).enumerate().zip(scales) {
            let (first, quants) = block.split_at(2);
            *scale = [first[0], first[1]];
            for q in 0..BLOCK / PART {
                let to = &mut values[layout.part(i, q)..][..layout.part];
                if layout.part == PART {
                    to.copy_from_slice(&quants[q * PART..][..PART]);
                    continue;
                }
                // Value i of a block is the low half of byte i, or the high half of byte i - 16.
                let value = |i: usize| quants[i % 16] >> (4 * (i / 16)) & 15;
                for (i, place) in (q * PART..).zip(NIBBLES) {
                    to[place / 2] |= value(i) << (4 * (place % 2));
                }
            }
        }
    });
    words
}

/// Where the eight values of a part are among the halves of its bytes: neighbours 16 bits apart.
const NIBBLES: [usize; PART] = [0, 4, 1, 5, 2, 6, 3, 7];

fn unpacked(layout: &Layout, cols: usize, words: &[u32]) -> Vec<u8> {
    let size = 2 + BLOCK / PART * layout.part;
    let (values, scales) = bytemuck::cast_slice(words).split_at(layout.values());
    let mut bytes = vec![0_u8; layout.rows * (cols / BLOCK) * size];
    let rows = bytes
        .par_chunks_mut((cols / BLOCK * size).max(1))
        .zip(values.par_chunks(layout.row().max(1)))
        .zip(scales.par_chunks(layout.scales().max(1)));
    rows.for_each(|((row, values), scales)| {
        let blocks = row.chunks_exact_mut(size).enumerate();
        for ((i, block), scale) in blocks.zip(scales.chunks_exact(2)) {
            let (first, quants) = block.split_at_mut(2);
            first.copy_from_slice(scale);
            for q in 0..BLOCK / PART {
                let from = &values[layout.part(i, q)..][..layout.part];
                if layout.part == PART {
                    quants[q * PART..][..PART].copy_from_slice(from);
                    continue;
                }
                for (i, place) in (q * PART..).zip(NIBBLES) {
                    let value = from[place / 2] >> (4 * (place % 2)) & 15;
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
                let scale = layout.values() + row * layout.scales() + 2 * place;
                assert_eq!(placed[scale..scale + 2], block[..2]);
                let group = row * layout.row() + place / layout.blocks * 64;
                // Thread q has values 8 q to 8 q + 7 of every block of the group, block after block.
                let thread = |q: usize| group + 16 * q + place % layout.blocks * (size - 2) / 4;
                for value in 0..BLOCK {
                    let (to, i) = (thread(value / 8), value % 8);
                    let (found, expected) = match kind {
                        Blocks::Q8_0 => (placed[to + i], block[2 + value]),
                        _ => {
                            let half = NIBBLES[i];
                            let found = placed[to + half / 2] >> (4 * (half % 2)) & 15;
                            (found, block[2 + value % 16] >> (4 * (value / 16)) & 15)
                        }
                    };
                    assert_eq!(found, expected, "{kind} {sizes:?}: row {row}, {value}");
                }
            }
        }
    }
}
