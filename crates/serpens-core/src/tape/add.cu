// Sums of gradients: to += from, over rows of matrices that may be columns of wider ones.

extern "C" __global__ void __launch_bounds__(256) add_rows(const __grid_constant__ AddParams p) {
    i64 count = p.rows * p.cols;
    for (i64 i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
        i64 row = i / p.cols, col = i - row * p.cols;
        IO* to = p.to + row * p.to_stride + col;
        *to = from_f32<IO>(to_f32(*to) + to_f32(p.from[row * p.from_stride + col]));
    }
}

// As `add_rows`, for matrices without gaps whose size is a multiple of 8.
extern "C" __global__ void __launch_bounds__(256) add_all(const __grid_constant__ AddParams p) {
    i64 count = p.rows * p.cols;
    for (i64 i = 8 * (blockIdx.x * 256ll + threadIdx.x); i < count; i += 8 * gridDim.x * 256ll) {
        float sum[8], more[8];
        load<8>(p.to + i, sum);
        load<8>(p.from + i, more);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] += more[j];
        store<8>(p.to + i, sum);
    }
}
