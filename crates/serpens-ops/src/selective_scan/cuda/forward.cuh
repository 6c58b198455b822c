// What both kernels of the forward scan share. Macros: IO.

// Where a block works.
struct BlockPlace {
    i64 batch;
    int channel;   // the first
    int channels;  // that exist, at most as many as a block takes
    int group;
    int segment;
    int steps;     // that it has
    i64 position;  // of the step that it begins with
    int direction; // of positions from step to step: 1 or -1
};

// BACK: from the last step of a segment to the first, and of the segments all but the first.
template <int CHANNELS, bool BACK> __device__ __forceinline__ BlockPlace place(const ScanParams& p) {
    int per_group = p.channels / p.groups;
    int blocks = (per_group + CHANNELS - 1) / CHANNELS;
    int block = blockIdx.x % blocks;
    int rest = blockIdx.x / blocks;
    BlockPlace at;
    at.group = rest % p.groups;
    at.batch = rest / p.groups % p.batch;
    at.segment = rest / p.groups / p.batch + BACK;
    i64 begin = (i64)CHUNK * first_chunk(p.segments, at.segment);
    at.steps = min(p.length - begin, (i64)CHUNK * chunks_of(p.segments, at.segment));
    i64 first = BACK ? begin + at.steps - 1 : begin;
    at.position = p.reverse ? p.length - 1 - first : first;
    at.direction = (p.reverse != 0) == BACK ? 1 : -1;
    at.channel = at.group * per_group + block * CHANNELS;
    int left = per_group - block * CHANNELS;
    at.channels = left < CHANNELS ? left : CHANNELS;
    return at;
}

// The address of a step of a block, in the order in which it takes them, and the distance to the next.
template <class E> struct StepRows {
    E* first;
    i64 step;
    __device__ __forceinline__ StepRows(E* matrix, i64 row, const BlockPlace& at, const ScanParams& p)
        : first(matrix + (at.batch * p.length + at.position) * row), step(at.direction * row) {}
    __device__ __forceinline__ E* at(int t) const { return first + t * step; }
};

// A barrier of the processor, by number, for `threads` in all, wherever in the program their warps are: __syncthreads()
// is for one place that all threads of a block pass together.
__device__ __forceinline__ void meet(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// load for values in pairs of bfloat16, with one instruction for each.
template <int K> __device__ __forceinline__ void load_values(const IO* from, float (&to)[K]) {
    if constexpr (sizeof(IO) == 4 || K == 1) {
        load<K>(from, to);
    } else {
        constexpr int PAIRS = K / 2 < 4 ? K / 2 : 4;
        union { typename Words<4 * PAIRS>::type word; u32 pairs[PAIRS]; } access;
#pragma unroll
        for (int i = 0; i < K; i += 2 * PAIRS) {
            access.word = *reinterpret_cast<const typename Words<4 * PAIRS>::type*>(from + i);
#pragma unroll
            for (int j = 0; j < PAIRS; ++j) to[i + 2 * j] = low_f32(access.pairs[j]), to[i + 2 * j + 1] = high_f32(access.pairs[j]);
        }
    }
}

// softplus. The fast form is off by less than 1e-5 of its value, where bfloat16 rounds Δ itself to 4e-3.
__device__ __forceinline__ float step_size(float x) {
    if constexpr (sizeof(IO) == 4) return softplus(x);
    // ln(1 + e) = e q(e) for e from 0 to 1
    float e = exp2_fast(fabsf(x) * -LOG2_E);
    float q = fmaf(-0.02386872f, e, 0.1012212f);
    q = fmaf(q, e, -0.21004774f);
    q = fmaf(q, e, 0.32520634f);
    q = fmaf(q, e, -0.49936134f);
    q = fmaf(q, e, 0.9999916f);
    return fmaf(q, e, fmaxf(x, 0.0f));
}

// What is added to the exponent of the decays of a block's step: EXP2_NONE where the state starts anew before it.
__device__ __forceinline__ float reset(const ScanParams& p, const BlockPlace& at, int step) {
    bool anew = step < at.steps && p.starts[at.batch * p.length + at.position + at.direction * step];
    return anew ? EXP2_NONE : EXP2_LIFT;
}
