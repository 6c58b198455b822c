//! The selective scan by itself, as the Mamba block uses it: with gate, D, bias and softplus.

use serpens_core::{DType, Device, Gradients, Result as CoreResult, Tape, Tensor, Var};
use serpens_ops::selective_scan::{ScanOperands, ScanOptions, selective_scan};

use super::cases::{Passes, values};
use super::published::{SCANS, STATES};
use super::{Bench, Row, Table, with_threads};
use crate::Result;

/// G state updates per second, on one thread and on all; one update is one (position, channel, state).
pub(super) fn throughput(bench: &Bench<'_>) -> Result<Table> {
    let problem = Problem::new([1, 1024, 1536, STATES], DType::F32, 0, Device::Cpu)?;
    let held = problem.held();
    let updates = (1024 * 1536 * STATES) as f64;
    let all_threads = rayon::current_num_threads();
    type Way = fn(&Problem) -> CoreResult<()>;
    let ways: [(_, Way); 2] = [
        ("forward", Problem::scan),
        ("forward + backward", Problem::both),
    ];
    let mut rows = Vec::new();
    for (what, way) in ways {
        let rate_of = |problem, threads| -> Result<f64> {
            let timed = || bench.clock.seconds(|| way(problem));
            Ok(updates / with_threads(threads, timed)? / 1e9)
        };
        let rate = |threads| rate_of(&problem, threads);
        let one = rate(1)?;
        rows.push(Row::new(format!("{what}, one thread"), one, "G updates/s"));
        if all_threads > 1 {
            let (work, all) = (format!("{what}, {all_threads} threads"), rate(all_threads)?);
            rows.push(Row::new(work, all, "G updates/s").with("times one thread", all / one));
        }
        let (work, held) = (
            format!("{what}, zero-order hold, one thread"),
            rate_of(&held, 1)?,
        );
        rows.push(Row::new(work, held, "G updates/s").with("of Euler's rule", held / one));
    }
    let title = "Selective scan: batch 1, length 1024, channels 1536, state 16, f32";
    Ok(Table { title, rows })
}

/// Cost per position from short to long.
pub(super) fn by_length(bench: &Bench<'_>) -> Result<Table> {
    let mut rows: Vec<Row> = Vec::new();
    for length in [256, 1024, 4096, 16_384, 65_536] {
        let problem = Problem::new([1, length, 128, STATES], DType::F32, 0, Device::Cpu)?;
        let cost = |seconds: f64| seconds / (length * 128 * STATES) as f64 * 1e9;
        let forward = cost(bench.clock.seconds(|| problem.scan())?);
        let both = cost(bench.clock.seconds(|| problem.both())?);
        let reference = rows.first().map_or(both, |row| row.value);
        let row = Row::new(format!("length {length}"), both, "ns per update");
        let row = row.with("forward alone", forward);
        rows.push(row.with("relative to 256", both / reference));
    }
    let title = "Selective scan against length: forward + backward, batch 1, channels 128, state 16, all threads";
    Ok(Table { title, rows })
}

pub(super) fn on_gpu(bench: &Bench<'_>) -> Result<Table> {
    let title = "Selective scan with gate, D, bias and softplus, keeping what its gradients need (official: mamba_ssm 2.3.2 on an H200)";
    let width = bench.shapes.channels;
    bench.passes(title, &SCANS, width, "of copying", measure)
}

/// The forward, and the backward.
fn measure(bench: &Bench<'_>, shape: [usize; 3], dtype: DType) -> Result<Passes> {
    let [batch, length, channels] = shape;
    let state = bench.shapes.state.unwrap_or(STATES);
    let wide = batch * length * channels * dtype.size();
    let narrow = batch * length * state * dtype.size();
    let sets = bench.sets(4 * wide)?;
    let shape = [batch, length, channels, state];
    let problems = (0..sets as u32)
        .map(|set| Problem::new(shape, dtype, set, bench.clock.device))
        .collect::<Result<Vec<_>>>()?;
    let forward = bench.clock.recorded(
        || Ok(()),
        |()| problems.iter().try_for_each(|set| set.forward().map(drop)),
    )?;
    // The graph reads what the tapes kept after they have let go of it; until it is done nothing else takes memory.
    let backward = bench.clock.recorded(
        || {
            let recorded = problems.iter().map(Problem::forward);
            recorded.collect::<CoreResult<Vec<_>>>()
        },
        |recorded| {
            let mut pairs = recorded.iter().zip(&problems);
            pairs.try_for_each(|(recorded, set)| set.backward(recorded))
        },
    )?;
    let [forward, backward] = [forward, backward].map(|seconds| seconds / sets as f64);
    let passes = [
        bench.moving("forward", forward, 4 * wide + 2 * narrow),
        bench.moving("backward", backward, 7 * wide + 4 * narrow),
    ];
    let sizes = format!("B {batch}, E {channels}, L {length}, N {state}, {dtype}");
    Ok((sizes, passes))
}

/// What one scan and its backward read.
struct Problem {
    operands: ScanOperands<Tensor>,
    options: ScanOptions<'static>,
    dy: Tensor,
}

impl Problem {
    /// # Shapes
    /// `shape`: (batch, length, channels, state)
    fn new(shape: [usize; 4], dtype: DType, set: u32, device: Device) -> Result<Self> {
        let [batch, length, channels, state] = shape;
        let wide = |seed| values([batch, length, channels], 16 * set + seed, dtype, device);
        let narrow = |seed| values([batch, length, state], 16 * set + seed, dtype, device);
        let decays = (0..channels * state).map(|i| -((i % state + 1) as f32));
        let decays: Vec<f32> = decays.collect();
        Ok(Self {
            operands: ScanOperands {
                u: wide(0)?,
                delta: wide(1)?,
                a: Tensor::from_slice([channels, state], &decays, device)?,
                a_im: None,
                b: narrow(4)?,
                c: narrow(5)?,
                d: Some(values([channels], 6, DType::F32, device)?),
                z: Some(wide(2)?),
                delta_bias: Some(Tensor::full([channels], -4.0_f32, device)?), // step sizes of 0.007 to 0.05
                initial_state: None,
            },
            options: ScanOptions::default(),
            dy: wide(3)?,
        })
    }

    /// The same under zero-order hold.
    fn held(&self) -> Self {
        Self {
            operands: self.operands.clone(),
            options: ScanOptions {
                zero_order_hold: true,
                ..self.options
            },
            dy: self.dy.clone(),
        }
    }

    /// The scan by itself, which keeps nothing.
    fn scan(&self) -> CoreResult<()> {
        let operands = self.operands.as_ref();
        let operands = operands.map(|_, tensor| Var::from(tensor.clone()));
        selective_scan(&operands.as_ref(), &self.options).map(drop)
    }

    /// The scan, recorded on a tape; every operand wants a gradient.
    fn forward(&self) -> CoreResult<(Tape, Var)> {
        let tape = Tape::new();
        let operands = self.operands.as_ref();
        let leaves = operands.map(|_, tensor| tape.leaf(tensor.clone()));
        let y = selective_scan(&leaves.as_ref(), &self.options)?.y;
        Ok((tape, y))
    }

    fn both(&self) -> CoreResult<()> {
        self.backward(&self.forward()?)
    }

    fn backward(&self, (tape, y): &(Tape, Var)) -> CoreResult<()> {
        tape.backward_from(vec![(y, self.dy.clone())], &mut Gradients::new())
    }
}
