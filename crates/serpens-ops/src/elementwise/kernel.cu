// Functions applied value by value to matrices whose rows may lie inside wider ones, conversions, and sums over rows.
//
// Macros: IO, the type of the values (float | bf16); TO, the type of conversions and sums; VEC, values an access moves.

template <int N, class In, class Last, class Out, int I, int O, class F>
__device__ __forceinline__ void apply(const ElementwiseParams& p, i64 r, i64 c, F f) {
    float x[I][N], y[O][N];
#pragma unroll
    for (int i = 0; i < I - 1; ++i) load<N>((const In*)p.x[i].data + r * p.x[i].stride + c, x[i]);
    load<N>((const Last*)p.x[I - 1].data + r * p.x[I - 1].stride + c, x[I - 1]);
#pragma unroll
    for (int k = 0; k < N; ++k) {
        float in[I], out[O];
#pragma unroll
        for (int i = 0; i < I; ++i) in[i] = x[i][k];
        f(in, out, r * p.cols + c + k);
#pragma unroll
        for (int o = 0; o < O; ++o) y[o][k] = out[o];
    }
#pragma unroll
    for (int o = 0; o < O; ++o) store<N>((Out*)p.y[o].data + r * p.y[o].stride + c, y[o]);
}

// f turns I values into O, at every place of the matrices, and is told its number among all. Last: the type of the last
// input.
template <int I, int O, class In = IO, class Out = IO, class Last = In, class F> __device__ __forceinline__ void map(const ElementwiseParams& p, F f) {
    u32 lanes = 1u << p.lanes_log2, lane = threadIdx.x & (lanes - 1);
    i64 c = ((i64)blockIdx.x * lanes + lane) * VEC, rows = blockDim.x >> p.lanes_log2;
    if (c >= p.cols) return;
    for (i64 r = blockIdx.y * rows + (threadIdx.x >> p.lanes_log2); r < p.rows; r += gridDim.y * rows) {
        if (c + VEC <= p.cols)
            apply<VEC, In, Last, Out, I, O>(p, r, c, f);
        else
#pragma unroll 1
            for (i64 j = c; j < p.cols; ++j) apply<1, In, Last, Out, I, O>(p, r, j, f);
    }
}

// The logistic function and e^x, in f32 as exact as the standard library's.
__device__ __forceinline__ float exponential(float x) {
    if constexpr (sizeof(IO) == 2)
        return exp_fast(x);
    else
        return expf(x);
}
__device__ __forceinline__ float logistic(float x) {
    if constexpr (sizeof(IO) == 2)
        return sigmoid(x);
    else
        return 1.0f / (1.0f + expf(-x));
}

// The logistic function's slope at x >= 0, where no difference loses small values; it is even.
__device__ __forceinline__ float logistic_slope(float x) {
    float e = exponential(-x);
    return e / ((1.0f + e) * (1.0f + e));
}
// w of gelu(x) = x σ(w), and its slope, of an x that is no larger than where σ(-|w|) is 0.
struct GeluPower {
    float value, slope;
};
__device__ __forceinline__ GeluPower gelu_power(float x) {
    const float line = 1.5957691f, cube = line * 0.044715f; // 2 sqrt(2 / pi)
    float c = fabsf(x) > 11.0f ? copysignf(11.0f, x) : x;
    return {c * fmaf(cube, c * c, line), fmaf(3.0f * cube, c * c, line)};
}
// How far target t is from the side that x is on: cpu.rs has the same.
__device__ __forceinline__ float missed(float x, float t) { return x < 0.0f ? t : 1.0f - t; }
// Whether dropout keeps value i of all: scalars.rs has the same.
__device__ __forceinline__ bool kept(const Scalars& s, i64 i) {
    u64 z = s.seed + ((u64)i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (u32)((z ^ z >> 31) >> 40) >= s.threshold;
}

#define FUNCTION_OF(last, name, inputs, outputs, ...)                                                        \
    extern "C" __global__ void __launch_bounds__(256) elementwise_##name(const __grid_constant__ ElementwiseParams p) { \
        map<inputs, outputs, IO, IO, last>(p, [&](const float(&x)[inputs], float(&y)[outputs], i64 i) { __VA_ARGS__; }); \
    }
#define FUNCTION(...) FUNCTION_OF(IO, __VA_ARGS__)

FUNCTION(add, 2, 1, y[0] = x[0] + x[1])
FUNCTION(sub, 2, 1, y[0] = x[0] - x[1])
FUNCTION(mul, 2, 1, y[0] = x[0] * x[1])
FUNCTION(mul_backward, 3, 2, y[0] = x[0] * x[2]; y[1] = x[0] * x[1])
FUNCTION(silu, 1, 1, y[0] = x[0] * logistic(x[0]))
FUNCTION(silu_mul, 2, 1, y[0] = x[0] * (x[1] * logistic(x[1])))
FUNCTION(gelu, 1, 1, y[0] = x[0] * logistic(gelu_power(x[0]).value))
FUNCTION(exp, 1, 1, y[0] = exponential(x[0]))
FUNCTION(neg_exp, 1, 1, y[0] = -exponential(x[0]))
FUNCTION(log, 1, 1, y[0] = logf(x[0]))
FUNCTION(abs, 1, 1, y[0] = fabsf(x[0]))
FUNCTION(sigmoid, 1, 1, y[0] = logistic(x[0]))
FUNCTION(tanh, 1, 1, y[0] = tanhf(x[0]))
FUNCTION(scale, 1, 1, y[0] = x[0] * p.scalars.factor)
FUNCTION(dropout, 1, 1, y[0] = kept(p.scalars, i) ? x[0] * p.scalars.factor : 0.0f)
// (dy, x) -> dx
FUNCTION(log_backward, 2, 1, y[0] = x[0] / x[1])
FUNCTION(abs_backward, 2, 1, y[0] = x[1] == 0.0f ? 0.0f : x[1] < 0.0f ? -x[0] : x[0])
FUNCTION(sigmoid_backward, 2, 1, y[0] = x[0] * logistic_slope(fabsf(x[1])))
FUNCTION(tanh_backward, 2, 1, y[0] = x[0] * 4.0f * logistic_slope(2.0f * fabsf(x[1])))
// (dy, x) -> dx
FUNCTION(silu_backward, 2, 1, float s = logistic(x[1]); y[0] = x[0] * fmaf(x[1] * s, 1.0f - s, s))
FUNCTION(gelu_backward, 2, 1, GeluPower w = gelu_power(x[1]); float s = logistic(w.value);
         y[0] = x[0] * fmaf(x[1] * s * (1.0f - s), w.slope, s))
// (x, t) -> y, (dy, x, t) -> dx
FUNCTION_OF(float, binary_cross_entropy, 2, 1, float size = fabsf(x[0]);
            y[0] = fmaf(missed(x[0], x[1]), size, log1pf(exponential(-size))))
FUNCTION_OF(float, binary_cross_entropy_backward, 3, 1, float e = exponential(-fabsf(x[1])), small = e / (1.0f + e);
            y[0] = (x[1] < 0.0f ? -x[0] : x[0]) * (missed(x[1], x[2]) - small))
// (dy, a, z) -> da, dz
FUNCTION(silu_mul_backward, 3, 2, float s = logistic(x[2]), silu_z = x[2] * s; y[0] = x[0] * silu_z;
         y[1] = x[0] * x[1] * fmaf(silu_z, 1.0f - s, s))

// The same values in another type, or one row repeated.
extern "C" __global__ void __launch_bounds__(256) elementwise_convert(const __grid_constant__ ElementwiseParams p) {
    map<1, 1, IO, TO>(p, [](const float(&x)[1], float(&y)[1], i64) { y[0] = x[0]; });
}

// ---- sums over rows ----

constexpr int LANES = 32, ROWS = 8; // threads of a block along a row, and rows at a time

// The sum of each column over the rows of a block (grid y): eight interleaved sums, added in order. cols: a multiple of
// VEC.
extern "C" __global__ void __launch_bounds__(256) elementwise_sum_block(const __grid_constant__ RowSumParams p) {
    __shared__ float parts[ROWS][LANES * VEC];
    int lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
    i64 c = ((i64)blockIdx.x * LANES + lane) * VEC;
    i64 from = blockIdx.y * p.block_rows, to = min(from + p.block_rows, p.rows);
    float sum[VEC] = {};
    if (c < p.cols) {
#pragma unroll 4
        for (i64 r = from + row; r < to; r += ROWS) {
            float x[VEC];
            load<VEC>(p.x + r * p.stride + c, x);
#pragma unroll
            for (int k = 0; k < VEC; ++k) sum[k] += x[k];
        }
    }
#pragma unroll
    for (int k = 0; k < VEC; ++k) parts[row][lane * VEC + k] = sum[k];
    __syncthreads();
    for (int j = threadIdx.x; j < LANES * VEC; j += 256) {
        i64 column = (i64)blockIdx.x * LANES * VEC + j;
        float total = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) total += parts[r][j];
        if (column < p.cols) p.partials[blockIdx.y * p.cols + column] = total;
    }
}

// The sums over the blocks, in order.
extern "C" __global__ void __launch_bounds__(256) elementwise_sum_fold(const __grid_constant__ RowSumParams p) {
    i64 c = (i64)blockIdx.x * 256 + threadIdx.x;
    if (c >= p.cols) return;
    float sum = p.accumulate ? to_f32(p.out[c]) : 0.0f;
#pragma unroll 8
    for (u32 block = 0; block < p.blocks; ++block) sum += p.partials[block * p.cols + c];
    p.out[c] = from_f32<TO>(sum);
}
