//! The machine's own limits: matrix products and memory.

use serpens_core::{Mat, MatMut};
use serpens_ops::linear::cpu as linear;

use super::{Row, Table, Timer, with_threads};
use crate::machine;

/// What the machine can do.
pub(super) struct Machine {
    /// Threads in use.
    pub(super) threads: usize,
    /// f32 GFLOP/s of matrix products on one thread.
    gemm_one: f64,
    /// f32 GFLOP/s of matrix products on all threads.
    pub(super) gemm_all: f64,
    /// GB/s read from memory by all threads.
    pub(super) read: f64,
}

/// (rows, inputs, outputs) of the product that is taken for the peak: a projection of the 130m model.
const PEAK: (usize, usize, usize) = (2048, 768, 3072);

pub(super) fn measure(timer: Timer) -> Machine {
    let threads = rayon::current_num_threads();
    let (rows, inputs, outputs) = PEAK;
    let x = vec![0.5_f32; rows * inputs];
    let w = vec![0.25_f32; outputs * inputs];
    let mut y = vec![0.0_f32; rows * outputs];
    let mut product = |threads: usize| {
        let seconds = with_threads(threads, || {
            timer.seconds(|| {
                let out = MatMut::dense(&mut y, outputs);
                linear::forward(Mat::dense(&x, inputs), &w, None, out);
            })
        });
        2.0 * (rows * inputs * outputs) as f64 / seconds / 1e9
    };
    Machine {
        threads,
        gemm_one: product(1),
        gemm_all: product(threads),
        read: machine::read_bandwidth(timer.runs),
    }
}

impl Machine {
    pub(super) fn table(&self) -> Table {
        let (rows, inputs, outputs) = PEAK;
        let work = format!("matrix product {rows}×{inputs}×{outputs}, f32");
        let all = format!("{} threads", self.threads);
        Table {
            title: "This machine",
            rows: vec![
                Row::new(format!("{work}, one thread"), self.gemm_one, "GFLOP/s"),
                Row::new(format!("{work}, {all}"), self.gemm_all, "GFLOP/s"),
                Row::new(format!("reading memory, {all}"), self.read, "GB/s"),
            ],
        }
    }
}
