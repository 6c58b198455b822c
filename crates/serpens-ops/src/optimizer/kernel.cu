// A step of all parameters of a model at once, and the norm that their gradients are clipped by. The text of a rule
// stands before it, whose `step` gives what is taken off a value and brings its MOMENTS moments forward.
//
// A task is a block's share of an entry: TASK values of one parameter. The numbers that change from step to step are
// read from the device, so that a recorded graph of these launches can be run again.

constexpr int VEC = 4;
static_assert(TASK % (THREADS * VEC) == 0, "a block takes its task in whole rounds");

struct Task {
    u32 entry;
    u32 index; // of the tasks of the entry
};

struct Scalars {
    float lr;
    float clip; // the largest norm; 0 for no limit
    float numbers[NUMBERS]; // the rule's
};

static_assert(MOMENTS <= MOST_MOMENTS, "an entry has no place for so many moments");

// What the host may read, see `FusedStep::outcome`.
struct Outcome {
    float norm;
    float factor; // on the gradients; NaN where the norm is not finite
};

template <class Value> __device__ __forceinline__ Value warp_fold(Value x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// Σ g² of each task.
extern "C" __global__ void __launch_bounds__(THREADS) optimizer_squares(const __grid_constant__ OptimizerParams p) {
    Task task = p.tasks[blockIdx.x];
    const float* g = p.entries[task.entry].gradient;
    i64 len = p.entries[task.entry].len, from = (i64)task.index * TASK + threadIdx.x * VEC;
    float sums[VEC] = {};
#pragma unroll
    for (int step = 0; step < TASK; step += THREADS * VEC) {
        i64 i = from + step;
        if (i + VEC <= len) {
            float x[VEC];
            load<VEC>(g + i, x);
#pragma unroll
            for (int k = 0; k < VEC; ++k) sums[k] = fmaf(x[k], x[k], sums[k]);
        } else {
            for (int k = 0; i + k < len; ++k) sums[0] = fmaf(g[i + k], g[i + k], sums[0]);
        }
    }
    __shared__ double warps[THREADS / 32];
    double sum = warp_fold((double)(sums[0] + sums[1]) + (double)(sums[2] + sums[3]));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int w = 1; w < THREADS / 32; ++w) sum += warps[w];
    p.partials[blockIdx.x] = sum;
}

// The sum over a block of 1024 of a value of each thread, in all of them.
__device__ __forceinline__ double block_fold(double x, double (&warps)[32]) {
    x = warp_fold(x);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warp_fold(warps[threadIdx.x % 32]);
    __syncthreads();
    return x;
}

// This thread's share of Σ g² over all gradients, for those whose squares are too large or too small for f32.
__device__ __noinline__ double squares_in_double(const OptimizerParams& p) {
    double sum = 0.0;
    for (u32 t = 0; t < p.count; ++t) {
        Task task = p.tasks[t];
        OptimizerEntry s = p.entries[task.entry];
        i64 from = (i64)task.index * TASK;
        for (i64 i = from + threadIdx.x; i < min(from + TASK, s.len); i += 1024)
            sum += (double)s.gradient[i] * (double)s.gradient[i];
    }
    return sum;
}

// The norm of all gradients, and the factor that brings it down to the limit. One block of 1024.
extern "C" __global__ void __launch_bounds__(1024) optimizer_norm(const __grid_constant__ OptimizerParams p) {
    __shared__ double warps[32];
    double sum = 0.0;
#pragma unroll 8
    for (u32 i = threadIdx.x; i < p.count; i += 1024) sum += p.partials[i];
    sum = block_fold(sum, warps);
    if (sum < 1e-30 || sum > 1e300) sum = block_fold(squares_in_double(p), warps);
    if (threadIdx.x > 0) return;
    double norm = sqrt(sum), clip = (double)p.scalars->clip;
    float factor = clip > 0.0 ? (float)fmin(1.0, clip / (norm + 1e-6)) : 1.0f;
    p.outcome->norm = (float)norm;
    p.outcome->factor = (float)norm <= 3.402823466e38f ? factor : __uint_as_float(0x7fc00000u);
}

// One step of every value; none where the norm is not finite.
extern "C" __global__ void __launch_bounds__(THREADS) optimizer_update(const __grid_constant__ OptimizerParams p) {
    float clip = p.outcome->factor;
    if (!(clip >= 0.0f)) return;
    Task task = p.tasks[blockIdx.x];
    OptimizerEntry s = p.entries[task.entry];
    float numbers[NUMBERS];
#pragma unroll
    for (int k = 0; k < NUMBERS; ++k) numbers[k] = p.scalars->numbers[k];
    float lr = fminf(p.scalars->lr, s.max_lr), decay = 1.0f - lr * s.weight_decay;
    // Within the task, offsets are short: 64 bits of each would cost registers, and these a block.
    i64 start = (i64)task.index * TASK;
    int len = (int)min(s.len - start, (i64)TASK), from = threadIdx.x * VEC;
    s.value += start;
    s.gradient += start;
#pragma unroll
    for (int j = 0; j < MOMENTS; ++j) s.moments[j] += start;
    if (s.shadow) s.shadow += start;
#pragma unroll 2
    for (int at = 0; at < TASK; at += THREADS * VEC) {
        int i = from + at;
        if (i + VEC <= len) {
            float value[VEC], g[VEC], kept[MOST_MOMENTS][VEC];
            load<VEC>(s.value + i, value);
            load<VEC>(s.gradient + i, g);
#pragma unroll
            for (int j = 0; j < MOMENTS; ++j) load<VEC>(s.moments[j] + i, kept[j]);
#pragma unroll
            for (int k = 0; k < VEC; ++k) {
                float moments[MOST_MOMENTS];
#pragma unroll
                for (int j = 0; j < MOMENTS; ++j) moments[j] = kept[j][k];
                value[k] = value[k] * decay - step(g[k] * clip, lr, numbers, moments);
#pragma unroll
                for (int j = 0; j < MOMENTS; ++j) kept[j][k] = moments[j];
            }
            store<VEC>(s.value + i, value);
#pragma unroll
            for (int j = 0; j < MOMENTS; ++j) store<VEC>(s.moments[j] + i, kept[j]);
            if (s.shadow) store<VEC>(s.shadow + i, value);
        } else {
            for (int k = i; k < len; ++k) {
                float moments[MOST_MOMENTS];
#pragma unroll
                for (int j = 0; j < MOMENTS; ++j) moments[j] = s.moments[j][k];
                s.value[k] = s.value[k] * decay - step(s.gradient[k] * clip, lr, numbers, moments);
#pragma unroll
                for (int j = 0; j < MOMENTS; ++j) s.moments[j][k] = moments[j];
                if (s.shadow) s.shadow[k] = from_f32<bf16>(s.value[k]);
            }
        }
    }
}
