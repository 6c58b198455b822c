// Sums over everything or over rows, of values or of squared differences, and their gradients.
//
// Macros: IO, the type of the operands; WARPS, the warps that share a row where rows are summed (1: eight rows a
// block).

constexpr int BLOCK = 256;
constexpr int THREADS = WARPS * 32;

// What is summed at a place.
__device__ __forceinline__ float term(const SumParams& p, i64 r, i64 c) {
    float a = to_f32(p.a[r * p.a_stride + c]);
    if (!p.b) return a;
    float difference = a - to_f32(p.b[r * p.b_stride + c]);
    return difference * difference;
}

// Sum over the warps of a block of a value that each lane of a warp has, in order; the first thread has the result.
template <class Value> __device__ __forceinline__ Value over_warps(Value x) {
    __shared__ Value parts[BLOCK / 32];
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    Value sum = parts[0];
    for (int warp = 1; warp < BLOCK / 32; ++warp) sum += parts[warp];
    return sum;
}

// The sum of the values of each block, counted row by row. Grid: blocks.
extern "C" __global__ void __launch_bounds__(BLOCK) reduce_blocks(const __grid_constant__ SumParams p) {
    i64 from = (i64)blockIdx.x * p.values, to = min(from + p.values, p.rows * p.cols);
    float sum = 0.0f;
    for (i64 i = from + threadIdx.x; i < to; i += BLOCK) {
        i64 r = p.rows == 1 ? 0 : i / p.cols;
        sum += term(p, r, i - r * p.cols);
    }
    sum = over_warps(warp_sum(sum));
    if (threadIdx.x == 0) p.partials[blockIdx.x] = (double)sum;
}

// The sum over the blocks. One block.
extern "C" __global__ void __launch_bounds__(BLOCK) reduce_fold(const __grid_constant__ SumParams p) {
    double sum = 0.0;
    for (u32 block = threadIdx.x; block < p.blocks; block += BLOCK) sum += p.partials[block];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    sum = over_warps(sum);
    if (threadIdx.x == 0) *p.y = (float)((double)p.factor * sum);
}

// The sum of each row.
extern "C" __global__ void __launch_bounds__(BLOCK) reduce_rows(const __grid_constant__ SumParams p) {
    i64 r = (i64)blockIdx.x * (BLOCK / THREADS) + threadIdx.x / THREADS;
    float sum = 0.0f;
    if (r < p.rows)
        for (i64 c = threadIdx.x % THREADS; c < p.cols; c += THREADS) sum += term(p, r, c);
    sum = warp_sum(sum);
    if constexpr (WARPS > 1) sum = over_warps(sum);
    if (r < p.rows && threadIdx.x % THREADS == 0) p.y[r] = (float)((double)p.factor * (double)sum);
}

// Does f with every place, counted row by row.
template <class F> __device__ __forceinline__ void each(const SpreadParams& p, F f) {
    i64 count = p.rows * p.cols, step = (i64)gridDim.x * BLOCK;
    for (i64 i = (i64)blockIdx.x * BLOCK + threadIdx.x; i < count; i += step) {
        i64 r = i / p.cols;
        f(r, i - r * p.cols, p.factor * p.dy[r * p.dy_step]);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK) reduce_spread(const __grid_constant__ SpreadParams p) {
    each(p, [&](i64 r, i64 c, float slope) { p.da[r * p.da_stride + c] = from_f32<IO>(slope); });
}

extern "C" __global__ void __launch_bounds__(BLOCK) reduce_squared_error_backward(const __grid_constant__ SpreadParams p) {
    each(p, [&](i64 r, i64 c, float slope) {
        float difference = to_f32(p.a[r * p.a_stride + c]) - to_f32(p.b[r * p.b_stride + c]);
        p.da[r * p.da_stride + c] = from_f32<IO>(slope * difference);
        p.db[r * p.db_stride + c] = from_f32<IO>(-slope * difference);
    });
}
