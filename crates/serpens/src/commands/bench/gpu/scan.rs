//! The selective scan by itself, as the Mamba block uses it: with gate, D, bias and softplus.

use serpens_core::{DType, Device, Gradients, Result as CoreResult, Tape, Tensor, Var};
use serpens_ops::selective_scan::{ScanOperands, ScanOptions, selective_scan};

use super::published::{Passes, SCANS, STATES};
use super::{Bench, Row, Table, or, values};
use crate::Result;

/// One row of the table.
#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    channels: usize,
    length: usize,
    state: usize,
    dtype: DType,
    published: Option<Passes>,
}

pub(super) fn table(bench: &Bench<'_>) -> Result<Table> {
    let mut rows = Vec::new();
    for case in cases(bench) {
        rows.extend(case.measure(bench)?);
        bench.clock.device.release_unused();
    }
    Ok(Table {
        title: "Selective scan with gate, D, bias and softplus, keeping what its gradients need (official: mamba_ssm 2.3.2 on an H200)",
        rows,
    })
}

fn cases(bench: &Bench<'_>) -> Vec<Case> {
    let published = SCANS.map(|scan| {
        let [batch, channels, length] = scan.shape;
        Case {
            batch,
            channels,
            length,
            state: STATES,
            dtype: scan.dtype,
            published: Some(scan.passes),
        }
    });
    if bench.as_published() {
        return published.to_vec();
    }
    let (shapes, first) = (bench.shapes, published[0]);
    let lengths = shapes.lengths(first.length).into_iter();
    lengths
        .map(|length| Case {
            batch: shapes.batch(first.batch),
            channels: or(shapes.channels, first.channels),
            length,
            state: or(shapes.state, first.state),
            dtype: bench.precision().activations(),
            published: None,
        })
        .collect()
}

impl Case {
    /// The rows of the forward and of the backward.
    fn measure(&self, bench: &Bench<'_>) -> Result<[Row; 2]> {
        let Case {
            batch,
            channels,
            length,
            state,
            dtype,
            ..
        } = *self;
        let wide = batch * length * channels * dtype.size();
        let narrow = batch * length * state * dtype.size();
        let sets = bench.sets(4 * wide)?;
        let operands = (0..sets)
            .map(|set| Problem::new(self, set as u32, bench.clock.device))
            .collect::<Result<Vec<_>>>()?;
        let forward = bench.clock.recorded(
            || Ok(()),
            |()| operands.iter().try_for_each(|set| set.forward().map(drop)),
        )?;
        // The graph reads what the tapes kept after they have let go of it; until it is done nothing else takes memory.
        let backward = bench.clock.recorded(
            || {
                operands
                    .iter()
                    .map(Problem::forward)
                    .collect::<CoreResult<Vec<_>>>()
            },
            |recorded| {
                let mut pairs = recorded.iter().zip(&operands);
                pairs.try_for_each(|((tape, y), set)| {
                    tape.backward_from(vec![(y, set.dy.clone())], &mut Gradients::new())
                })
            },
        )?;
        let row = |pass: &str, seconds: f64, bytes: usize, published| {
            let shape = format!("B {batch}, E {channels}, L {length}, N {state}, {dtype}");
            bench.moving(
                format!("{pass}, {shape}"),
                seconds / sets as f64,
                bytes,
                published,
            )
        };
        let published = self.published;
        Ok([
            row(
                "forward",
                forward,
                4 * wide + 2 * narrow,
                published.map(|passes| passes.forward),
            ),
            row(
                "backward",
                backward,
                7 * wide + 4 * narrow,
                published.map(|passes| passes.backward),
            ),
        ])
    }
}

/// What one scan and its backward read.
struct Problem {
    operands: ScanOperands<Tensor>,
    dy: Tensor,
}

impl Problem {
    fn new(case: &Case, set: u32, device: Device) -> Result<Self> {
        let Case {
            batch,
            channels,
            length,
            state,
            dtype,
            ..
        } = *case;
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
