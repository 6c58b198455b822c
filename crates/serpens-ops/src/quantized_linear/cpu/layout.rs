//! How matrices of blocks lie in the processor's memory.
//!
//! [`PANEL`] rows together, block by block. Inside a panel's block the parts of a block stand one behind the other,
//! scales first, and each part by its units: the first unit of every row, then the second. A unit of quants is 4 bytes,
//! so that a vector of 64 holds the same columns of all rows: products need no sum across lanes, and the scales of all
//! rows are one load. Nothing but the order of the bytes changes (and the sign bit of Q8_0's, which makes them
//! unsigned), so blocks come back as they were.

use rayon::prelude::*;
use serpens_core::{DType, Device, Result, Tensor};

use super::blocks::decoder;
use crate::quantized_linear::Blocks;
use crate::shared::scratch::with_scratch;

/// Rows of W that lie side by side; those behind the last are zeros.
pub(crate) const PANEL: usize = 16;

/// A part of a block: its place in the block, the bytes of a unit and their number, and what its bytes are xored with.
#[derive(Clone, Copy)]
struct Section {
    at: usize,
    unit: usize,
    count: usize,
    flip: u8,
}

const fn section(at: usize, unit: usize, count: usize) -> Section {
    Section {
        at,
        unit,
        count,
        flip: 0,
    }
}

/// The parts of a block in the order of a panel.
fn sections(blocks: Blocks) -> &'static [Section] {
    const SIGNED: Section = Section {
        flip: 0x80,
        ..section(2, 4, 8)
    };
    match blocks {
        Blocks::Q8_0 => const { &[section(0, 2, 1), SIGNED] },
        Blocks::Q4_0 => const { &[section(0, 2, 1), section(2, 4, 4)] },
        Blocks::Q4_K => const { &[section(0, 2, 2), section(4, 1, 12), section(16, 4, 32)] },
        Blocks::Q6_K => const { &SIX },
    }
}

/// Those of Q6_K. Four rows of 32 values have their bits in three places; the bits of four columns lie together, so
/// that memory is read in order.
const SIX: [Section; 50] = {
    let mut sections = [section(208, 2, 1); 50];
    sections[1] = section(192, 1, 16);
    let mut i = 0;
    while i < 16 {
        let (half, column) = (i / 8, i % 8 * 4);
        sections[2 + 3 * i] = section(64 * half + column, 4, 1);
        sections[3 + 3 * i] = section(64 * half + 32 + column, 4, 1);
        sections[4 + 3 * i] = section(128 + 32 * half + column, 4, 1);
        i += 1;
    }
    sections
};

/// Copies the bytes of one row's block to or from its places in a panel's block, with their flips: calls `copy` with
/// the place in the panel, in the block, the number of bytes and the flip.
fn for_each_unit(blocks: Blocks, row: usize, mut copy: impl FnMut(usize, usize, usize, u8)) {
    let mut start = 0;
    for section in sections(blocks) {
        for i in 0..section.count {
            let to = start + (i * PANEL + row) * section.unit;
            copy(
                to,
                section.at + i * section.unit,
                section.unit,
                section.flip,
            );
        }
        start += section.count * section.unit * PANEL;
    }
}

/// The blocks of a matrix, row by row, in panels.
pub(crate) fn pack(blocks: Blocks, [rows, cols]: [usize; 2], bytes: &[u8]) -> Result<Tensor> {
    let (size, of_row) = (blocks.bytes(), cols / blocks.values() * blocks.bytes());
    let words = of_row * PANEL / 4;
    let mut data = Tensor::empty([rows.div_ceil(PANEL), words], DType::U32, Device::Cpu)?;
    if words == 0 {
        return Ok(data);
    }
    let panels: &mut [u8] = bytemuck::cast_slice_mut(data.make_mut::<u32>()?);
    let zeros = vec![0; of_row];
    let panels = panels.par_chunks_mut(of_row * PANEL).enumerate();
    panels.for_each(|(p, panel)| {
        for r in 0..PANEL {
            let first = (p * PANEL + r) * of_row;
            let row = bytes.get(first..first + of_row).unwrap_or(&zeros);
            let pairs = panel.chunks_mut(size * PANEL).zip(row.chunks(size));
            for (panel, block) in pairs {
                for_each_unit(blocks, r, |to, from, len, flip| {
                    for i in 0..len {
                        panel[to + i] = block[from + i] ^ flip;
                    }
                });
            }
        }
    });
    Ok(data)
}

/// The row `r` of a panel as blocks again.
fn unpack_row(blocks: Blocks, panel: &[u8], r: usize, row: &mut [u8]) {
    let size = blocks.bytes();
    for (panel, block) in panel.chunks(size * PANEL).zip(row.chunks_mut(size)) {
        for_each_unit(blocks, r, |from, to, len, flip| {
            for i in 0..len {
                block[to + i] = panel[from + i] ^ flip;
            }
        });
    }
}

/// The blocks of a matrix, row by row, from its panels.
pub(crate) fn unpack(blocks: Blocks, [rows, cols]: [usize; 2], panels: &[u8]) -> Vec<u8> {
    let of_row = cols / blocks.values() * blocks.bytes();
    let mut bytes = vec![0; rows * of_row];
    if of_row > 0 {
        let rows = bytes.par_chunks_mut(of_row).enumerate();
        rows.for_each(|(i, row)| {
            unpack_row(blocks, panel_of(panels, of_row, i), i % PANEL, row);
        });
    }
    bytes
}

/// The values of row `i`.
pub(crate) fn row(blocks: Blocks, cols: usize, panels: &[u8], i: usize, out: &mut [f32]) {
    let of_row = cols / blocks.values() * blocks.bytes();
    with_scratch(of_row.div_ceil(4), |scratch| {
        let row = &mut bytemuck::cast_slice_mut(scratch)[..of_row];
        unpack_row(blocks, panel_of(panels, of_row, i), i % PANEL, row);
        decoder(blocks)(row, out);
    });
}

/// The panel of row `i`.
fn panel_of(panels: &[u8], of_row: usize, i: usize) -> &[u8] {
    &panels[i / PANEL * of_row * PANEL..][..of_row * PANEL]
}
