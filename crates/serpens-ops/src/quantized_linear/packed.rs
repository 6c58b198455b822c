//! A matrix in blocks, in the order that a device's kernels read.

use rayon::prelude::*;
use serpens_core::{DType, Device, Error, Result, Tensor};

use super::cpu::{blocks, layout};
use super::{Blocks, OP, cuda};
use crate::check;

/// A matrix of blocks, (rows, cols) row by row, on a device and in the order of its kernels. It is written once; a
/// clone is another handle.
#[derive(Clone, Debug)]
pub struct Packed {
    blocks: Blocks,
    rows: usize,
    cols: usize,
    data: Tensor,
}

impl Packed {
    /// Such a matrix of GGUF's blocks, row by row.
    ///
    /// # Errors
    /// [`Error::Multiple`] where a row is no whole number of blocks; [`Error::Count`] for more or fewer bytes; memory.
    pub fn new(
        blocks: Blocks,
        [rows, cols]: [usize; 2],
        bytes: &[u8],
        device: Device,
    ) -> Result<Self> {
        check::multiple(OP, "the columns of the weight", blocks.values(), cols)?;
        let of_row = cols / blocks.values() * blocks.bytes();
        let expected = rows.saturating_mul(of_row);
        check::count(OP, "bytes of the weight", expected, bytes.len())?;
        let data = match device {
            Device::Cpu => layout::pack(blocks, [rows, cols], bytes)?,
            Device::Cuda(_) => cuda::pack(blocks, [rows, cols], bytes, device)?,
        };
        Ok(Self {
            blocks,
            rows,
            cols,
            data,
        })
    }

    /// The nearest such matrix to f32 values (…, cols), wherever they are.
    ///
    /// # Errors
    /// As [`Packed::new`]; [`Error::DType`]; [`Error::Value`] where blocks of this kind cannot hold the values.
    pub fn quantize(blocks: Blocks, values: &Tensor, device: Device) -> Result<Self> {
        let (rows, cols) = (values.shape().rows(), values.shape().cols());
        check::multiple(OP, "the columns of the weight", blocks.values(), cols)?;
        let values = values.to(Device::Cpu)?;
        let values = values.as_slice::<f32>()?;
        let sizes = [blocks.values(), blocks.bytes()];
        let Some(bytes) = blocks::encode(blocks::encoder(blocks), sizes, values) else {
            // Magnitudes are ordered as the integers with their bits, and NaN is above all.
            let largest = values.iter().map(|v| v.abs().to_bits()).max();
            return Err(Error::Value {
                op: "quantize",
                what: "the largest magnitude of the weight",
                expected: "one that the blocks' scales in half precision can hold",
                got: f32::from_bits(largest.unwrap_or(0)).into(),
            });
        };
        Self::new(blocks, [rows, cols], &bytes, device)
    }

    /// GGUF's blocks, row by row, bit for bit as they came.
    ///
    /// # Errors
    /// Memory of another device that cannot be read.
    pub fn unpack(&self) -> Result<Vec<u8>> {
        match self.device() {
            Device::Cpu => {
                let sizes = [self.rows, self.cols];
                Ok(layout::unpack(self.blocks, sizes, self.data.as_bytes()?))
            }
            Device::Cuda(_) => cuda::unpack(self),
        }
    }

    /// The values of row `i`.
    ///
    /// # Errors
    /// [`Error::Range`] where there is none, [`Error::Count`] where `out` has not one place for each column,
    /// [`Error::Device`] where the matrix is not on the processor.
    pub fn row(&self, i: usize, out: &mut [f32]) -> Result<()> {
        check::range(OP, "a row of the weight", 0..self.rows, i)?;
        check::count(OP, "values of a row", self.cols, out.len())?;
        layout::row(self.blocks, self.cols, self.data.as_bytes()?, i, out);
        Ok(())
    }

    /// The values in f32, (rows, cols), on the matrix's device.
    ///
    /// # Errors
    /// Memory.
    pub fn dequantize(&self) -> Result<Tensor> {
        let bytes = self.unpack()?;
        let mut values = Tensor::empty([self.rows, self.cols], DType::F32, Device::Cpu)?;
        let decode = blocks::decoder(self.blocks);
        let tasks = bytes.par_chunks(TASK * self.blocks.bytes());
        let values_of_tasks = values
            .make_mut()?
            .par_chunks_mut(TASK * self.blocks.values());
        tasks
            .zip(values_of_tasks)
            .for_each(|(bytes, values)| decode(bytes, values));
        values.to(self.device())
    }

    /// Rows of the matrix: outputs of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix: inputs of a product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The kind of its blocks.
    pub fn blocks(&self) -> Blocks {
        self.blocks
    }

    /// Bytes that it holds on its device.
    pub fn bytes(&self) -> usize {
        self.data.len() * self.data.dtype().size()
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.data.device()
    }

    /// What it holds, in the order of the device's kernels.
    pub(crate) fn data(&self) -> &Tensor {
        &self.data
    }
}

/// Blocks of one task.
const TASK: usize = 1024;
