// The softmax of rows or its logarithm, and the gradient.
//
// Macros: IO, the type of all; WARPS, the warps that share a row (1: eight rows a block); LOG, 0 or 1. A row is read
// once for its maximum, once for its sum and once to be written: the caches hold it.

constexpr int BLOCK = 256;
constexpr int THREADS = WARPS * 32;
// Below every value of use and far from overflow: a row of nothing but -inf then has a sum of zero.
constexpr float LOWEST = -3.4028234e38f;

__device__ __forceinline__ float exponential(float x) {
    if constexpr (sizeof(IO) == 2)
        return exp_fast(x);
    else
        return expf(x);
}

// The sum or the maximum over the threads of a row, the same bits in each of them.
__device__ __forceinline__ float row_sum(float x) {
    x = warp_sum(x);
    if constexpr (WARPS > 1) {
        __shared__ float sums[WARPS];
        if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
        __syncthreads();
        x = sums[0];
        for (int warp = 1; warp < WARPS; ++warp) x += sums[warp];
    }
    return x;
}
__device__ __forceinline__ float row_max(float x) {
    x = warp_max(x);
    if constexpr (WARPS > 1) {
        __shared__ float maxima[WARPS];
        if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = x;
        __syncthreads();
        for (int warp = 0; warp < WARPS; ++warp) x = fmaxf(x, maxima[warp]);
    }
    return x;
}

// The row of this thread; those of a warp have the same one.
__device__ __forceinline__ i64 own_row() { return (i64)blockIdx.x * (BLOCK / THREADS) + threadIdx.x / THREADS; }

extern "C" __global__ void __launch_bounds__(BLOCK) softmax_forward(const __grid_constant__ SoftmaxParams p) {
    i64 r = own_row(), first = threadIdx.x % THREADS;
    if (r >= p.rows) return;
    const IO* x = p.x + r * p.x_stride;
    IO* y = p.out + r * p.out_stride;
    float max = LOWEST;
    for (i64 c = first; c < p.cols; c += THREADS) max = fmaxf(max, to_f32(x[c]));
    max = row_max(max);
    float sum = 0.0f;
    for (i64 c = first; c < p.cols; c += THREADS) sum += exponential(to_f32(x[c]) - max);
    sum = row_sum(sum);
    float share = 1.0f / sum, log = logf(sum);
    for (i64 c = first; c < p.cols; c += THREADS) {
        float above = to_f32(x[c]) - max;
        y[c] = from_f32<IO>(LOG ? above - log : exponential(above) * share);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK) softmax_backward(const __grid_constant__ SoftmaxParams p) {
    i64 r = own_row(), first = threadIdx.x % THREADS;
    if (r >= p.rows) return;
    const IO *y = p.x + r * p.x_stride, *dy = p.dy + r * p.cols;
    IO* dx = p.out + r * p.out_stride;
    float sum = 0.0f;
    for (i64 c = first; c < p.cols; c += THREADS) sum = fmaf(LOG ? 1.0f : to_f32(y[c]), to_f32(dy[c]), sum);
    sum = row_sum(sum);
    for (i64 c = first; c < p.cols; c += THREADS) {
        float value = to_f32(y[c]), slope = to_f32(dy[c]);
        dx[c] = from_f32<IO>(LOG ? fmaf(-exponential(value), sum, slope) : value * (slope - sum));
    }
}
