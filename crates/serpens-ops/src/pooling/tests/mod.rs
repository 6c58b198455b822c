pub(crate) mod devices;
mod gradcheck;
mod properties;
mod reference;

use crate::Starts;
use crate::pooling::Pooling;

const KINDS: [Pooling; 3] = [Pooling::Last, Pooling::Mean, Pooling::Attention];

/// Sequences that start with each row of a batch and wherever `begins` says so: as they are given to the operation,
/// and the first row of each with the number of rows behind them.
fn packed([batch, length]: [usize; 2], begins: impl Fn(usize) -> bool) -> (Starts, Vec<usize>) {
    let rows = batch * length;
    let mut bounds: Vec<usize> = (0..rows)
        .filter(|&row| row % length == 0 || begins(row))
        .collect();
    let sequence = |row: usize| bounds.iter().filter(|&&bound| bound <= row).count() as u32;
    let ids: Vec<u32> = (0..rows).map(sequence).collect();
    bounds.push(rows);
    (Starts::from_sequence_ids(&ids, batch).unwrap(), bounds)
}

/// The same of sequences that are the rows of a batch.
fn unpacked([batch, length]: [usize; 2]) -> Vec<usize> {
    (0..=batch).map(|b| b * length).collect()
}
