//! Positions on the processor: a row of the table added to each row, by threads that have rows of their own.

use serpens_core::{Element, Mat, MatMut};

use crate::shared::tasks::{SMALL, for_each_task};

/// y\[i\] = x\[i\] + table\[places\[i\]\].
///
/// # Panics
/// If the shapes disagree, or the table does not have a place.
pub fn forward<T: Element + Into<f32>>(x: Mat, table: Mat<T>, places: &[u32], y: MatMut) {
    let (rows, cols) = (x.rows(), x.cols());
    assert_eq!([y.rows(), y.cols()], [rows, cols], "y");
    assert_eq!([places.len(), table.cols()], [rows, cols], "positions");
    assert_there(places, table.rows());
    let block = (SMALL / cols.max(1)).max(1);
    for_each_task(rows * cols, rows.div_ceil(block), |task| {
        let from = task * block;
        let places = &places[from..rows.min(from + block)];
        for (row, &place) in (from..).zip(places) {
            // SAFETY: each task has its own rows.
            let y = unsafe { y.part(row, 0, cols) };
            y.copy_from_slice(x.row(row));
            add(y, table.row(place as usize));
        }
    });
}

/// Stretches of the table whose gradients are summed at the same time, at most.
const STRETCHES: usize = 64;

/// dtable\[places\[i\]\] += dy\[i\] for every i in order; `dtable` is set to zero first unless `accumulate`.
///
/// # Panics
/// As [`forward`].
pub fn backward(dy: Mat, places: &[u32], dtable: MatMut, accumulate: bool) {
    let (rows, cols, count) = (dy.rows(), dy.cols(), dtable.rows());
    assert_eq!([places.len(), dtable.cols()], [rows, cols], "positions");
    assert_there(places, count);
    let stretch = count.div_ceil(STRETCHES).max(1);
    // Each task looks for its rows among all, which costs little beside adding them up.
    for_each_task((rows + count) * cols, count.div_ceil(stretch), |task| {
        let own = task * stretch..count.min((task + 1) * stretch);
        // SAFETY: each task has its own rows of the table.
        let sum = |place| unsafe { dtable.part(place, 0, cols) };
        if !accumulate {
            own.clone().for_each(|place| sum(place).fill(0.0));
        }
        for (row, &place) in places.iter().enumerate() {
            if own.contains(&(place as usize)) {
                add(sum(place as usize), dy.row(row));
            }
        }
    });
}

fn assert_there(places: &[u32], count: usize) {
    let there = |&place: &u32| (place as usize) < count;
    assert!(places.iter().all(there), "a place beyond the table");
}

/// h\[s\] += table\[read\[s\]\], if there is such a row, and read\[s\] += 1, up to the largest number that there is.
///
/// # Panics
/// If the shapes disagree.
pub fn step<T: Element + Into<f32>>(h: MatMut, table: Mat<T>, read: &mut [u32]) {
    let (slots, cols) = (h.rows(), h.cols());
    assert_eq!([read.len(), table.cols()], [slots, cols], "positions");
    let read = MatMut::dense(read, 1);
    for_each_task(slots * cols, slots, |slot| {
        // SAFETY: each task has its own slot.
        let (h, read) = unsafe { (h.part(slot, 0, cols), &mut read.part(slot, 0, 1)[0]) };
        let place = *read as usize;
        if place < table.rows() {
            add(h, table.row(place));
        }
        *read = read.saturating_add(1);
    });
}

fn add<T: Element + Into<f32>>(to: &mut [f32], row: &[T]) {
    for (to, &value) in to.iter_mut().zip(row) {
        *to += value.into();
    }
}
