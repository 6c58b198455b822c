//! Matrix products by cuBLASLt. The choice of algorithm is cuBLASLt's first suggestion for a problem, asked for once; no timing
//! decides, so that two runs give the same bits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::Mutex;

use cudarc::cublaslt::{result, sys};

use crate::driver::{self, DevicePtr, PerDevice, find, lock};
use crate::error::refused;
use crate::program::rehearsing;
use crate::tensor::pool::Buffer;
use crate::{DType, Device, Error, LibraryKind, Result};

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
/// [`Error::Library`] without cuBLASLt; [`Error::Cuda`] where it knows no algorithm for the problem.
pub unsafe fn gemm(device: Device, problem: &Gemm) -> Result<()> {
    if problem.m == 0 || problem.n == 0 {
        return Ok(());
    }
    let state = driver::of(device)?;
    let Some(stream) = state.stream() else {
        return Ok(()); // a pretended card
    };
    let mut products = lock(PRODUCTS.of(state.device));
    let products = match &mut *products {
        Some(products) => products,
        place => place.insert(Products::new()?),
    };
    let key = problem.key();
    let plan = match products.plans.entry(key) {
        Entry::Occupied(plan) => plan.into_mut(),
        Entry::Vacant(place) => place.insert(Plan::new(products.handle, &key)?),
    };
    if rehearsing() {
        return Ok(());
    }
    // Of the current stream, and of a graph in the making its own.
    let workspace = Buffer::new(WORKSPACE_BYTES, device)?;
    let (alpha, beta) = (1.0_f32, if problem.accumulate { 1.0_f32 } else { 0.0 });
    let address = |operand: &Operand| operand.ptr.0 as *mut c_void;
    // SAFETY: the plan's descriptors are live and describe these operands; the rest is the caller's promise. A column-major
    // library sees the transposes: Cᵀ = Bᵀ Aᵀ.
    unsafe {
        result::matmul(
            products.handle,
            plan.product,
            std::ptr::from_ref(&alpha).cast(),
            std::ptr::from_ref(&beta).cast(),
            address(&problem.b),
            plan.b,
            address(&problem.a),
            plan.a,
            address(&problem.c),
            plan.c,
            address(&problem.c),
            plan.c,
            &plan.algorithm,
            workspace.address() as *mut c_void,
            WORKSPACE_BYTES,
            stream.cast(),
        )
    }
    .map_err(refused("multiply matrices"))
}

/// What products on each device go through.
static PRODUCTS: PerDevice<Mutex<Option<Products>>> = PerDevice::new();

/// cuBLASLt on one device, and the plans made so far.
struct Products {
    handle: sys::cublasLtHandle_t,
    plans: HashMap<Gemm, Plan>,
}

// SAFETY: the handle may be used from any thread; the whole is behind a lock.
unsafe impl Send for Products {}
impl Products {
    fn new() -> Result<Self> {
        find(LibraryKind::CublasLt)?;
        Ok(Self {
            handle: result::create_handle().map_err(refused("start cuBLASLt"))?,
            plans: HashMap::new(),
        })
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
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    c: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, problem: &Gemm) -> Result<Self> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let compute = match (problem.a.dtype, problem.tf32) {
            (DType::F32, true) => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let product = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)
            .map_err(refused("describe a product"))?;
        let transposes = [
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, problem.b.transposed),
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, problem.a.transposed),
        ];
        for (attribute, transposed) in transposes {
            let value = i32::from(transposed); // CUBLAS_OP_N, CUBLAS_OP_T
            // SAFETY: the descriptor is live; the attribute is an i32.
            unsafe {
                result::set_matmul_desc_attribute(
                    product,
                    attribute,
                    std::ptr::from_ref(&value).cast(),
                    4,
                )
            }
            .map_err(refused("describe a product"))?;
        }
        let (a, b, c) = (
            layout(&problem.a, problem.m, problem.k)?,
            layout(&problem.b, problem.k, problem.n)?,
            layout(&problem.c, problem.m, problem.n)?,
        );
        let preference = preference(problem)?;
        // SAFETY: all descriptors are live.
        let found = unsafe {
            let found = result::get_matmul_algo_heuristic(handle, product, b, a, c, c, preference);
            let _ = result::destroy_matmul_pref(preference);
            found.map_err(refused("choose an algorithm for a product"))?
        };
        Ok(Self {
            product,
            a,
            b,
            c,
            algorithm: found.algo,
        })
    }
}

// SAFETY: descriptors are plain memory of the library, only read after they are made.
unsafe impl Send for Plan {}

/// A row-major (rows, cols) operand as the column-major library sees it: its stored matrix transposed.
fn layout(operand: &Operand, rows: usize, cols: usize) -> Result<sys::cublasLtMatrixLayout_t> {
    let dtype = match operand.dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        DType::U32 => {
            return Err(Error::DType {
                op: "gemm",
                what: "an operand",
                expected: DType::F32,
                got: DType::U32,
            });
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

fn preference(problem: &Gemm) -> Result<sys::cublasLtMatmulPreference_t> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let preference =
        result::create_matmul_pref().map_err(refused("choose an algorithm for a product"))?;
    let [a, b, c] = [problem.a, problem.b, problem.c].map(|operand| operand.ptr.0 as u32);
    let alignments = [
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
    ];
    let workspace = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    // SAFETY: the preference is live; the workspace's size is a usize, alignments are u32.
    unsafe {
        let bytes = std::ptr::from_ref(&WORKSPACE_BYTES).cast();
        result::set_matmul_pref_attribute(preference, workspace, bytes, size_of::<usize>())
            .map_err(refused("choose an algorithm for a product"))?;
        for (attribute, value) in alignments {
            result::set_matmul_pref_attribute(
                preference,
                attribute,
                std::ptr::from_ref(&value).cast(),
                4,
            )
            .map_err(refused("choose an algorithm for a product"))?;
        }
    }
    Ok(preference)
}
