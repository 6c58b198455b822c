// The scan's gradients (real A): how the work is divided, and how it is reached.
//
// A warp holds 8 channels x 16 states: of the 4 lanes of a channel, state lane l has the states 4 l .. 4 l + 3 and, for
// all that is per channel and step, the steps t = l (mod 4). A block holds CHANNEL_WARPS warps of channels times SLICES
// slices of 16 states, for one sequence and one segment of time, and goes from the last chunk of 32 steps to the first.
// Steps past the end have δ = g = 0, which changes nothing.
//
// Macros: IO; VEC and BC_VEC, the values that one access to the rows of the channels and of B and C takes (16 bytes, or
// 1 value); STATE_VEC (4 or 1), the same for A and the states; SLICES; CHANNEL_WARPS; SUB, the steps (4 or 8) that are
// walked forward and back at once; GATE, STARTS and HELD, whether the input is (0 or 1).

constexpr int PADDED = 16 * SLICES;
constexpr int CHANNELS = 8 * CHANNEL_WARPS;
constexpr int WARPS = CHANNEL_WARPS * SLICES;
constexpr u32 THREADS = 32 * WARPS;
constexpr bool EXACT = sizeof(IO) == 4 || SLICES > 4;  // whether sums over channels are made without the tensor cores
constexpr bool BC_AHEAD = SLICES <= 4;  // whether there is room to copy the next chunk's B and C

// Where a thread is.
struct ThreadPlace {
    u32 tid, warp, lane, slice;
    int channel_lane, state_lane;
    int channel;                // among the block's
    int count;                  // channels of the block that exist
    int first_channel;          // of the block
    int group, group_block;  // the latter among those of the group
    i64 batch;
    int segment;
};

// threadIdx.x, asked for again: what depends on it is then computed anew, not kept in registers.
__device__ __forceinline__ u32 thread_anew() {
    u32 tid;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(tid));
    return tid;
}

__device__ __forceinline__ void find_thread(ThreadPlace& at) {
    at.tid = thread_anew();
    at.warp = at.tid / 32;
    at.lane = at.tid % 32;
    at.slice = at.warp / CHANNEL_WARPS;
    at.channel_lane = at.lane / 16 * 4 + at.lane % 4;
    at.state_lane = at.lane / 4 % 4;
    at.channel = at.warp % CHANNEL_WARPS * 8 + at.channel_lane;
}

__device__ __forceinline__ ThreadPlace place(const ScanBackwardParams& p) {
    ThreadPlace at;
    find_thread(at);
    u32 block = blockIdx.x;
    u32 blocks = p.groups * p.group_blocks;
    u32 channel_block = block % blocks;
    block /= blocks;
    at.batch = block % (u32)p.batch;
    at.segment = block / (u32)p.batch;
    at.group = channel_block / p.group_blocks;
    at.group_block = channel_block % p.group_blocks;
    int of_group = p.channels / p.groups;
    at.first_channel = at.group * of_group + at.group_block * CHANNELS;
    at.count = min(CHANNELS, of_group - at.group_block * CHANNELS);
    return at;
}

// Shares COUNT items of work out over the block's threads.
template <u32 COUNT, class Work> __device__ __forceinline__ void share_out(const ThreadPlace& at, Work work) {
#pragma unroll
    for (u32 first = 0; first < COUNT; first += THREADS) {
        u32 i = first + at.tid;
        if (COUNT % THREADS == 0 || i < COUNT) work(i);
    }
}

// A chunk: where its first step lies among the rows, and how many steps it has.
struct Chunk {
    int first, steps, buffer;
};

__device__ __forceinline__ Chunk chunk_at(const ScanBackwardParams& p, const ThreadPlace& at, int number) {
    i64 step = (i64)number * CHUNK;
    i64 position = p.reverse ? p.length - 1 - step : step;
    return {(int)(at.batch * p.length + position), (int)min((i64)CHUNK, p.length - step), number & 1};
}

__device__ __forceinline__ u32 row_of(const ScanBackwardParams& p, const Chunk& chunk, int t) {
    return p.reverse ? chunk.first - t : chunk.first + t;
}

__device__ __forceinline__ IO* address(const Rows& rows, u32 row, int column) {
    return reinterpret_cast<IO*>(static_cast<u8*>(rows.at) + (u64)row * (u32)rows.stride) + column;
}

// ---- access ---------------------------------------------------------------------------------------------------------

// K values from `from`, or zeros.
template <int K> __device__ __forceinline__ void fetch(IO* to, const IO* from, bool exists) {
    if constexpr (K * sizeof(IO) == 16)
        copy_async_or_zero<16>(to, from, exists);
    else
        *to = exists ? *from : from_f32<IO>(0.0f);
}

template <int K> __device__ __forceinline__ void put(IO* to, const IO* from) {
    typedef typename Words<K * sizeof(IO)>::type Word;
    *reinterpret_cast<Word*>(to) = *reinterpret_cast<const Word*>(from);
}

constexpr u32 ACCESSES = CHANNELS / VEC;  // of a row of channels

// Where a column lies in row t of a matrix of T, so that the lanes of a warp, which take 8 channels of several steps,
// meet different banks: after every ROWS rows the banks repeat.
template <class T> __device__ __forceinline__ u32 swizzled(u32 t, u32 column) {
    constexpr u32 WORDS = CHANNELS * sizeof(T) / 4, ROWS = WORDS % 32 == 0 ? 1 : 32 / (WORDS & -WORDS);
    return column ^ (t / ROWS * 8 & 24 & (CHANNELS - 1));
}

// 4 states of a thread's channel, zero where there are none.
__device__ __forceinline__ void load_states(const ScanBackwardParams& p, const ThreadPlace& at, const float* plane, float (&to)[4]) {
    int n = at.slice * 16 + at.state_lane * 4;
    const float* from = plane + (u64)(u32)(at.first_channel + at.channel) * (u32)p.state + n;
#pragma unroll
    for (int r = 0; r < 4; ++r) to[r] = 0.0f;
    if (at.channel >= at.count) return;
    if (STATE_VEC == 4) {
        if (n < p.state) load<4>(from, to);
    } else {
#pragma unroll
        for (int r = 0; r < 4; ++r)
            if (n + r < p.state) to[r] = from[r];
    }
}

__device__ __forceinline__ void store_states(const ScanBackwardParams& p, const ThreadPlace& at, float* plane, const float (&from)[4]) {
    int n = at.slice * 16 + at.state_lane * 4;
    float* to = plane + (i64)(at.first_channel + at.channel) * p.state + n;
    if (at.channel >= at.count) return;
    if (STATE_VEC == 4) {
        if (n < p.state) store<4>(to, from);
    } else {
#pragma unroll
        for (int r = 0; r < 4; ++r)
            if (n + r < p.state) to[r] = from[r];
    }
}

// Bit t: whether the state is zero before step t of the chunk.
__device__ __forceinline__ u32 resets_of(const ScanBackwardParams& p, const ThreadPlace& at, const Chunk& chunk) {
    if (!STARTS) return 0;
    return __ballot_sync(0xffffffffu, (int)at.lane < chunk.steps && p.starts[row_of(p, chunk, at.lane)]);
}

// The steps of which a thread prepares two neighbouring channels, and those of which it finishes its own channel: all
// that its lane takes for one slice, its slice's share for more, which may be one too many.
template <int STEPS> struct Share {
    static constexpr int COUNT = (CHUNK / STEPS + SLICES - 1) / SLICES;
    static constexpr bool EVEN = CHUNK / STEPS % SLICES == 0;

    static __device__ __forceinline__ int step(const ThreadPlace& at, int i) {
        int first = STEPS == 8 ? at.lane / 4 : at.state_lane;
        return first + STEPS * (int)(at.slice + SLICES * i);
    }
    // The row of a tile to read for it.
    static __device__ __forceinline__ int row(const ThreadPlace& at, int i) { return EVEN ? step(at, i) : step(at, i) % CHUNK; }
};
typedef Share<8> Prepared;
typedef Share<4> Finished;

// The first of the channels that a thread prepares.
__device__ __forceinline__ int prepared_channel(const ThreadPlace& at) { return at.warp % CHANNEL_WARPS * 8 + at.lane % 4 * 2; }

// A value of each of them, or zero.
__device__ __forceinline__ void of_prepared(const ScanBackwardParams& p, const ThreadPlace& at, const float* values, float (&to)[2]) {
    int channel = prepared_channel(at);
#pragma unroll
    for (int j = 0; j < 2; ++j) to[j] = values && channel + j < at.count ? values[at.first_channel + channel + j] : 0.0f;
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

__device__ __forceinline__ float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// softplus(x) and its slope.
__device__ __forceinline__ float softplus_and_slope(float x, float& slope) {
    if constexpr (EXACT) {
        slope = sigmoid(x);
        return softplus(x);
    } else {
        float e = exp_fast(fminf(x, 60.0f));
        slope = e * reciprocal(1.0f + e);
        float small = e * (1.0f - e * (0.5f - e * 0.33333333f));  // log(1 + e) where 1 + e has lost e's digits
        float y = e < 0.015625f ? small : LN_2 * log2_fast(1.0f + e);
        return fmaxf(x, y);
    }
}

__device__ __forceinline__ void decays(float (&a)[4], const float (&a2)[4], float delta, u32 resets, int t) {
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = sizeof(IO) == 4 ? decay_of(delta, a2[r]) : decay_unlifted(delta, a2[r]);
    if (STARTS && (resets >> t & 1)) {
#pragma unroll
        for (int r = 0; r < 4; ++r) a[r] = 0.0f;
    }
}
