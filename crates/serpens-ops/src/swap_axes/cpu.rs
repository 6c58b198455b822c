//! Grids read along their columns on the processor: rows are copied, pieces of them by each thread.

use serpens_core::{Mat, MatMut};

use crate::shared::tasks::Pieces;

/// y\[b, c·R + r\] = x\[b, r·C + c\], both (batch · R · C, width).
///
/// # Panics
/// If the sizes differ, or rows are not whole grids.
pub fn swap_axes(x: Mat, [rows, columns]: [usize; 2], y: MatMut) {
    let (count, width) = (y.rows(), y.cols());
    assert_eq!((x.rows(), x.cols()), (count, width), "the sizes of x and y");
    let grid = rows * columns;
    assert_eq!(count / grid.max(1) * grid, count, "whole grids");
    Pieces::new(count, width).for_each(|_, of_piece, from, to| {
        for row in of_piece {
            let (first, place) = (row - row % grid, row % grid);
            let x = x.part(first + place % rows * columns + place / rows, from, to);
            // SAFETY: each piece has its own rows and columns.
            unsafe { y.part(row, from, to) }.copy_from_slice(x);
        }
    });
}
