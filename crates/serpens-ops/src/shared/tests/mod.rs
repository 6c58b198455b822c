//! What the tests of operations share: devices, operands and comparisons. Each operation runs on every device that is
//! present and in every type it takes there, against its definition in f64. On a machine without a GPU the tests say so
//! and run on the processor only.

mod compare;
pub(crate) mod dense;
pub(crate) mod gradcheck;
mod kernels;
pub(crate) mod large;
pub(crate) mod real;
mod sanitize;
mod starts;
mod team;

pub(crate) use compare::{assert_near, distance, near};

use std::io::Write;
use std::ops::Range;
use std::sync::Once;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serpens_core::{DType, Device, Shape, Tensor, bf16};

/// Says on the standard error stream, past the capture of tests, what was not run.
pub(crate) fn tell(text: &str) {
    // Nobody hears it where the stream is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The macro with which racecheck can follow kernels whose threads arrive for others, where `.ci/sanitize` asks for it.
pub(crate) fn sanitizer() -> Vec<(&'static str, String)> {
    match std::env::var("SERPENS_SANITIZER").as_deref() {
        Ok("racecheck") => vec![("RACECHECK", "1".to_owned())],
        _ => Vec::new(),
    }
}

/// Every device present with each type that operations take there.
pub(crate) fn cases() -> Vec<(Device, DType)> {
    static TELL: Once = Once::new();
    TELL.call_once(|| {
        if let Err(reason) = Device::cuda(0) {
            tell(&format!("operations on CUDA were skipped: {reason}"));
        }
    });
    let types = |device| match device {
        Device::Cpu => vec![DType::F32],
        Device::Cuda(_) => vec![DType::F32, DType::BF16],
    };
    let devices = Device::available().into_iter();
    devices
        .flat_map(|device| types(device).into_iter().map(move |dtype| (device, dtype)))
        .collect()
}

/// Values uniform in [-scale, scale), rounded to `dtype`, so that every device starts from the same ones.
pub(crate) fn values(seed: u64, shape: impl Into<Shape>, scale: f32, dtype: DType) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..shape.into().count())
        .map(|_| (rng.next_u32() as f32 / 2.0_f32.powi(31) - 1.0) * scale)
        .map(|value| round(value.into(), dtype))
        .collect()
}

/// The value of `dtype` nearest to `value`.
pub(crate) fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => bf16::from_f32(value as f32).to_f64(),
        _ => f64::from(value as f32),
    }
}

/// These values as a tensor.
pub(crate) fn tensor(
    shape: impl Into<Shape>,
    values: &[f64],
    dtype: DType,
    device: Device,
) -> Tensor {
    let shape = shape.into();
    match dtype {
        DType::BF16 => {
            let values: Vec<bf16> = values.iter().map(|&value| bf16::from_f64(value)).collect();
            Tensor::from_slice(shape, &values, device).unwrap()
        }
        _ => {
            let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            Tensor::from_slice(shape, &values, device).unwrap()
        }
    }
}

/// The values of a tensor on whatever device.
pub(crate) fn read(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::BF16 => {
            let values = tensor.to_vec::<bf16>().unwrap();
            values.iter().map(|value| value.to_f64()).collect()
        }
        _ => {
            let values = tensor.to_vec::<f32>().unwrap();
            values.iter().map(|&value| value.into()).collect()
        }
    }
}

/// These positions of every row of a (batch, length, …) block.
pub(crate) fn positions(
    block: &[f64],
    [batch, length]: [usize; 2],
    chunk: &Range<usize>,
) -> Vec<f64> {
    let wide = block.len() / (batch * length);
    let rows = block.chunks_exact(length * wide);
    rows.flat_map(|row| &row[chunk.start * wide..chunk.end * wide])
        .copied()
        .collect()
}

/// The block that such chunks are of.
pub(crate) fn joined(mut chunks: Vec<(Range<usize>, Vec<f64>)>, batch: usize) -> Vec<f64> {
    chunks.sort_by_key(|(positions, _)| positions.start);
    let row = |b: usize| {
        let of = |block: &Vec<f64>| {
            let row = block.len() / batch;
            block[b * row..(b + 1) * row].to_vec()
        };
        chunks
            .iter()
            .flat_map(|(_, block)| of(block))
            .collect::<Vec<_>>()
    };
    (0..batch).flat_map(row).collect()
}

/// The same values in single precision.
pub(crate) fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}
