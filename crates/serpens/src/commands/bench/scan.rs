//! The selective scan by itself.

use serpens_core::{Mat, MatMut};
use serpens_ops::selective_scan::cpu::{self, A, AMut, Dims, Grads, Inputs};

use super::machine::Machine;
use super::{Row, Table, Timer, with_threads};

/// Operands and results of one scan with gate, D, bias and softplus, as the Mamba block uses it.
struct Scan {
    dims: Dims,
    u: Vec<f32>,
    delta: Vec<f32>,
    z: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    vector: Vec<f32>,
    y: Vec<f32>,
    checkpoints: Vec<f32>,
    wide: [Vec<f32>; 3],
    narrow: [Vec<f32>; 2],
    da: Vec<f32>,
    vectors: [Vec<f32>; 2],
}

impl Scan {
    fn new(batch: usize, length: usize, channels: usize, state: usize) -> Self {
        let dims = Dims {
            batch,
            length,
            channels,
            state,
            groups: 1,
        };
        let rows = batch * length;
        let wave = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * step).sin()).collect()
        };
        Self {
            dims,
            u: wave(rows * channels, 0.37),
            delta: wave(rows * channels, 0.11)
                .iter()
                .map(|v| v - 3.0)
                .collect(),
            z: wave(rows * channels, 0.23),
            a: (0..channels * state)
                .map(|i| -((i % state + 1) as f32))
                .collect(),
            b: wave(rows * state, 0.41),
            c: wave(rows * state, 0.29),
            vector: wave(channels, 0.17),
            y: vec![0.0; rows * channels],
            checkpoints: vec![0.0; cpu::checkpoint_len(&dims, 1)],
            wide: std::array::from_fn(|_| vec![0.0; rows * channels]),
            narrow: std::array::from_fn(|_| vec![0.0; rows * state]),
            da: vec![0.0; channels * state],
            vectors: std::array::from_fn(|_| vec![0.0; channels]),
        }
    }

    /// One update is one (position, channel, state).
    fn updates(&self) -> f64 {
        let d = self.dims;
        (d.batch * d.length * d.channels * d.state) as f64
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            u: Mat::dense(&self.u, self.dims.channels),
            delta: Mat::dense(&self.delta, self.dims.channels),
            a: A::Real(&self.a),
            b: Mat::dense(&self.b, self.dims.state),
            c: Mat::dense(&self.c, self.dims.state),
            d: Some(&self.vector),
            z: Some(Mat::dense(&self.z, self.dims.channels)),
            delta_bias: Some(&self.vector),
            initial_state: None,
            starts: None,
            softplus: true,
            reverse: false,
        }
    }

    fn forward(&mut self, checkpoints: bool) {
        let mut y = std::mem::take(&mut self.y);
        let mut saved = std::mem::take(&mut self.checkpoints);
        let out = MatMut::dense(&mut y, self.dims.channels);
        let keep = checkpoints.then_some(saved.as_mut_slice());
        cpu::forward(&self.dims, &self.inputs(), out, None, keep);
        (self.y, self.checkpoints) = (y, saved);
    }

    fn forward_backward(&mut self) {
        self.forward(true);
        let channels = self.dims.channels;
        let mut wide = std::mem::take(&mut self.wide);
        let mut narrow = std::mem::take(&mut self.narrow);
        let mut vectors = std::mem::take(&mut self.vectors);
        let mut da = std::mem::take(&mut self.da);
        let [du, ddelta, dz] = wide.each_mut().map(|v| MatMut::dense(v, channels));
        let [db, dc] = narrow.each_mut().map(|v| MatMut::dense(v, self.dims.state));
        let [dd, dbias] = vectors.each_mut();
        let grads = Grads {
            u: du,
            delta: ddelta,
            z: Some(dz),
            a: AMut::Real(&mut da),
            b: db,
            c: dc,
            d: Some(dd),
            delta_bias: Some(dbias),
            initial_state: None,
        };
        let dout = Mat::dense(&self.y, channels);
        cpu::backward(
            &self.dims,
            &self.inputs(),
            &self.checkpoints,
            dout,
            None,
            grads,
        );
        (self.wide, self.narrow, self.vectors, self.da) = (wide, narrow, vectors, da);
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
