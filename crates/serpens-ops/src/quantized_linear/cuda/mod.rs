//! Matrices in blocks on a GPU: in what order its kernels read them.
//!
//! Two planes, one behind the other. Of every row groups of values that are read together by four threads, 16 bytes
//! each: thread q has values 8 q to 8 q + 7 of every block of the group, block after block. Behind all rows the scales,
//! (rows, groups, blocks of a group) in f16. A row is filled up with zeros to whole groups.

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
        self.values() + (self.rows * self.groups * self.blocks * 2).next_multiple_of(4)
    }

    /// Where the scale and the parts of values of a block are: this one of all of a row.
    fn places(&self, row: usize, block: usize) -> (usize, impl Fn(usize) -> usize) {
        let (group, inside) = (block / self.blocks, block % self.blocks);
        let scale = self.values() + 2 * ((row * self.groups + group) * self.blocks + inside);
        let first = row * self.row() + group * (BLOCK / PART) * ACCESS + inside * self.part;
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
    let layout = Layout::new(blocks, sizes)?;
    let mut packed = vec![0_u8; layout.bytes()];
    let of_row = sizes[1] / BLOCK;
    for (i, block) in bytes.chunks_exact(blocks.bytes()).enumerate() {
        let (scale, part) = layout.places(i / of_row, i % of_row);
        packed[scale..scale + 2].copy_from_slice(&block[..2]);
        for q in 0..BLOCK / PART {
            let to = &mut packed[part(q)..][..layout.part];
            match blocks {
                Blocks::Q8_0 => to.copy_from_slice(&block[2 + q * PART..][..PART]),
                // Value i of a block is the low half of byte i, or the high half of byte i - 16.
                _ => {
                    let value = |i: usize| block[2 + i % 16] >> (4 * (i / 16)) & 15;
                    for (i, place) in (0..PART).zip(NIBBLES) {
                        to[place / 2] |= value(q * PART + i) << (4 * (place % 2));
                    }
                }
            }
        }
    }
    let words: Vec<u32> = packed
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    Tensor::from_slice([words.len()], &words, device)
}

/// Where the eight values of a part are among the halves of its bytes: neighbours 16 bits apart.
const NIBBLES: [usize; PART] = [0, 4, 1, 5, 2, 6, 3, 7];

/// What [`pack`] was given.
pub(crate) fn unpack(packed: &Packed) -> Result<Vec<u8>> {
    let (blocks, sizes) = (packed.blocks(), [packed.rows(), packed.cols()]);
    let layout = Layout::new(blocks, sizes)?;
    let words = packed.data().to_vec::<u32>()?;
    let values: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    let of_row = sizes[1] / BLOCK;
    let mut bytes = vec![0_u8; sizes[0] * of_row * blocks.bytes()];
    for (i, block) in bytes.chunks_exact_mut(blocks.bytes()).enumerate() {
        let (scale, part) = layout.places(i / of_row, i % of_row);
        block[..2].copy_from_slice(&values[scale..scale + 2]);
        for q in 0..BLOCK / PART {
            let from = &values[part(q)..][..layout.part];
            match blocks {
                Blocks::Q8_0 => block[2 + q * PART..][..PART].copy_from_slice(from),
                _ => {
                    for (i, place) in (q * PART..).zip(NIBBLES) {
                        let value = from[place / 2] >> (4 * (place % 2)) & 15;
                        block[2 + i % 16] |= value << (4 * (i / 16));
                    }
                }
            }
        }
    }
    Ok(bytes)
}
