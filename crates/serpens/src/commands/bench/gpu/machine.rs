//! The card's own limits: copies and matrix products.

use serpens_core::{DType, Device, Tensor, Var, cuda};
use serpens_nn::Precision;
use serpens_ops::linear::linear;

use super::clock::Clock;
use super::{Row, Table, values};
use crate::Result;

/// What the card does at its best.
pub(super) struct Machine {
    /// Bytes per second that a copy reads and writes together.
    pub(super) copy: f64,
    /// Operations per second of products of bf16, f32 and TF32 matrices.
    products: [f64; 3],
}

const PRECISIONS: [Precision; 3] = [Precision::Bf16, Precision::F32, Precision::Tf32];
/// Rows and columns of the matrices.
const SIDE: usize = 8192;
/// Bytes that are copied, far more than any cache holds.
const COPIED: usize = 1 << 30;

pub(super) fn measure(clock: &Clock) -> Result<Machine> {
    let mut products = [0.0; 3];
    for (rate, precision) in products.iter_mut().zip(PRECISIONS) {
        *rate = product(clock, precision)?;
    }
    Ok(Machine {
        copy: copy(clock)?,
        products,
    })
}

fn copy(clock: &Clock) -> Result<f64> {
    let from = Tensor::zeros([COPIED / 4], DType::F32, clock.device)?;
    let seconds = clock.seconds(|| {
        // A shared tensor is copied before it is written to.
        let mut to = from.clone();
        to.view_mut().map(drop)
    })?;
    Ok(2.0 * COPIED as f64 / seconds)
}

fn product(clock: &Clock, precision: Precision) -> Result<f64> {
    let square = |seed| -> Result<Var> {
        let dtype = precision.activations();
        Ok(values([SIDE, SIDE], seed, dtype, clock.device)?.into())
    };
    let (x, weight) = (square(1)?, square(2)?);
    let products = precision.products();
    let seconds = clock.seconds(|| linear(&x, &weight, None, products).map(drop))?;
    Ok(2.0 * (SIDE as f64).powi(3) / seconds)
}

impl Machine {
    /// Operations per second of matrix products in this precision.
    pub(super) fn products(&self, precision: Precision) -> f64 {
        let at = PRECISIONS.iter().position(|&other| other == precision);
        self.products[at.expect("every precision was measured")]
    }

    pub(super) fn table(&self, device: Device) -> Result<Table> {
        let card = cuda::properties(device)?;
        let copied = format!("{}: copying {} MiB", card.name, COPIED >> 20);
        let mut rows = vec![Row::new(copied, self.copy / 1e9, "GB/s")];
        for precision in PRECISIONS {
            let work = format!("matrix product {SIDE}×{SIDE}×{SIDE}, {precision}");
            rows.push(Row::new(work, self.products(precision) / 1e12, "TFLOP/s"));
        }
        Ok(Table {
            title: "This card: bytes read and written, operations in products",
            rows,
        })
    }
}
