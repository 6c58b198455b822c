//! How the processor's kernels are cut into tasks: by sizes alone, never by the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::team;

/// Below this many values a kernel stays on the calling thread: waking others costs more than the work.
pub(crate) const SMALL: usize = 16 * 1024;

/// As [`SMALL`], where a team is awake.
const SMALL_FOR_TEAM: usize = 2 * 1024;

/// Largest number of row blocks whose partial sums a reduction combines.
const PARTIALS: usize = 64;

/// Runs `task(0..tasks)`, on all threads where the tasks touch at least [`SMALL`] `values` together: those of the team
/// that was entered, or rayon's.
pub(crate) fn for_each_task(values: usize, tasks: usize, task: impl Fn(usize) + Sync) {
    let on_team = team::is_entered();
    let small = if on_team { SMALL_FOR_TEAM } else { SMALL };
    if values < small || tasks < 2 {
        (0..tasks).for_each(&task);
    } else if on_team {
        team::run(tasks, &task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(&task);
    }
}

/// A matrix cut into pieces of [`SMALL`] values or a little fewer: some rows, or a stretch of one. That is a few pages
/// of memory, so that the pieces of any large matrix occupy every thread.
pub(crate) struct Pieces {
    rows: usize,
    cols: usize,
    /// Rows of a piece, and pieces of a row.
    sizes: [usize; 2],
}

impl Pieces {
    pub(crate) fn new(rows: usize, cols: usize) -> Self {
        let sizes = [(SMALL / cols.max(1)).max(1), cols.div_ceil(SMALL)];
        Self { rows, cols, sizes }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        let [rows_of_piece, pieces_of_row] = self.sizes;
        self.rows.div_ceil(rows_of_piece) * pieces_of_row
    }

    /// Does `work` with the number of each piece, its rows, and the first of its columns and the one behind the last.
    pub(crate) fn for_each(&self, work: impl Fn(usize, Range<usize>, usize, usize) + Sync) {
        let [rows_of_piece, pieces_of_row] = self.sizes;
        for_each_task(self.rows * self.cols, self.count(), |piece| {
            let (i, j) = (piece / pieces_of_row, piece % pieces_of_row);
            let rows = i * rows_of_piece..self.rows.min((i + 1) * rows_of_piece);
            work(piece, rows, j * SMALL, self.cols.min((j + 1) * SMALL));
        });
    }
}

/// Rows of one block of a reduction over `rows` rows: a function of the shape alone, so that the order of summation,
/// and with it every bit of the result, is the same for any number of threads.
pub(crate) fn reduction_block(rows: usize) -> usize {
    rows.div_ceil(PARTIALS).next_multiple_of(8).max(32)
}
