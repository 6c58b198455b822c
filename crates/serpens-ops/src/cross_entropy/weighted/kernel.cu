// Cross-entropy of weighted classes and smoothed targets, as mod.rs defines it: a warp a row.
//
// Macro: IO, the type of the logits.

constexpr u32 IGNORE = 0xffffffffu;
// Below every logit of use and far from overflow: of nothing but -inf no difference is NaN.
constexpr float LOWEST = -3.4028234e38f;

// What the host reads, see `Totals` in ../mod.rs.
struct Totals {
    double sum;
    u32 count, correct, invalid, offender, classes;
};

// Over rows: the loss, the weights of the targets, and what the totals count.
struct Sums {
    double loss, weight;
    u32 count, correct, invalid, offender;

    __device__ __forceinline__ void add(const Sums& other) {
        loss += other.loss;
        weight += other.weight;
        count += other.count;
        correct += other.correct;
        invalid += other.invalid;
        offender = min(offender, other.offender);
    }
};

__device__ __forceinline__ Sums nothing() { return {0.0, 0.0, 0, 0, 0, IGNORE}; }

// The sums over the lanes of a warp.
template <class T> __device__ __forceinline__ T across(T x, int step) { return __shfl_xor_sync(0xffffffffu, x, step); }
__device__ __forceinline__ Sums over_lanes(Sums sums) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        sums.add({across(sums.loss, step), across(sums.weight, step), across(sums.count, step),
                  across(sums.correct, step), across(sums.invalid, step), across(sums.offender, step)});
    return sums;
}

// Sums of each block's rows, and norms of each row.
extern "C" __global__ void __launch_bounds__(WARPS * 32) weighted_cross_entropy_rows(const __grid_constant__ WeightedParams p) {
    __shared__ Sums parts[WARPS];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    i64 from = blockIdx.x * p.block_rows, to = min(from + p.block_rows, p.rows);
    Sums sums = nothing(); // the same in all lanes
    for (i64 r = from + warp; r < to; r += WARPS) {
        u32 target = p.targets[r];
        if (target >= p.classes) {
            if (target != IGNORE) ++sums.invalid, sums.offender = min(sums.offender, target);
            continue;
        }
        const IO* row = p.logits + r * p.classes;
        float max = LOWEST, sum = 0.0f, below = 0.0f, all = 0.0f;
        for (i64 c = lane; c < p.classes; c += 32) max = fmaxf(max, to_f32(row[c]));
        max = warp_max(max);
        u32 first = IGNORE;
        for (i64 c = lane; c < p.classes; c += 32) {
            float x = to_f32(row[c]), weight = p.weights[c];
            sum += expf(x - max);
            all += weight;
            // What weighs nothing is left out: it may be as far below the others as -inf.
            if (weight != 0.0f) below = fmaf(weight, max - x, below);
            if (x == max && first == IGNORE) first = (u32)c;
        }
        sum = warp_sum(sum);
        if (lane == 0) p.norms[r] = make_float2(max, sum);
        double rest = logf(sum), nll = (double)max - to_f32(row[target]) + rest;
        float weight = p.weights[target];
        sums.weight += weight;
        if (weight != 0.0f) sums.loss += (double)p.own * weight * nll;
        if (p.spread > 0.0f) sums.loss += p.spread * (warp_sum(below) + warp_sum(all) * rest);
        ++sums.count;
        sums.correct += __reduce_min_sync(0xffffffffu, first) == target;
    }
    if (lane == 0) parts[warp] = sums;
    __syncthreads();
    if (warp > 0) return;
    sums = over_lanes(lane < WARPS ? parts[lane] : nothing());
    if (lane == 0) p.sums[blockIdx.x] = sums;
}

// The sums over the blocks. One warp.
extern "C" __global__ void __launch_bounds__(32) weighted_cross_entropy_fold(const __grid_constant__ WeightedParams p) {
    Sums sums = nothing();
#pragma unroll 4
    for (u32 block = threadIdx.x; block < p.blocks; block += 32) sums.add(p.sums[block]);
    sums = over_lanes(sums);
    if (threadIdx.x > 0) return;
    double mean = sums.weight == 0.0 ? 0.0 : sums.loss / sums.weight;
    *p.totals = {mean * sums.count, sums.count, sums.correct, sums.invalid, sums.offender, (u32)p.classes};
    *p.weight = (float)sums.weight;
    *p.loss = (float)mean;
}

// The gradient over the logits. The compiler's own choice of blocks a multiprocessor spills.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) weighted_cross_entropy_backward(const __grid_constant__ WeightedParams p) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    i64 from = blockIdx.x * p.block_rows, to = min(from + p.block_rows, p.rows);
    float scale = *p.weight == 0.0f ? 0.0f : *p.loss / *p.weight, spread = scale * p.spread, all = 0.0f;
    for (i64 c = lane; c < p.classes; c += 32) all += p.weights[c];
    all = warp_sum(all);
    for (i64 r = from + warp; r < to; r += WARPS) {
        u32 target = p.targets[r];
        bool counts = target < p.classes;
        float own = counts ? scale * p.own * p.weights[target] : 0.0f, total = own + spread * all;
        counts = counts && total != 0.0f;
        float2 norm = counts ? p.norms[r] : make_float2(0.0f, 1.0f);
        IO* row = p.logits + r * p.classes;
        for (i64 c = lane; c < p.classes; c += 32) {
            float slope = 0.0f;
            if (counts) {
                float share = expf(to_f32(row[c]) - norm.x) / norm.y;
                slope = share * total - spread * p.weights[c] - (c == target ? own : 0.0f);
            }
            row[c] = from_f32<IO>(slope);
        }
    }
}
