//! The machine's own limits: memory and matrix products.

use serpens_core::{DType, Device, Tensor, Var, cuda};
use serpens_nn::Precision;
use serpens_ops::linear::linear;

use super::cases::values;
use super::{Clock, Row, Table, with_threads};
use crate::Result;
use crate::machine::read_bandwidth;

/// What the machine does at its best.
pub(super) struct Limits {
    /// Bytes per second: that all threads read, or that a card's copy reads and writes together.
    pub(super) memory: f64,
    /// Operations per second of matrix products, of the processor by all threads.
    products: Vec<(Precision, f64)>,
}

/// Rows, inputs and outputs of the processor's product: a projection of the 130m model.
const PROJECTION: [usize; 3] = [2048, 768, 3072];
/// Those of a card's.
const SQUARE: [usize; 3] = [8192; 3];
/// Bytes that a card copies, far more than any cache holds.
const COPIED: usize = 1 << 30;

impl Limits {
    /// The machine's limits, and the table of them.
    pub(super) fn measure(clock: &Clock) -> Result<(Self, Table)> {
        match clock.device {
            Device::Cpu => Self::processor(clock),
            Device::Cuda(_) => Self::card(clock),
        }
    }

    fn processor(clock: &Clock) -> Result<(Self, Table)> {
        let threads = rayon::current_num_threads();
        let product =
            |threads| with_threads(threads, || product(clock, PROJECTION, Precision::F32));
        let (one, all) = (product(1)?, product(threads)?);
        let memory = memory(clock)?;
        let work = format!("{}, f32", sizes(PROJECTION));
        let by_all = format!("{threads} threads");
        let table = Table {
            title: "This machine",
            rows: vec![
                Row::new(format!("{work}, one thread"), one / 1e9, "GFLOP/s"),
                Row::new(format!("{work}, {by_all}"), all / 1e9, "GFLOP/s"),
                Row::new(format!("reading memory, {by_all}"), memory / 1e9, "GB/s"),
            ],
        };
        let products = vec![(Precision::F32, all)];
        Ok((Self { memory, products }, table))
    }

    fn card(clock: &Clock) -> Result<(Self, Table)> {
        let name = &cuda::properties(clock.device)?.name;
        let mut products = Vec::new();
        for precision in [Precision::Bf16, Precision::F32, Precision::Tf32] {
            products.push((precision, product(clock, SQUARE, precision)?));
        }
        let memory = memory(clock)?;
        let copied = format!("{name}: copying {} MiB", COPIED >> 20);
        let mut rows = vec![Row::new(copied, memory / 1e9, "GB/s")];
        rows.extend(products.iter().map(|(precision, rate)| {
            let work = format!("{}, {precision}", sizes(SQUARE));
            Row::new(work, rate / 1e12, "TFLOP/s")
        }));
        let title = "This card: bytes read and written, operations in products";
        Ok((Self { memory, products }, Table { title, rows }))
    }

    /// Operations per second of matrix products in this precision.
    pub(super) fn products(&self, precision: Precision) -> f64 {
        let mut products = self.products.iter();
        let found = products.find(|(measured, _)| *measured == precision);
        found.expect("every precision of the device was measured").1
    }
}

fn sizes([rows, inputs, outputs]: [usize; 3]) -> String {
    format!("matrix product {rows}×{inputs}×{outputs}")
}

/// Bytes per second that memory gives now, as [`Limits::memory`].
pub(super) fn memory(clock: &Clock) -> Result<f64> {
    if clock.device == Device::Cpu {
        return Ok(1e9 * read_bandwidth(clock.runs)?);
    }
    let from = Tensor::zeros([COPIED / 4], DType::F32, clock.device)?;
    let seconds = clock.seconds(|| {
        // A shared tensor is copied before it is written to.
        let mut to = from.clone();
        to.view_mut().map(drop)
    })?;
    Ok(2.0 * COPIED as f64 / seconds)
}

fn product(clock: &Clock, sizes: [usize; 3], precision: Precision) -> Result<f64> {
    let [rows, inputs, outputs] = sizes;
    let matrix = |shape: [usize; 2], seed| -> Result<Var> {
        Ok(values(shape, seed, precision.activations(), clock.device)?.into())
    };
    let (x, weight) = (matrix([rows, inputs], 1)?, matrix([outputs, inputs], 2)?);
    let products = precision.products();
    let seconds = clock.seconds(|| linear(&x, &weight, None, products).map(drop))?;
    Ok(2.0 * (rows * inputs * outputs) as f64 / seconds)
}
