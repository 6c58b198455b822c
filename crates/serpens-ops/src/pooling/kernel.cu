// One row of each sequence, as mod.rs defines them.
//
// Macros: IO (float or bf16: x and its gradient), SCORE (the same of scores), KIND (LAST, MEAN or ATTENTION), VEC
// (values of an access: 4 or 1).

constexpr int LANES = 32;            // threads that share a row
constexpr int TURNS = BLOCK / LANES; // rows at work
// Below every score of use: of nothing but -inf the weights are then 0.
constexpr float LOWEST = -3.4028234e38f;

// ---- where sequences and their parts lie ----

__device__ __forceinline__ u32 bound(const PartsParams& p, u32 sequence) {
    return p.bounds ? p.bounds[sequence] : sequence * p.length;
}
__device__ __forceinline__ u32 first_part(const PartsParams& p, u32 sequence) {
    return p.bounds ? p.firsts[sequence] : sequence * p.of_each;
}

struct Rows {
    u32 sequence, begin, end;
    u32 last; // of the sequence

    __device__ __forceinline__ Rows(const PartsParams& p, u32 part) {
        sequence = p.bounds ? p.owners[part] : part / p.of_each;
        begin = bound(p, sequence) + (part - first_part(p, sequence)) * PART;
        last = bound(p, sequence + 1) - 1;
        end = min(begin + PART, last + 1);
    }
};

// The largest score, and the sum of the weights e^(score - that).
struct Norm {
    float max, total;
};

// ---- forward ----

// The weights of a part's rows, by its first warp.
__device__ __forceinline__ Norm weigh(const PoolingParams& p, u32 begin, u32 count, float* weights) {
    float scores[PART / LANES];
    Norm norm = {LOWEST, 0.0f};
#pragma unroll
    for (int i = 0; i < PART / LANES; ++i) {
        u32 row = i * LANES + threadIdx.x;
        scores[i] = row < count ? to_f32(p.scores[(begin + row) * p.scores_stride]) : LOWEST;
        norm.max = fmaxf(norm.max, scores[i]);
    }
    norm.max = warp_max(norm.max);
#pragma unroll
    for (int i = 0; i < PART / LANES; ++i) {
        u32 row = i * LANES + threadIdx.x;
        float weight = row < count ? expf(scores[i] - norm.max) : 0.0f;
        weights[row] = weight;
        norm.total += weight;
    }
    norm.total = warp_sum(norm.total);
    return norm;
}

// The sum of a part's rows (grid x), for 32 · VEC columns (grid y). Where every sequence is one part, that is its row.
extern "C" __global__ void __launch_bounds__(BLOCK) pooling_parts(const __grid_constant__ PoolingParams p) {
    __shared__ float weights[PART];
    __shared__ Norm shared_norm;
    __shared__ __align__(16) float sums[TURNS][LANES * VEC];
    u32 lane = threadIdx.x % LANES, turn = threadIdx.x / LANES;
    u32 begin, count;
    if constexpr (KIND == LAST) {
        begin = bound(p.parts, blockIdx.x + 1) - 1;
        count = 1;
    } else {
        Rows rows(p.parts, blockIdx.x);
        begin = rows.begin;
        count = rows.end - rows.begin;
    }
    Norm norm = {0.0f, (float)count};
    if constexpr (KIND == ATTENTION) {
        if (turn == 0) {
            norm = weigh(p, begin, count, weights);
            if (lane == 0) shared_norm = norm;
        }
        __syncthreads();
        norm = shared_norm;
    }
    i64 c = ((i64)blockIdx.y * LANES + lane) * VEC;
    float sum[VEC] = {};
    if (c < p.width) {
#pragma unroll 4
        for (u32 row = turn; row < count; row += TURNS) {
            float x[VEC], weight = KIND == ATTENTION ? weights[row] : 1.0f;
            load<VEC>(p.x + (begin + row) * p.x_stride + c, x);
#pragma unroll
            for (int k = 0; k < VEC; ++k) sum[k] = fmaf(weight, x[k], sum[k]);
        }
    }
    store<VEC>(&sums[turn][lane * VEC], sum);
    __syncthreads();
    if (turn > 0) return;
#pragma unroll
    for (int i = 1; i < TURNS; ++i)
#pragma unroll
        for (int k = 0; k < VEC; ++k) sum[k] += sums[i][lane * VEC + k];
    if (p.whole) {
#pragma unroll
        for (int k = 0; k < VEC; ++k) sum[k] /= norm.total;
    }
    if (c < p.width) store<VEC>(p.sums + blockIdx.x * p.width + c, sum);
    if (blockIdx.y == 0 && lane == 0) {
        p.norms[2 * (i64)blockIdx.x] = norm.max;
        p.norms[2 * (i64)blockIdx.x + 1] = norm.total;
    }
}

constexpr int GROUPS = 32; // of parts that are summed at the same time

// The row of a sequence (grid x), for 32 columns (grid y), from the sums of its parts.
extern "C" __global__ void __launch_bounds__(LANES * GROUPS) pooling_sequences(const __grid_constant__ PoolingSumParams p) {
    __shared__ float maxima[GROUPS], totals[GROUPS], sums[GROUPS][LANES];
    u32 lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    u32 from = first_part(p.parts, blockIdx.x), to = first_part(p.parts, blockIdx.x + 1);
    i64 c = (i64)blockIdx.y * LANES + lane;
    float max = LOWEST;
    for (u32 part = from + threadIdx.x; part < to; part += LANES * GROUPS) max = fmaxf(max, p.part_norms[2 * (i64)part]);
    max = warp_max(max);
    if (lane == 0) maxima[group] = max;
    __syncthreads();
    max = warp_max(maxima[lane]);
    float sum = 0.0f, total = 0.0f;
#pragma unroll 4
    for (u32 part = from + group; part < to; part += GROUPS) {
        float weight = expf(p.part_norms[2 * (i64)part] - max);
        total = fmaf(weight, p.part_norms[2 * (i64)part + 1], total);
        if (c < p.width) sum = fmaf(weight, p.part_sums[part * p.width + c], sum);
    }
    sums[group][lane] = sum;
    if (lane == 0) totals[group] = total;
    __syncthreads();
    if (group > 0) return;
#pragma unroll
    for (int i = 1; i < GROUPS; ++i) {
        sum += sums[i][lane];
        total += totals[i];
    }
    if (c < p.width) p.y[blockIdx.x * p.width + c] = sum / total;
    if (blockIdx.y == 0 && lane == 0) {
        p.norms[2 * (i64)blockIdx.x] = max;
        p.norms[2 * (i64)blockIdx.x + 1] = total;
    }
}

// ---- backward ----

// A warp takes a row, the blocks of a part (grid x) share its rows. Left to itself the compiler takes 32 registers and
// spills.
extern "C" __global__ void __launch_bounds__(BLOCK, 4) pooling_backward(const __grid_constant__ PoolingBackwardParams p) {
    Rows rows(p.parts, blockIdx.x);
    u32 lane = threadIdx.x % LANES, turn = threadIdx.x / LANES;
    float max = p.norms[2 * (i64)rows.sequence], total = p.norms[2 * (i64)rows.sequence + 1];
    const float *dy = p.dy + rows.sequence * p.width, *y = p.y + rows.sequence * p.width;
    for (u32 row = rows.begin + blockIdx.y * TURNS + turn; row < rows.end; row += gridDim.y * TURNS) {
        float weight = 1.0f / total;
        if constexpr (KIND == ATTENTION) {
            weight = expf(to_f32(p.scores[row * p.scores_stride]) - max) / total;
            float along = 0.0f;
#pragma unroll 4
            for (i64 c = lane * VEC; c < p.width; c += LANES * VEC) {
                float x[VEC], mean[VEC], slope[VEC];
                load<VEC>(p.x + row * p.x_stride + c, x);
                load<VEC>(y + c, mean);
                load<VEC>(dy + c, slope);
#pragma unroll
                for (int k = 0; k < VEC; ++k) along = fmaf(x[k] - mean[k], slope[k], along);
            }
            along = warp_sum(along);
            if (lane == 0) p.dscores[row * p.dscores_stride] = from_f32<SCORE>(weight * along);
        }
#pragma unroll 4
        for (i64 c = lane * VEC; c < p.width; c += LANES * VEC) {
            float slope[VEC];
            load<VEC>(dy + c, slope);
#pragma unroll
            for (int k = 0; k < VEC; ++k) {
                if constexpr (KIND == LAST)
                    slope[k] = row == rows.last ? slope[k] : 0.0f;
                else
                    slope[k] *= weight;
            }
            store<VEC>(p.dx + row * p.dx_stride + c, slope);
        }
    }
}
