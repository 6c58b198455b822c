//! Matrix products by cuBLASLt. The choice of algorithm is cuBLASLt's first suggestion for a problem, asked for once;
//! no timing decides, so that two runs give the same bits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::Mutex;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;

use crate::driver::{self, DevicePtr, PerDevice, find, lock};
use crate::error::{expect_dtype, refused};
use crate::program::rehearsing;
use crate::tensor::pool::Buffer;
use crate::{DType, Device, LibraryKind, Result};

/// Scratch memory for split sums; what NVIDIA recommends for Hopper and later.
const WORKSPACE_BYTES: usize = 64 << 20;

/// A matrix in a product, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// The first value.
    pub ptr: DevicePtr,
    /// Values from one row to the next.
    pub stride: usize,
    /// f32 or bf16.
    pub dtype: DType,
    /// Whether the matrix as stored is to be transposed.
    pub transposed: bool,
}

/// C = A B, or C += A B: A is (m, k), B is (k, n), C is (m, n). Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A and rows of B.
    pub k: usize,
    /// A.
    pub a: Operand,
    /// B.
    pub b: Operand,
    /// C, not transposed.
    pub c: Operand,
    /// Whether to add to what C holds.
    pub accumulate: bool,
    /// Whether f32 operands may be rounded to TF32 (11 bits of mantissa), to run on the matrix units.
    pub tf32: bool,
}

/// Queues a matrix product.
///
/// # Safety
/// The operands are valid on the device for the sizes given, and C overlaps neither A nor B.
///
/// # Errors
/// [`crate::Error::Library`] without cuBLASLt; [`crate::Error::Cuda`] where it knows no algorithm for the problem.
pub unsafe fn gemm(device: Device, problem: &Gemm) -> Result<()> {
    if problem.m == 0 || problem.n == 0 {
        return Ok(());
    }
    let state = driver::of(device)?;
    let Some(stream) = state.stream() else {
        return Ok(()); // a pretended card
    };
    let mut products = lock(PRODUCTS.of(state.device));
    let handle = products.handle()?;
    let key = problem.key();
    let plan = match products.plans.entry(key) {
        Entry::Occupied(plan) => plan.into_mut(),
        Entry::Vacant(place) => place.insert(ProductPlan::new(handle, &key)?),
    };
    if rehearsing() {
        return Ok(());
    }
    let [b, a, c] = plan.layouts;
    // Of the current stream, and of a graph in the making its own.
    let workspace = Buffer::new(WORKSPACE_BYTES, device)?;
    let (alpha, beta) = (1.0_f32, if problem.accumulate { 1.0_f32 } else { 0.0 });
    let address = |operand: &Operand| operand.ptr.0 as *mut c_void;
    // SAFETY: the plan's descriptors are live and describe these operands; the rest is the caller's promise. A
    // column-major library sees the transposes: Cᵀ = Bᵀ Aᵀ.
    unsafe {
        result::matmul(
            handle,
            plan.product,
            std::ptr::from_ref(&alpha).cast(),
            std::ptr::from_ref(&beta).cast(),
            address(&problem.b),
            b,
            address(&problem.a),
            a,
            address(&problem.c),
            c,
            address(&problem.c),
            c,
            &plan.algorithm,
            workspace.address as *mut c_void,
            WORKSPACE_BYTES,
            stream.cast(),
        )
    }
    .map_err(refused("multiply matrices"))
}

static PRODUCTS: PerDevice<Mutex<Products>> = PerDevice::new();

/// cuBLASLt on one device, once it is started, and the plans made so far.
#[derive(Default)]
struct Products {
    handle: Option<sys::cublasLtHandle_t>,
    plans: HashMap<Gemm, ProductPlan>,
}

// SAFETY: the handle may be used from any thread; the whole is behind a lock.
unsafe impl Send for Products {}

impl Products {
    fn handle(&mut self) -> Result<sys::cublasLtHandle_t> {
        if let Some(handle) = self.handle {
            return Ok(handle);
        }
        find(LibraryKind::CublasLt)?;
        let handle = result::create_handle().map_err(refused("start cuBLASLt"))?;
        Ok(*self.handle.insert(handle))
    }
}

impl Gemm {
    /// What a plan depends on: the problem, with the alignments of the operands instead of their addresses.
    fn key(self) -> Self {
        // The largest power of two, up to 256, that divides the address in bytes.
        let aligned = |operand: Operand| Operand {
            ptr: DevicePtr(1 << operand.ptr.0.trailing_zeros().min(8)),
            ..operand
        };
        Self {
            a: aligned(self.a),
            b: aligned(self.b),
            c: aligned(self.c),
            ..self
        }
    }
}

/// The descriptors of a problem and the algorithm for it; kept for the life of the process.
struct ProductPlan {
    product: sys::cublasLtMatmulDesc_t,
    /// Of B, A and C, in the library's order.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl ProductPlan {
    fn new(handle: sys::cublasLtHandle_t, problem: &Gemm) -> Result<Self> {
        let product = description(problem).map_err(refused("describe a product"))?;
        let layouts = [
            layout(&problem.b, problem.k, problem.n)?,
            layout(&problem.a, problem.m, problem.k)?,
            layout(&problem.c, problem.m, problem.n)?,
        ];
        let algorithm = algorithm(handle, product, layouts, problem)
            .map_err(refused("choose an algorithm for a product"))?;
        Ok(Self {
            product,
            layouts,
            algorithm,
        })
    }
}

// SAFETY: descriptors are plain memory of the library, only read after they are made.
unsafe impl Send for ProductPlan {}

fn description(problem: &Gemm) -> Result<sys::cublasLtMatmulDesc_t, CublasError> {
    use sys::cublasLtMatmulDescAttributes_t as Attribute;
    let compute = match (problem.a.dtype, problem.tf32) {
        (DType::F32, true) => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        _ => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    let product = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)?;
    for (attribute, transposed) in [
        (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, problem.b.transposed),
        (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, problem.a.transposed),
    ] {
        let value = i32::from(transposed); // CUBLAS_OP_N, CUBLAS_OP_T
        let value = std::ptr::from_ref(&value).cast();
        // SAFETY: the descriptor is live; the attribute is an i32.
        unsafe { result::set_matmul_desc_attribute(product, attribute, value, 4)? };
    }
    Ok(product)
}

/// A row-major (rows, cols) operand as the column-major library sees it: its stored matrix transposed.
fn layout(operand: &Operand, rows: usize, cols: usize) -> Result<sys::cublasLtMatrixLayout_t> {
    let dtype = match operand.dtype {
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        other => {
            expect_dtype("gemm", "an operand", DType::F32, other)?;
            sys::cudaDataType::CUDA_R_32F
        }
    };
    let (stored_rows, stored_cols) = match operand.transposed {
        false => (rows, cols),
        true => (cols, rows),
    };
    result::create_matrix_layout(
        dtype,
        stored_cols as u64,
        stored_rows as u64,
        operand.stride as i64,
    )
    .map_err(refused("describe a matrix"))
}

/// The first algorithm that the library suggests, for layouts in its order.
fn algorithm(
    handle: sys::cublasLtHandle_t,
    product: sys::cublasLtMatmulDesc_t,
    [a, b, c]: [sys::cublasLtMatrixLayout_t; 3],
    problem: &Gemm,
) -> Result<sys::cublasLtMatmulAlgo_t, CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let preference = result::create_matmul_pref()?;
    let set = |attribute, value: &[u8]| {
        // SAFETY: the preference is live; the value is of the attribute's type.
        unsafe {
            let bytes = value.as_ptr().cast();
            result::set_matmul_pref_attribute(preference, attribute, bytes, value.len())
        }
    };
    let workspace = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    set(workspace, &WORKSPACE_BYTES.to_ne_bytes())?;
    let alignments = [
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ];
    let operands = [problem.b, problem.a, problem.c, problem.c];
    for (attribute, operand) in alignments.into_iter().zip(operands) {
        set(attribute, &(operand.ptr.0 as u32).to_ne_bytes())?;
    }
    // SAFETY: all descriptors are live.
    unsafe {
        let found = result::get_matmul_algo_heuristic(handle, product, a, b, c, c, preference);
        let _ = result::destroy_matmul_pref(preference);
        Ok(found?.algo)
    }
}
