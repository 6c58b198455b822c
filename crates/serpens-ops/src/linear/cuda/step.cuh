// y = W norm(x) + b, or added to y, for the few rows of x that decoding has: one reading of W, as fast as memory gives
// it. A block has a few outputs; its warps share the inputs out among them and add their sums in order. It reads its
// part of W ahead of the kernel before, whose results it then waits for. Blocks along x of the grid have other rows of
// x where those are many.
//
// The norm's divisor is applied to the sums, so that products need not wait for it; the first outputs may go through a
// convolution.
//
// Macros: WEIGHT (BF16_WEIGHT, F32_WEIGHT; Q8_0_WEIGHT, Q4_0_WEIGHT: as quantized_linear/cuda lays blocks), W and
// SCALES (the types of W and of the scales of a group of blocks), X (float or bf16: x), OUT (float or bf16: y), NORM
// (whether x is normalised), ACCUMULATE, CONV (the width of the convolution, or 0), SLOTS (rows of x of a block at
// most, a power of two), PANELS (of 8 outputs, of a block; of blocks of W 16; of f32 weights outputs of a warp), WARPS,
// DEPTH (16-byte reads of a row that are under way), VECTOR (whether rows allow accesses of 16 bytes).

constexpr bool STAGED = NORM || sizeof(X) == 4;  // x as bf16 in shared memory, where it is not read as it is
constexpr int THREADS = 32 * WARPS;
constexpr int HALVES = (SLOTS + 7) / 8;
constexpr bool BLOCKS = WEIGHT == Q8_0_WEIGHT || WEIGHT == Q4_0_WEIGHT;
constexpr int OUTPUTS = (WEIGHT == F32_WEIGHT ? WARPS : BLOCKS ? 16 : 8) * PANELS;  // of a block
constexpr int XS = WEIGHT == Q8_0_WEIGHT ? 2 : WEIGHT == Q4_0_WEIGHT ? 4 : 1;       // parts of 8 inputs in 16 B of W
constexpr int INPUTS = WEIGHT == F32_WEIGHT ? 128 : 32 * XS;                        // of a warp's access

template <bool F32> struct Narrow { typedef bf16 type; };
template <> struct Narrow<true> { typedef float type; };
typedef Narrow<WEIGHT == F32_WEIGHT>::type Staged;

// A block's part of the rows.
__device__ __forceinline__ LinearStepParams rows_of_block(const LinearStepParams& all) {
    LinearStepParams p = all;
    int first = blockIdx.x * SLOTS;
    p.x += first * p.x_stride, p.y += first * p.y_stride;
    p.conv.state += first * p.conv.state_stride, p.conv.u += first * p.conv.u_stride;
    p.slots = min(SLOTS, p.slots - first);
    return p;
}

// ---- x -------------------------------------------------------------------------------------------------------------

// The values of a staged row and what separates it from the next: no two rows of four begin in the same banks.
__device__ __forceinline__ int staged_row(const LinearStepParams& p) {
    int values = (p.inputs + 127) / 128 * 128;
    return sizeof(Staged) == 2 ? values + 32 : values;
}

__device__ __forceinline__ void stage(float* to, const float (&x)[4]) { *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]); }
__device__ __forceinline__ void stage(bf16* to, const float (&x)[4]) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
}

// Four values of a row of x, or of the norm's weight; zeros behind the end.
template <bool FRESH, class T> __device__ __forceinline__ void read_four(const T* row, int k, int inputs, float (&to)[4]) {
    if (sizeof(T) == 4 && VECTOR) {
        const uint4* from = reinterpret_cast<const uint4*>(row + k);
        uint4 words = make_uint4(0, 0, 0, 0);
        if (k < inputs) words = FRESH ? load_fresh(from) : *from;
        to[0] = __uint_as_float(words.x), to[1] = __uint_as_float(words.y);
        to[2] = __uint_as_float(words.z), to[3] = __uint_as_float(words.w);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) to[i] = k + i < inputs ? to_f32(row[k + i]) : 0.0f;
    }
}

constexpr int ROWS_AT_ONCE = SLOTS < WARPS ? SLOTS : WARPS;
constexpr int SHARE = BLOCKS ? WARPS : WARPS / ROWS_AT_ONCE;  // warps of a row

// The norm's weight, which is read behind the wait for x, ahead of it.
__device__ __forceinline__ void prefetch_norm(const LinearStepParams& p) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int k = 4 * (32 * (warp % SHARE) + lane); k < p.inputs; k += 128 * SHARE)
        asm volatile("prefetch.global.L1 [%0];" ::"l"(p.norm + k));
}

// Puts x ⊙ w in shared memory, w the norm's weight; the sum of the squares of each row, in parts, in `squares`.
// What is divided by the norm are the sums of products, in the end.
__device__ __forceinline__ void stage_x(const LinearStepParams& p, Staged* staged, float* squares) {
    constexpr int READS = 4;  // that are under way
    int row = staged_row(p), values = (p.inputs + 127) / 128 * 128;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int slot = warp / SHARE; slot < p.slots; slot += ROWS_AT_ONCE) {
        const X* from = p.x + slot * p.x_stride;
        float sum = 0.0f;
        for (int first = 4 * (32 * (warp % SHARE) + lane); first < values; first += READS * 128 * SHARE) {
            float x[READS][4], norm[READS][4];
#pragma unroll
            for (int i = 0; i < READS; ++i) {
                read_four<true>(from, first + i * 128 * SHARE, p.inputs, x[i]);
                if (NORM) read_four<false>(p.norm, first + i * 128 * SHARE, p.inputs, norm[i]);
            }
#pragma unroll
            for (int i = 0; i < READS; ++i) {
                int k = first + i * 128 * SHARE;
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    if (NORM) sum = fmaf(x[i][j], x[i][j], sum), x[i][j] *= norm[i][j];
                }
                if (k < values) stage(staged + slot * row + k, x[i]);
            }
        }
        if (NORM) {
            sum = warp_sum(sum);
            if (lane == 0) squares[slot * WARPS + warp % SHARE] = sum;
        }
    }
}

__device__ __forceinline__ float rstd_of(const LinearStepParams& p, const float* squares, int slot) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SHARE; ++i) sum += squares[slot * WARPS + i];
    return 1.0f / sqrtf(sum / (float)p.inputs + p.eps);
}

// ---- W -------------------------------------------------------------------------------------------------------------

// 16 bytes that nobody writes while the kernel runs and that are read once, those behind them soon after.
__device__ __forceinline__ uint4 load_once(const void* from, bool exists) {
    uint4 x = make_uint4(0, 0, 0, 0);
    if (exists)
        asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from));
    return x;
}

// 16 bytes of a row of W, from value `k` on.
__device__ __forceinline__ uint4 load_weights(const LinearStepParams& p, int output, int k) {
    const W* row = p.weight + output * p.weight_stride;
    bool exists = output < p.outputs && k < p.inputs;
    if (VECTOR) return load_once(row + k, exists);
    constexpr int COUNT = 16 / sizeof(W);
    union { uint4 words; W values[COUNT]; } access;
    access.words = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (exists && k + i < p.inputs) access.values[i] = row[k + i];
    return access.words;
}

// ---- what becomes of a sum -----------------------------------------------------------------------------------------

constexpr int PAST = CONV > 1 ? CONV - 1 : 1;

// A block has as many results as threads, or more: this thread's first, the `i`-th, with what it needs beside the sum,
// which is read meanwhile.
struct Result {
    const LinearStepParams& p;
    int slot, output;
    bool exists, convolved;
    float bias, before, past[PAST], taps[PAST + 1], conv_bias;

    __device__ __forceinline__ Result(const LinearStepParams& p, int i, int first) : p(p) {
        slot = i / OUTPUTS, output = first + i % OUTPUTS;
        exists = slot < p.slots && output < p.outputs;
        convolved = CONV && exists && output < p.conv.channels;
        bias = exists && p.bias ? p.bias[output] : 0.0f;
        conv_bias = convolved && p.conv.bias ? p.conv.bias[output] : 0.0f;
        if (convolved) {
#pragma unroll
            for (int k = 0; k < CONV; ++k) taps[k] = p.conv.weight[(i64)output * CONV + k];
        }
    }
    __device__ __forceinline__ float* state(int k) const {
        return p.conv.state + slot * p.conv.state_stride + (i64)k * p.conv.channels + output;
    }
    // What kernels before this one have written.
    __device__ __forceinline__ void read() {
        before = ACCUMULATE && exists ? to_f32(p.y[slot * p.y_stride + output]) : 0.0f;
        if (convolved) {
#pragma unroll
            for (int k = 0; k + 1 < CONV; ++k) past[k] = *state(k);
        }
    }
    // `sums` is (PARTS, SLOTS, OUTPUTS): sums are added in order.
    template <int PARTS> __device__ __forceinline__ void finish(const float* sums, const float* squares, int i) {
        if (!exists) return;
        float y = 0.0f;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) y += sums[part * SLOTS * OUTPUTS + i];
        if (NORM) y *= rstd_of(p, squares, slot);
        OUT result = from_f32<OUT>(y + bias + before);
        if (convolved)
            p.conv.u[slot * p.conv.u_stride + output] = from_f32<OUT>(convolve(to_f32(result)));
        else
            p.y[slot * p.y_stride + output] = result;
    }
    __device__ __forceinline__ float convolve(float x) {
        float sum = conv_bias;
#pragma unroll
        for (int k = 0; k + 1 < CONV; ++k) {
            sum = fmaf(taps[k], past[k], sum);
            *state(k) = k + 2 < CONV ? past[k + 1] : x;
        }
        sum = fmaf(taps[CONV ? CONV - 1 : 0], x, sum);
        return p.conv.silu ? silu(sum) : sum;
    }
};

// The others of this thread.
template <int PARTS> __device__ __forceinline__ void finish_others(const LinearStepParams& p, const float* sums, const float* squares, int first) {
    for (int i = threadIdx.x + THREADS; i < p.slots * OUTPUTS; i += THREADS) {
        Result result(p, i, first);
        result.read();
        result.finish<PARTS>(sums, squares, i);
    }
}
