//! Linear maps on a GPU: cuBLASLt's products, and kernels for the bias.

use serpens_core::cuda::{DevicePtr, Gemm, KernelParams, Operand, Source, gemm, kernel};
use serpens_core::{DType, Result, View, ViewMut, kernel_params};

use super::{OP, ProductPrecision};
use crate::check;

mod step;
mod tiles;

pub use step::step;
pub(crate) use step::{BF16_WEIGHT, ConvTail, KINDS, Q4_0_WEIGHT, StoredWeight, step_and_convolve};

static SOURCE: Source =
    Source::new("linear", include_str!("bias.cu")).params(&[BiasParams::declare]);

/// Threads of a block, each with one column.
const BLOCK: u32 = 128;

fn operand(view: &View<'_>, transposed: bool) -> Operand {
    Operand {
        ptr: view.ptr(),
        stride: view.stride(),
        dtype: view.dtype(),
        transposed,
    }
}

/// y = x Wᵀ + b.
pub fn forward(
    x: View<'_>,
    w: View<'_>,
    b: Option<View<'_>>,
    y: ViewMut<'_>,
    products: ProductPrecision,
) -> Result<()> {
    check::device(OP, "the weight", x.device(), w.device())?;
    check::dtype(OP, "the weight", x.dtype(), w.dtype())?;
    let problem = Gemm {
        m: x.rows(),
        n: w.rows(),
        k: w.cols(),
        a: operand(&x, false),
        b: operand(&w, true),
        c: operand(&y.as_view(), false),
        accumulate: false,
        tf32: products == ProductPrecision::Tf32,
    };
    // SAFETY: the views are valid for these sizes, which the caller has checked, and y is borrowed uniquely.
    unsafe { gemm(y.device(), &problem)? };
    match b {
        Some(b) => add_bias(b, y),
        None => Ok(()),
    }
}

/// dx = dy W, or dx += dy W.
pub fn backward_input(
    dy: View<'_>,
    w: View<'_>,
    dx: ViewMut<'_>,
    accumulate: bool,
    products: ProductPrecision,
) -> Result<()> {
    let problem = Gemm {
        m: dy.rows(),
        n: w.cols(),
        k: w.rows(),
        a: operand(&dy, false),
        b: operand(&w, false),
        c: operand(&dx.as_view(), false),
        accumulate,
        tf32: products == ProductPrecision::Tf32,
    };
    // SAFETY: as in `forward`.
    unsafe { gemm(dx.device(), &problem) }
}

/// dW = dyᵀ x, or dW += dyᵀ x.
pub fn backward_weight(
    dy: View<'_>,
    x: View<'_>,
    dw: ViewMut<'_>,
    accumulate: bool,
    products: ProductPrecision,
) -> Result<()> {
    let problem = Gemm {
        m: dy.cols(),
        n: x.cols(),
        k: x.rows(),
        a: operand(&dy, true),
        b: operand(&x, false),
        c: operand(&dw.as_view(), false),
        accumulate,
        tf32: products == ProductPrecision::Tf32,
    };
    // SAFETY: as in `forward`.
    unsafe { gemm(dw.device(), &problem) }
}

kernel_params! {
    struct BiasParams {
        matrix: DevicePtr as "IO*",
        vector: DevicePtr as "const float*",
        stride: i64,
        rows: i64,
        cols: i64,
    }
}

/// y += b for every row.
fn add_bias(b: View<'_>, y: ViewMut<'_>) -> Result<()> {
    let params = BiasParams {
        matrix: y.ptr(),
        vector: check::address(OP, "bias", &b, DType::F32, y.device())?,
        stride: y.stride() as i64,
        rows: y.rows() as i64,
        cols: y.cols() as i64,
    };
    let kernel = kernel(
        y.device(),
        &SOURCE,
        "add_bias",
        &[("IO", y.dtype().cuda_name())],
    )?;
    let grid = [
        y.cols().div_ceil(BLOCK as usize) as u32,
        y.rows().min(1 << 12) as u32,
        1,
    ];
    // SAFETY: the parameters are the kernel's, the views valid for their sizes.
    unsafe { kernel.launch(grid, BLOCK, 0, &params) }
}
