// Cross-entropy of rows of logits, and its gradient written over them.
//
// Macros: IO, the type of the logits; WARPS, the warps that share a row (1: four rows a block); GRADIENT, 0 or 1.
//
// A row is read in vectors of 16 bytes from the first address that is aligned to them; the few values before and after
// are one more value of some threads. Each thread keeps the maximum of what it has seen and the sum of exponentials
// relative to that; the gradient is computed from the same vectors read again, which the caches still hold.

constexpr u32 IGNORE = 0xffffffffu;
// Below every logit of use and far from overflow: a thread that has seen nothing but -inf subtracts it without a NaN.
constexpr float LOWEST = -1e38f;

constexpr int K = 16 / (int)sizeof(IO);
constexpr int THREADS = WARPS * 32;
constexpr int BLOCK = WARPS == 1 ? 128 : THREADS;
constexpr int ROWS = BLOCK / THREADS;
// Vectors a thread has under way at once.
constexpr int UNROLL = 4;

// What the host reads, see `Totals` in mod.rs.
struct Totals {
    double sum;
    u32 count, correct, invalid, offender, vocabulary;
};

struct RowLoss {
    float nll;
    u32 correct;
};

// ---- one row, shared out over its threads ----

// Vectors v = thread, thread + THREADS, … of the aligned middle; `edge` is the thread's value outside it, or -1.
struct Row {
    IO* middle;
    int vectors, head, edge;

    __device__ __forceinline__ Row(IO* row, int length, int thread) {
        head = (int)((16 - ((u64)row & 15)) & 15) / (int)sizeof(IO);
        head = head < length ? head : length;
        vectors = (length - head) / K;
        middle = row + head;
        int end = head + vectors * K;
        edge = thread < head ? thread : -1;
        if (thread >= K && thread - K < length - end) edge = end + thread - K;
    }
    // The values of this thread's vector, -inf beyond the last.
    __device__ __forceinline__ uint4 vector(int v) const {
        constexpr u32 NOTHING = sizeof(IO) == 2 ? 0xff80ff80u : 0xff800000u;
        if (v >= vectors) return make_uint4(NOTHING, NOTHING, NOTHING, NOTHING);
        return *reinterpret_cast<const uint4*>(middle + (i64)v * K);
    }
};

__device__ __forceinline__ void unpack(uint4 packed, float (&x)[K]) {
    const u32 words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(IO) == 2) {
            x[2 * i] = low_f32(words[i]);
            x[2 * i + 1] = high_f32(words[i]);
        } else {
            x[i] = __uint_as_float(words[i]);
        }
    }
}

// The largest of the values; a NaN may pass unseen.
__device__ __forceinline__ float largest(uint4 packed) {
    if constexpr (sizeof(IO) == 2) {
        u32 a, b;
        asm("max.bf16x2 %0, %1, %2;" : "=r"(a) : "r"(packed.x), "r"(packed.y));
        asm("max.bf16x2 %0, %1, %2;" : "=r"(b) : "r"(packed.z), "r"(packed.w));
        asm("max.bf16x2 %0, %1, %2;" : "=r"(a) : "r"(a), "r"(b));
        return fmaxf(low_f32(a), high_f32(a));
    } else {
        float x[K];
        unpack(packed, x);
        return fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    }
}

// From here on two bfloat16 values that are not the same lie so far apart that e^-distance is 0, as 2^-distance is.
constexpr float FAR = 16777216.0f;

// e^(x - max) of a row whose maximum is `max`: one operation and a power of two for bfloat16, the exact difference for
// f32.
struct Exponential {
    // For bfloat16 log2 e, or where a product with it leaves no room for differences, 1.
    float scale;
    // For bfloat16 -max · scale, rounded: no compiler may fuse this product with a sum. Every value meets the same
    // rounding, which cancels as long as sums, losses and probabilities are all made of this.
    float shift;

    __device__ __forceinline__ explicit Exponential(float max)
        : scale(fabsf(max) < FAR ? LOG2_E : 1.0f), shift(sizeof(IO) == 2 ? __fmul_rn(-max, scale) : max) {}
    __device__ __forceinline__ float operator()(float x) const {
        if constexpr (sizeof(IO) == 2)
            return exp2_fast(fmaf(x, scale, shift));
        else
            return expf(x - shift);
    }
    // What a sum made with another maximum, not above this one, is to be multiplied by.
    __device__ __forceinline__ float from(Exponential other) const {
        if constexpr (sizeof(IO) == 2)
            return scale == other.scale ? exp2_fast(shift - other.shift) : 0.0f;
        else
            return expf(other.shift - shift);
    }
    // ln(sum · e^(max - x)): the loss of the value.
    __device__ __forceinline__ float loss(float sum, float x) const {
        if constexpr (sizeof(IO) == 2)
            return LN_2 * (log2f(sum) - fmaf(x, scale, shift) * (scale == 1.0f ? LOG2_E : 1.0f));
        else
            return shift - x + logf(sum);
    }
};

// The largest value seen, the sum of e^(x - max), and the number of the group of vectors where the maximum came first.
struct Seen {
    float max, sum;
    int group;
};

constexpr int EDGE = -1;

__device__ __forceinline__ Seen look(const Row& row, const IO* values, int thread) {
    Seen seen = {LOWEST, 0.0f, EDGE};
    if (row.edge >= 0) {
        float x = to_f32(values[row.edge]);
        seen.max = fmaxf(seen.max, x);
        seen.sum = Exponential(seen.max)(x);
    }
    for (int group = 0; group * (UNROLL * THREADS) < row.vectors; ++group) {
        uint4 packed[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) packed[u] = row.vector((group * UNROLL + u) * THREADS + thread);
        float top = LOWEST;
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) top = fmaxf(top, largest(packed[u]));
        if (top > seen.max) {
            seen.sum *= Exponential(top).from(Exponential(seen.max));
            seen.max = top;
            seen.group = group;
        }
        Exponential power(seen.max);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            if ((group * UNROLL + u) * THREADS + thread >= row.vectors) break;
            float x[K], sum = 0.0f;
            unpack(packed[u], x);
#pragma unroll
            for (int k = 0; k < K; ++k) sum += power(x[k]);
            seen.sum += sum;
        }
    }
    return seen;
}

// The maximum of the row and the sum of e^(x - max) over it, the same in all its threads.
__device__ __forceinline__ void combine(Seen& seen) {
    float max = warp_max(seen.max);
    float sum = warp_sum(seen.sum * Exponential(max).from(Exponential(seen.max)));
    if constexpr (WARPS > 1) {
        __shared__ float maxima[32], sums[32];
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        if (lane == 0) maxima[warp] = max, sums[warp] = sum;
        __syncthreads();
        float other = lane < WARPS ? maxima[lane] : LOWEST;
        float part = lane < WARPS ? sums[lane] : 0.0f;
        max = warp_max(other);
        sum = warp_sum(part * Exponential(max).from(Exponential(other)));
    }
    seen.max = max;
    seen.sum = sum;
}

// The index in the row of the first of this thread's values that equals `max`, in the group where it was found.
__device__ __forceinline__ u32 position(const Row& row, const IO* values, int thread, int group, float max) {
    if (row.edge >= 0 && row.edge < row.head && to_f32(values[row.edge]) == max) return row.edge;
    for (int u = 0; group != EDGE && u < UNROLL; ++u) {
        int v = (group * UNROLL + u) * THREADS + thread;
        for (int k = 0; v < row.vectors && k < K; ++k)
            if (to_f32(row.middle[(i64)v * K + k]) == max) return row.head + v * K + k;
    }
    return row.edge >= 0 && to_f32(values[row.edge]) == max ? row.edge : IGNORE;
}

// The smallest of the row's threads' values.
__device__ __forceinline__ u32 least(u32 x) {
    x = __reduce_min_sync(0xffffffffu, x);
    if constexpr (WARPS > 1) {
        __shared__ u32 minima[32];
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        if (lane == 0) minima[warp] = x;
        __syncthreads();
        x = __reduce_min_sync(0xffffffffu, lane < WARPS ? minima[lane] : IGNORE);
    }
    return x;
}

// ---- the gradient ----

// scale · softmax of a value, from the row's maximum and sum.
struct Slope {
    Exponential power;
    float factor; // not log2 of it in the exponent, where large logits leave no room for it
    __device__ __forceinline__ Slope(Exponential power, float sum, float scale)
        : power(power), factor(scale / sum) {}
    __device__ __forceinline__ float operator()(float x) const { return power(x) * factor; }
};

// Writes a vector that nobody reads soon, so that it does not push rows yet to be read from the cache.
__device__ __forceinline__ void store_streaming(IO* to, const float (&x)[K]) {
    union { uint4 word; IO values[K]; } packet;
#pragma unroll
    for (int k = 0; k < K; ++k) packet.values[k] = from_f32<IO>(x[k]);
    __stcs(reinterpret_cast<uint4*>(to), packet.word);
}

// Writes the gradient over this thread's values, the last vectors first: those are the likeliest to be in the cache.
__device__ __forceinline__ void descend(const Row& row, IO* values, int thread, Slope slope) {
    int groups = (row.vectors + UNROLL * THREADS - 1) / (UNROLL * THREADS);
    for (int group = groups - 1; group >= 0; --group) {
        uint4 packed[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) packed[u] = row.vector((group * UNROLL + u) * THREADS + thread);
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            int v = (group * UNROLL + u) * THREADS + thread;
            if (v >= row.vectors) break;
            float x[K];
            unpack(packed[u], x);
#pragma unroll
            for (int k = 0; k < K; ++k) x[k] = slope(x[k]);
            store_streaming(row.middle + (i64)v * K, x);
        }
    }
    if (row.edge >= 0) values[row.edge] = from_f32<IO>(slope(to_f32(values[row.edge])));
}

// The thread that has value `index` of the row.
__device__ __forceinline__ int owner(const Row& row, int index) {
    int end = row.head + row.vectors * K;
    if (index < row.head) return index;
    return index < end ? (index - row.head) / K % THREADS : index - end + K;
}

__device__ __forceinline__ void clear(const Row& row, IO* values, int thread) {
    const float zeros[K] = {};
    for (int v = thread; v < row.vectors; v += THREADS) store<K>(row.middle + (i64)v * K, zeros);
    if (row.edge >= 0) values[row.edge] = from_f32<IO>(0.0f);
}

// ---- kernels ----

// Loss of each row; with GRADIENT its logits become ∂(mean)/∂logits. Follows cross_entropy_count. Without the gradient
// the compiler's own choice of blocks a multiprocessor spills.
extern "C" __global__ void __launch_bounds__(BLOCK, GRADIENT ? 0 : 1) cross_entropy_rows(const __grid_constant__ CrossEntropyParams p) {
    i64 r = (i64)blockIdx.x * ROWS + threadIdx.x / THREADS;
    if (r >= p.rows) return;
    int thread = threadIdx.x % THREADS;
    IO* values = p.logits + r * p.vocabulary;
    Row row(values, (int)p.vocabulary, thread);
    u32 target = p.targets[r];
    if (target >= p.vocabulary) {
        if (thread == 0) p.losses[r] = {0.0f, 0};
        if constexpr (GRADIENT) clear(row, values, thread);
        return;
    }
    float at_target = to_f32(values[target]);
    Seen seen = look(row, values, thread);
    float own_max = seen.max;
    combine(seen);
    u32 correct = 0;
    if (at_target == seen.max) {
        u32 first = own_max == seen.max ? position(row, values, thread, seen.group, own_max) : IGNORE;
        correct = least(first) == target;
    }
    Exponential power(seen.max);
    if (thread == 0) p.losses[r] = {power.loss(seen.sum, at_target), correct};
    if constexpr (GRADIENT) {
        float scale = 1.0f / (float)p.totals->count;
        descend(row, values, thread, Slope(power, seen.sum, scale));
        float probability = power(at_target) / seen.sum;
        if (thread == owner(row, (int)target)) values[target] = from_f32<IO>((probability - 1.0f) * scale);
    }
}

// Sum over the block of a value of each thread; every thread takes part, the first has the result.
template <class Value> __device__ __forceinline__ Value block_sum(Value x) {
    __shared__ Value parts[32];
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[threadIdx.x % 32];
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    __syncthreads();
    return x;
}

// How many targets count, how many are neither a class nor IGNORE, and the least of those. One block of 1024.
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_count(const __grid_constant__ CrossEntropyParams p) {
    __shared__ u32 offender;
    if (threadIdx.x == 0) offender = IGNORE;
    __syncthreads();
    u32 count = 0, invalid = 0;
#pragma unroll 8
    for (i64 r = threadIdx.x; r < p.rows; r += 1024) {
        u32 target = p.targets[r];
        count += target < p.vocabulary;
        if (target >= p.vocabulary && target != IGNORE) {
            ++invalid;
            atomicMin(&offender, target);
        }
    }
    count = block_sum(count);
    invalid = block_sum(invalid);
    if (threadIdx.x > 0) return;
    p.totals->count = count;
    p.totals->invalid = invalid;
    p.totals->offender = offender;
    p.totals->vocabulary = (u32)p.vocabulary;
}

// The sums over the rows, in a fixed order. One block of 1024, after the other two.
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_fold(const __grid_constant__ CrossEntropyParams p) {
    double sum = 0.0;
    u32 correct = 0;
#pragma unroll 8
    for (i64 r = threadIdx.x; r < p.rows; r += 1024) {
        RowLoss row = p.losses[r];
        sum += (double)row.nll;
        correct += row.correct;
    }
    sum = block_sum(sum);
    correct = block_sum(correct);
    if (threadIdx.x == 0) {
        p.totals->sum = sum;
        p.totals->correct = correct;
        *p.loss = (float)(sum / (double)max(p.totals->count, 1u));
    }
}

// gradient ← factor · gradient; where the factor is 1, as it is for the loss of a whole step, nothing is touched.
extern "C" __global__ void __launch_bounds__(256) cross_entropy_scale(const __grid_constant__ ScaleParams p) {
    float factor = *p.factor;
    if (factor == 1.0f) return;
    i64 step = (i64)gridDim.x * 256 * K;
    for (i64 i = ((i64)blockIdx.x * 256 + threadIdx.x) * K; i < p.count; i += step) {
        if (i + K <= p.count) {
            float x[K];
            load<K>(p.gradient + i, x);
#pragma unroll
            for (int k = 0; k < K; ++k) x[k] *= factor;
            store<K>(p.gradient + i, x);
        } else {
            for (i64 j = i; j < p.count; ++j) p.gradient[j] = from_f32<IO>(to_f32(p.gradient[j]) * factor);
        }
    }
}
