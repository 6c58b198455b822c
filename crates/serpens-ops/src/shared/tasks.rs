//! How the processor's kernels are cut into tasks: by sizes alone, never by the number of threads.

use rayon::prelude::*;

/// Below this many values a kernel stays on the calling thread: waking others costs more than the work.
pub(crate) const SMALL: usize = 16 * 1024;

/// Largest number of row blocks whose partial sums a reduction combines.
const PARTIALS: usize = 64;

/// Runs `task(0..tasks)`, on all threads where the tasks touch at least [`SMALL`] `values` together.
pub(crate) fn for_each_task(values: usize, tasks: usize, task: impl Fn(usize) + Sync) {
    if values < SMALL || tasks < 2 {
        (0..tasks).for_each(&task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(&task);
    }
}

/// Rows of one block of a reduction over `rows` rows: a function of the shape alone, so that the order of summation,
/// and with it every bit of the result, is the same for any number of threads.
pub(crate) fn reduction_block(rows: usize) -> usize {
    rows.div_ceil(PARTIALS).next_multiple_of(8).max(32)
}
