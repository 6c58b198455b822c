//! What `.ci/sanitize` runs under the tools of compute-sanitizer: every kernel, at small shapes.

use serpens_core::{DType, Device};

use super::kernels::OPERATIONS;

fn on_a_gpu(run: fn(Device, DType)) {
    let device = Device::cuda(0).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        run(device, dtype);
    }
    device.synchronize().unwrap();
}

/// A test for each operation with kernels, of its cases or the small ones of them. The script finds them by their
/// names.
macro_rules! operations {
    ($($operation:ident: $run:ident,)+) => {
        const COUNT: usize = [$(stringify!($operation)),+].len();

        $(#[test]
        #[ignore = "for .ci/sanitize, on a GPU"]
        fn $operation() {
            on_a_gpu(crate::$operation::tests::devices::$run);
        })+
    };
}

operations! {
    attention: run_all,
    causal_conv1d: run_all,
    cross_entropy: run_all,
    elementwise: run_all,
    embedding: run_all,
    linear: run_all,
    long_conv: run_small,
    lti_kernel: run_all,
    mamba_layers: run_all,
    offset_scale: run_all,
    optimizer: run_all,
    pooling: run_all,
    positions: run_all,
    reduce: run_all,
    rms_norm: run_all,
    rope: run_all,
    sampling: run_all,
    selective_scan: run_small,
    softmax: run_all,
    swap_axes: run_all,
}

#[test]
fn every_operation_with_kernels_is_named() {
    assert_eq!(COUNT, OPERATIONS.len());
}
