//! The selective scan by itself, as the Mamba block uses it: with gate, D, bias and softplus.

use serpens_core::{DType, Device, Gradients, Result as CoreResult, Tape, Tensor, Var};
use serpens_ops::selective_scan::{ScanOperands, ScanOptions, selective_scan};

use super::published::{SCANS, STATES};
use super::{Bench, Case, Row, Table, or, values};
use crate::Result;

pub(super) fn table(bench: &Bench<'_>) -> Result<Table> {
    let published = SCANS.map(|(shape, _, passes)| (shape, passes));
    let cases = bench.cases(&published, bench.shapes.channels);
    let mut rows = Vec::new();
    for (i, case) in cases.into_iter().enumerate() {
        let dtype = match bench.as_published() {
            true => SCANS[i].1,
            false => bench.precision().activations(),
        };
        rows.extend(measure(bench, case, dtype)?);
        bench.clock.device.release_unused();
    }
    Ok(Table {
        title: "Selective scan with gate, D, bias and softplus, keeping what its gradients need (official: mamba_ssm 2.3.2 on an H200)",
        rows,
    })
}

/// The rows of the forward and of the backward.
fn measure(
    bench: &Bench<'_>,
    ([batch, length, channels], [beside_forward, beside_backward]): Case,
    dtype: DType,
) -> Result<[Row; 2]> {
    let state = or(bench.shapes.state, STATES);
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
            pairs.try_for_each(|((tape, y), set)| {
                tape.backward_from(vec![(y, set.dy.clone())], &mut Gradients::new())
            })
        },
    )?;
    let row = |pass: &str, seconds: f64, bytes: usize, beside| {
        let work = format!("{pass}, B {batch}, E {channels}, L {length}, N {state}, {dtype}");
        bench.moving(work, seconds / sets as f64, bytes, beside)
    };
    Ok([
        row("forward", forward, 4 * wide + 2 * narrow, beside_forward),
        row("backward", backward, 7 * wide + 4 * narrow, beside_backward),
    ])
}

/// What one scan and its backward read.
struct Problem {
    operands: ScanOperands<Tensor>,
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
            dy: wide(3)?,
        })
    }

    /// The scan, recorded on a tape; every operand wants a gradient.
    fn forward(&self) -> CoreResult<(Tape, Var)> {
        let tape = Tape::new();
        let operands = self.operands.as_ref();
        let leaves = operands.map(|_, tensor| tape.leaf(tensor.clone()));
        let y = selective_scan(&leaves.as_ref(), &ScanOptions::default())?.y;
        Ok((tape, y))
    }
}
