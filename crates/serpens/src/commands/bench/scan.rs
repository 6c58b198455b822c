//! The selective scan by itself.

use serpens_core::{Mat, MatMut};
use serpens_ops::selective_scan::{Dims, ScanOperands, cpu};

use super::machine::Machine;
use super::{Row, Table, Timer, with_threads};

/// Operands and results of one scan with gate, D, bias and softplus, as the Mamba block uses it.
struct Scan {
    dims: Dims,
    operands: ScanOperands<Vec<f32>>,
    grads: ScanOperands<Vec<f32>>,
    y: Vec<f32>,
    checkpoints: Vec<f32>,
}

impl Scan {
    fn new(batch: usize, length: usize, channels: usize, state: usize) -> Self {
        let dims = Dims {
            batch,
            length,
            channels,
            state,
            complex: false,
            groups: 1,
        };
        let rows = batch * length;
        let wave = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * step).sin()).collect()
        };
        let delta = wave(rows * channels, 0.11);
        let operands = ScanOperands {
            u: wave(rows * channels, 0.37),
            delta: delta.iter().map(|v| v - 3.0).collect(),
            a: (0..channels * state)
                .map(|i| -((i % state + 1) as f32))
                .collect(),
            a_im: None,
            b: wave(rows * state, 0.41),
            c: wave(rows * state, 0.29),
            d: Some(wave(channels, 0.17)),
            z: Some(wave(rows * channels, 0.23)),
            delta_bias: Some(wave(channels, 0.17)),
            initial_state: None,
        };
        Self {
            dims,
            grads: operands.as_ref().map(|_, x| vec![0.0; x.len()]),
            operands,
            y: vec![0.0; rows * channels],
            checkpoints: vec![0.0; dims.checkpoint_len()],
        }
    }

    /// One update is one (position, channel, state).
    fn updates(&self) -> f64 {
        let d = self.dims;
        (d.batch * d.length * d.channels * d.state) as f64
    }

    fn scan<'a>(dims: Dims, operands: &'a ScanOperands<Vec<f32>>) -> cpu::Scan<'a> {
        cpu::Scan {
            dims,
            operands: operands
                .as_ref()
                .map(|role, x| Mat::dense(x, (role.shape)(&dims).cols())),
            starts: None,
            softplus: true,
            reverse: false,
        }
    }

    fn forward(&mut self, checkpoints: bool) {
        let scan = Self::scan(self.dims, &self.operands);
        let out = MatMut::dense(&mut self.y, self.dims.channels);
        let keep = checkpoints.then_some(self.checkpoints.as_mut_slice());
        cpu::forward(&scan, out, None, keep);
    }

    fn forward_backward(&mut self) {
        self.forward(true);
        let dims = self.dims;
        let grads = self.grads.as_mut();
        let grads = grads.map(|role, x| MatMut::dense(x, (role.shape)(&dims).cols()));
        let dout = Mat::dense(&self.y, dims.channels);
        let scan = Self::scan(dims, &self.operands);
        cpu::backward(&scan, &self.checkpoints, dout, None, grads);
    }
}

/// G state updates per second, on one thread and on all.
pub(super) fn throughput(timer: Timer, machine: &Machine) -> Table {
    let mut scan = Scan::new(1, 1024, 1536, 16);
    let updates = scan.updates();
    let mut rows = Vec::new();
    for backward in [false, true] {
        let mut rate = |threads: usize| {
            let seconds = with_threads(threads, || {
                timer.seconds(|| match backward {
                    false => scan.forward(false),
                    true => scan.forward_backward(),
                })
            });
            updates / seconds / 1e9
        };
        let what = if backward {
            "forward + backward"
        } else {
            "forward"
        };
        let one = rate(1);
        rows.push(Row::new(format!("{what}, one thread"), one, "G updates/s"));
        if machine.threads > 1 {
            let all = rate(machine.threads);
            let row = Row::new(
                format!("{what}, {} threads", machine.threads),
                all,
                "G updates/s",
            );
            rows.push(row.with("times one thread", all / one));
        }
    }
    Table {
        title: "Selective scan: batch 1, length 1024, channels 1536, state 16, f32",
        rows,
    }
}

/// Cost per position from short to long.
pub(super) fn by_length(timer: Timer) -> Table {
    let mut rows: Vec<Row> = Vec::new();
    let mut first = None;
    for length in [256, 1024, 4096, 16_384, 65_536] {
        let mut scan = Scan::new(1, length, 128, 16);
        let updates = scan.updates();
        let forward = timer.seconds(|| scan.forward(false)) / updates * 1e9;
        let both = timer.seconds(|| scan.forward_backward()) / updates * 1e9;
        let reference = *first.get_or_insert(both);
        rows.push(
            Row::new(format!("length {length}"), both, "ns per update")
                .with("forward alone", forward)
                .with("relative to 256", both / reference),
        );
    }
    Table {
        title: "Selective scan against length: forward + backward, batch 1, channels 128, state 16, all threads",
        rows,
    }
}
