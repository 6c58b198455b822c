// Drawing tokens, a block or a cluster of blocks a slot: the same numbers as on the processor, see mod.rs.
//
// Macros: IO, the type of the logits (float | bf16); CLUSTER, the blocks of a slot (1 | 2 | 4 | 8).
//
// A warp looks at a segment of 128 logits at a time. What needs an order of tokens or of logits goes by numbers in 2048
// bins: the sums of segments, of which one holds the token that is drawn; and the digits of a token's rank, for top-k
// and top-p. The largest logit of each segment says which segments need no look.
//
// The blocks of a slot share out the segments where all are looked at, and each tells all others the largest logits and
// the sums of its own; what follows from those, and looks at few, each does for itself.

constexpr u32 ALL = 0xffffffffu;
constexpr int WARPS = 32, THREADS = 32 * WARPS;
// Logits that a lane has of a segment, and segments that a warp has under way.
constexpr int EACH = SEGMENT / 32, UNROLL = 2;
constexpr int BINS = MOST_TOKENS / SEGMENT, DIGIT = 11;
static_assert(1 << DIGIT == BINS, "a digit chooses a bin");
// A rank: the logit's key of 32 bits, then a token's place, which is larger of a lower one.
constexpr int PLACE = 18, RANK = 32 + PLACE;
static_assert(1 << PLACE == MOST_TOKENS, "a place is a token's");
constexpr float ROUND = 12582912.0f;

// Ordered as x is, the same of both zeros; the largest of NaN.
__device__ __forceinline__ u32 key(float x) {
    u32 bits = __float_as_uint(__fadd_rn(x, 0.0f));
    bits ^= (u32)((int)bits >> 31) | 1u << 31;
    return x != x ? ALL : bits;
}
__device__ __forceinline__ float value(u32 key) {
    return __uint_as_float(key >> 31 ? key ^ 1u << 31 : ~key);
}
__device__ __forceinline__ u64 rank(float x, int token) {
    return (u64)key(x) << PLACE | (u64)(MOST_TOKENS - 1 - token);
}

// 2^((x - max) · log2 e / T).
struct Weight {
    float scale, rest, lowest, max;

    __device__ __forceinline__ float operator()(float x) const {
        float distance = fmaxf(lowest, __fsub_rn(x, max));
        float shifted = __fmaf_rn(distance, scale, ROUND);
        float f = __fmaf_rn(distance, scale, __fsub_rn(ROUND, shifted));
        f = __fmaf_rn(distance, rest, f);
        float power = __int_as_float(EXP2_6);
        power = __fmaf_rn(power, f, __int_as_float(EXP2_5));
        power = __fmaf_rn(power, f, __int_as_float(EXP2_4));
        power = __fmaf_rn(power, f, __int_as_float(EXP2_3));
        power = __fmaf_rn(power, f, __int_as_float(EXP2_2));
        power = __fmaf_rn(power, f, __int_as_float(EXP2_1));
        power = __fmaf_rn(power, f, __int_as_float(EXP2_0));
        return __uint_as_float(__float_as_uint(power) + (__float_as_uint(shifted) << 23));
    }
};

// A weight in fixed point: to the nearest integer, of two the even one.
__device__ __forceinline__ u64 fixed(float weight) {
    return __float2ull_rn(__fmul_rn(weight, (float)(1ull << FIXED)));
}

// A sum of weights in fixed point, each rounded as `fixed` does it: of halves that sums of floats leave in their lowest
// bits, the upper one rounded to the nearest, the lower one what that left.
struct Sum {
    static constexpr int HALF = FIXED / 2;
    // With these the last place is worth one of the half's.
    static constexpr float UPPER = 1.5f * (float)(1 << (23 - HALF)), LOWER = 1.5f * (float)(1 << 23);
    u32 upper = 0, lower = 0;
    int count = 0;

    __device__ __forceinline__ void add(float weight) {
        float above = __fadd_rn(weight, UPPER);
        float rest = __fsub_rn(weight, __fsub_rn(above, UPPER)); // exact
        upper += __float_as_uint(above);
        lower += __float_as_uint(__fmaf_rn(rest, (float)(1ull << FIXED), LOWER));
        ++count;
    }
    // Over the lanes of a warp.
    __device__ __forceinline__ u64 total() const {
        u32 uppers = __reduce_add_sync(ALL, upper - count * __float_as_uint(UPPER));
        int lowers = __reduce_add_sync(ALL, (int)(lower - count * __float_as_uint(LOWER)));
        return ((u64)uppers << HALF) + (i64)lowers;
    }
};

// The logits of a slot, and what changes them.
struct Logits {
    const IO* values;
    const float* bias; // or null
    u32* counts;       // or null
    int vocabulary, segments;
    float repetition, presence, frequency;
    u32 changed; // whether anything does
};

struct Shared {
    Logits logits;
    Weight weight;
    u64 sums[2][BINS]; // of segments: those at hand, and others while some block may still read those
    u64 bins[BINS];    // of digits
    u64 parts[32];
    u64 number; // of the random stream
    u64 left, here;
    u32 bin, token;
    u64 turn; // which sums are at hand
    u32 maxima[BINS]; // the key of each segment's largest logit

    // A bit for each token, set of those that are repeated.
    __device__ __forceinline__ u32* window() { return reinterpret_cast<u32*>(this + 1); }
};
static_assert(sizeof(Shared) == SHARED, "the host asks for this");

// A logit after bias and penalties.
__device__ __forceinline__ float changed(Shared& shared, int token, float x) {
    const Logits& logits = shared.logits;
    if (logits.bias) x = __fadd_rn(x, logits.bias[token]);
    if (logits.repetition != 1.0f && (shared.window()[token / 32] >> token % 32 & 1))
        x = x > 0.0f ? __fdiv_rn(x, logits.repetition) : __fmul_rn(x, logits.repetition);
    if (logits.counts) {
        u32 count = logits.counts[token];
        float by = __fmul_rn(__uint2float_rn(count), logits.frequency);
        if (count) x = __fsub_rn(__fsub_rn(x, logits.presence), by);
    }
    return x;
}

// A logit as it came; -inf behind the last.
__device__ __forceinline__ float raw(const Logits& logits, int token) {
    return token < logits.vocabulary ? to_f32(logits.values[token]) : -__int_as_float(0x7f800000);
}
__device__ __forceinline__ float logit(Shared& shared, int token) {
    float x = raw(shared.logits, token);
    return shared.logits.changed && token < shared.logits.vocabulary ? changed(shared, token, x) : x;
}

// NaN where one of them is.
__device__ __forceinline__ float max_or_nan(float a, float b) {
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}

// ---- over the blocks of a slot

__device__ __forceinline__ int block_of_slot() {
    u32 rank = 0;
    if constexpr (CLUSTER > 1) asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}
// A barrier of all threads of all blocks.
__device__ __forceinline__ void sync_blocks() {
    if constexpr (CLUSTER > 1)
        asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
    else
        __syncthreads();
}
// Writes what a warp found to a place in the shared memory of every block.
template <class T> __device__ __forceinline__ void share(T& place, T value) {
    u32 lane = threadIdx.x % 32;
    if constexpr (CLUSTER == 1) {
        if (lane == 0) place = value;
    } else if (lane < CLUSTER) {
        u32 here = (u32)__cvta_generic_to_shared(&place), there;
        asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(lane));
        if constexpr (sizeof(T) == 8)
            asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(there), "l"(value) : "memory");
        else
            asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(there), "r"(value) : "memory");
    }
}

// ---- over the threads of a block; all take part

__device__ __forceinline__ u64 warp_total(u64 x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL, x, step);
    return x;
}
// Sum of x over this lane and those before.
__device__ __forceinline__ u64 sum_through(u64 x) {
    for (int step = 1; step < 32; step *= 2) {
        u64 other = __shfl_up_sync(ALL, x, step);
        if (threadIdx.x % 32 >= step) x += other;
    }
    return x;
}

__device__ __forceinline__ u64 block_max(Shared& shared, u64 x) {
    for (int step = 16; step > 0; step /= 2) x = max(x, __shfl_xor_sync(ALL, x, step));
    if (threadIdx.x % 32 == 0) shared.parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared.parts[threadIdx.x % 32];
    for (int step = 16; step > 0; step /= 2) x = max(x, __shfl_xor_sync(ALL, x, step));
    __syncthreads();
    return x;
}

// Sum of the segments' sums.
__device__ u64 total(Shared& shared) {
    const u64* sums = shared.sums[shared.turn];
    u64 sum = 0;
#pragma unroll
    for (int i = threadIdx.x; i < BINS; i += THREADS) sum += sums[i];
    sum = warp_total(sum);
    if (threadIdx.x % 32 == 0) shared.parts[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_total(shared.parts[threadIdx.x % 32]);
    __syncthreads();
    return sum;
}

// The first of the bins with which their sum reaches `need`, which is from 1 to their total: in `bin`, what is left of
// the need there in `left`, and what the bin holds in `here`. The bins were written before a barrier.
__device__ void search(Shared& shared, const u64* bins, u64 need) {
    constexpr int OWN = BINS / THREADS;
    u64 own[OWN], sum = 0;
#pragma unroll
    for (int i = 0; i < OWN; ++i) sum += own[i] = bins[threadIdx.x * OWN + i];
    u64 through = sum_through(sum);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 31) shared.parts[warp] = through;
    __syncthreads();
    u64 before = warp_total(lane < warp ? shared.parts[lane] : 0) + through - sum;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        if (before < need && need <= before + own[i]) {
            shared.bin = threadIdx.x * OWN + i;
            shared.left = need - before;
            shared.here = own[i];
        }
        before += own[i];
    }
    __syncthreads();
}

// ---- passes over a slot's logits

// Does `visit(segment, x)` in each warp for its segments, x[i] being that of token segment · SEGMENT + 32 i + lane; not
// for those whose largest key is below `least`. BLOCKS share out the segments: 1, or those of the slot.
template <int BLOCKS, class Visit> __device__ __forceinline__ void each(Shared& shared, u32 least, Visit visit) {
    constexpr int STEP = WARPS * BLOCKS;
    const Logits logits = shared.logits;
    int first = threadIdx.x / 32 + (BLOCKS > 1 ? WARPS * block_of_slot() : 0);
    for (; first < logits.segments; first += UNROLL * STEP) {
        float x[UNROLL][EACH];
        bool there[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            int segment = first + u * STEP;
            there[u] = segment < logits.segments && (least == 0 || shared.maxima[segment] >= least);
#pragma unroll
            for (int i = 0; i < EACH; ++i)
                if (there[u]) x[u][i] = raw(logits, segment * SEGMENT + 32 * i + threadIdx.x % 32);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            if (!there[u]) continue;
            int token = (first + u * STEP) * SEGMENT + threadIdx.x % 32;
#pragma unroll
            for (int i = 0; logits.changed && i < EACH; ++i, token += 32)
                if (token < logits.vocabulary) x[u][i] = changed(shared, token, x[u][i]);
            visit(first + u * STEP, x[u]);
        }
    }
}

// The key of the largest logit, and a number that is larger the earlier the first segment is that has it; writes the
// segments' maxima.
__device__ __forceinline__ u64 top(Shared& shared) {
    each<CLUSTER>(shared, 0, [&](int segment, const float (&x)[EACH]) {
        float max = x[0];
#pragma unroll
        for (int i = 1; i < EACH; ++i) max = max_or_nan(max, x[i]);
        share(shared.maxima[segment], __reduce_max_sync(ALL, key(max)));
    });
    sync_blocks();
    u64 best = 0;
    for (int i = threadIdx.x; i < shared.logits.segments; i += THREADS)
        best = max(best, (u64)shared.maxima[i] << PLACE | (u64)(BINS - 1 - i));
    return block_max(shared, best);
}

// The first token with the largest logit, as `top` gives it.
__device__ u32 first(Shared& shared, u64 best) {
    int token = (BINS - 1 - (int)(best & (BINS - 1))) * SEGMENT + threadIdx.x % 32;
#pragma unroll 1
    for (int i = 0; i < EACH; ++i, token += 32) {
        u32 there = __ballot_sync(ALL, key(logit(shared, token)) == (u32)(best >> PLACE));
        if (there) return token - threadIdx.x % 32 + __ffs(there) - 1;
    }
    return 0; // never
}

// Of whom the weights are summed: those whose rank is `bound` at least, and that weigh `floor` at least.
struct Kept {
    u64 bound;
    float floor;

    __device__ __forceinline__ bool operator()(float x, int token, float weight) const {
        float last = value((u32)(bound >> PLACE));
        int last_token = MOST_TOKENS - 1 - (int)(bound & (MOST_TOKENS - 1));
        return (bound == 0 || x > last || (x == last && token <= last_token)) && weight >= floor;
    }
};

// Sums the weights of each segment.
__device__ __forceinline__ void weigh(Shared& shared, Kept kept) {
    __syncthreads(); // all know whose turn it was
    u64 turn = shared.turn ^ 1;
    __syncthreads();
    if (threadIdx.x == 0) shared.turn = turn;
    u64* sums = shared.sums[turn];
    u32 least = (u32)(kept.bound >> PLACE);
    for (int i = threadIdx.x; i < BINS; i += THREADS)
        if (i >= shared.logits.segments || shared.maxima[i] < least) sums[i] = 0;
    Weight weight = shared.weight;
    each<CLUSTER>(shared, least, [&](int segment, const float (&x)[EACH]) {
        Sum sum;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            float w = weight(x[i]);
            sum.add(kept(x[i], segment * SEGMENT + 32 * i + threadIdx.x % 32, w) ? w : 0.0f);
        }
        share(sums[segment], sum.total());
    });
    sync_blocks();
}

// Adds to a number that others add to as well: by halves, since shared memory has additions of 32 bits alone.
__device__ __forceinline__ void add(u64& sum, u64 weight) {
    u32* halves = reinterpret_cast<u32*>(&sum);
    u32 low = (u32)weight;
    u32 high = (u32)(weight >> 32) + (atomicAdd(halves, low) > ~low); // what it carries
    if (high > 0) atomicAdd(halves + 1, high);
}

// Adds the weights of ranks that begin with a prefix to the bin of the digit behind it, the largest digit first.
struct Digits {
    Shared& shared;
    u64 prefix, mask;
    int above, below;

    __device__ __forceinline__ void operator()(u64 rank, u64 weight) const {
        if (rank >> above == prefix && weight > 0) add(shared.bins[mask - (rank >> below & mask)], weight);
    }
};

// The rank of the last of the items that it takes, from the largest rank down, until the sum of their weights reaches
// `need`, which it does; or a lower rank, not below `least`, where no item lies between. `items` gives each item's
// rank, which is `least` at least, and its weight to what it is called with.
template <class Items> __device__ u64 reach(Shared& shared, u64 need, u64 least, Items items) {
    u64 prefix = 0;
    int above = RANK; // bits that are not known yet
    do {
        int below = max(above - DIGIT, 0);
        u64 mask = (1ull << (above - below)) - 1;
        for (int i = threadIdx.x; i < BINS; i += THREADS) shared.bins[i] = 0;
        __syncthreads();
        items(Digits{shared, prefix, mask, above, below});
        __syncthreads();
        search(shared, shared.bins, need);
        prefix = prefix << (above - below) | (mask - shared.bin);
        need = shared.left;
        above = below;
    } while (above > 0 && shared.left != shared.here);
    return max(prefix << above, least);
}

// The least rank of a key that `count` logits reach, and not many more: the largest of so many segments do. 0 where
// there are fewer segments.
__device__ u64 bound_of(Shared& shared, u64 count) {
    if (count >= shared.logits.segments) return 0;
    u64 bound = reach(shared, count, 0, [&](Digits give) {
        for (int i = threadIdx.x; i < shared.logits.segments; i += THREADS)
            give((u64)shared.maxima[i] << PLACE | (u64)(MOST_TOKENS - 1 - i), 1);
    });
    return bound >> PLACE << PLACE;
}

// The last rank that top-k keeps.
__device__ u64 keep_largest(Shared& shared, u64 count) {
    u64 least = bound_of(shared, count);
    return reach(shared, count, least, [&](Digits give) {
        each<1>(shared, (u32)(least >> PLACE), [&](int segment, const float (&x)[EACH]) {
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                u64 rank = ::rank(x[i], segment * SEGMENT + 32 * i + threadIdx.x % 32);
                if (rank >= least) give(rank, 1);
            }
        });
    });
}

// The last rank that top-p keeps of those from `least` on.
__device__ u64 keep_nucleus(Shared& shared, u64 nucleus, u64 least) {
    weigh(shared, {least, 0.0f});
    u64 all = total(shared);
    u64 need = max(__umul64hi(nucleus, all) + (nucleus * all != 0), 1ull);
    for (u64 few = FEW; least == 0; few *= MORE) {
        u64 bound = bound_of(shared, few);
        if (bound == 0) break;
        weigh(shared, {bound, 0.0f});
        if (total(shared) >= need) least = bound;
    }
    return reach(shared, need, least, [&](Digits give) {
        each<1>(shared, (u32)(least >> PLACE), [&](int segment, const float (&x)[EACH]) {
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                u64 rank = ::rank(x[i], segment * SEGMENT + 32 * i + threadIdx.x % 32);
                if (rank >= least) give(rank, fixed(shared.weight(x[i])));
            }
        });
    });
}

// ---- a draw

__device__ __forceinline__ void quarter(u32& a, u32& b, u32& c, u32& d) {
    a += b, d = __funnelshift_l(d ^ a, d ^ a, 16);
    c += d, b = __funnelshift_l(b ^ c, b ^ c, 12);
    a += b, d = __funnelshift_l(d ^ a, d ^ a, 8);
    c += d, b = __funnelshift_l(b ^ c, b ^ c, 7);
}

// The number of 64 bits at a place of the stream of ChaCha with 8 rounds.
__device__ u64 random(const u32* key, u64 place) {
    u64 block = place / 8;
    u32 from[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, key[0], key[1], key[2], key[3], key[4],
                    key[5], key[6], key[7], (u32)block, (u32)(block >> 32), 0, 0};
    u32 x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) x[i] = from[i];
#pragma unroll 1
    for (int round = 0; round < 8; round += 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) quarter(x[i], x[4 + i], x[8 + i], x[12 + i]);
#pragma unroll
        for (int i = 0; i < 4; ++i) quarter(x[i], x[4 + (i + 1) % 4], x[8 + (i + 2) % 4], x[12 + (i + 3) % 4]);
    }
    u64 number = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        if (i == place % 8) number = (u64)(x[2 * i + 1] + from[2 * i + 1]) << 32 | (x[2 * i] + from[2 * i]);
    return number;
}

// The token of the segment in `bin` with which the sum of what can be drawn there reaches `left`.
__device__ u32 draw_of_segment(Shared& shared, Kept kept) {
    if (threadIdx.x < 32) {
        u64 left = shared.left;
        int first = shared.bin * SEGMENT;
#pragma unroll 1
        for (int i = 0; i < EACH; ++i, first += 32) {
            float x = logit(shared, first + threadIdx.x);
            float w = shared.weight(x);
            u64 through = sum_through(kept(x, first + threadIdx.x, w) ? fixed(w) : 0);
            u64 all = __shfl_sync(ALL, through, 31);
            if (left <= all) {
                u32 reaching = __ballot_sync(ALL, through >= left);
                if (threadIdx.x == 0) shared.token = first + __ffs(reaching) - 1;
                break;
            }
            left -= all;
        }
    }
    __syncthreads();
    return shared.token;
}

__device__ u32 draw(Shared& shared, const Slot& slot) {
    u64 bound = 0;
    if (slot.top_k > 0 && slot.top_k < shared.logits.vocabulary) bound = keep_largest(shared, slot.top_k);
    if (slot.nucleus > 0) bound = keep_nucleus(shared, slot.nucleus, bound);
    Kept kept = {bound, slot.floor};
    weigh(shared, kept);
    u64 number = shared.number;
    search(shared, shared.sums[shared.turn], __umul64hi(number, total(shared)) + 1);
    return draw_of_segment(shared, kept);
}

// Sets the bits of the tokens that are repeated.
__device__ __forceinline__ void mark(u32* window, const Slot& slot, int vocabulary) {
    for (int i = threadIdx.x; i < (vocabulary + 31) / 32; i += THREADS) window[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < WINDOW; i += THREADS) {
        u32 token = slot.recent[i];
        if (token < vocabulary) atomicOr(&window[token / 32], 1u << token % 32);
    }
}

#if CLUSTER > 1
#define BLOCKS_OF_SLOT __cluster_dims__(CLUSTER, 1, 1)
#else
#define BLOCKS_OF_SLOT
#endif

// The token of each slot; notes it in the slot's history.
extern "C" __global__ void BLOCKS_OF_SLOT __launch_bounds__(THREADS) sampling_draw(const __grid_constant__ SampleParams p) {
    extern __shared__ u64 memory[];
    Shared& shared = *reinterpret_cast<Shared*>(memory);
    int row = blockIdx.x / CLUSTER;
    bool tells = block_of_slot() == 0 && threadIdx.x == 0;
    Slot& slot = p.slots[row];
    if (!slot.active) {
        if (tells) p.tokens[row] = 0;
        return;
    }
    bool repeated = slot.repetition != 1.0f;
    if (repeated) mark(shared.window(), slot, p.vocabulary);
    if (threadIdx.x == 0)
        shared.logits = {p.logits + row * p.stride, slot.bias, slot.counts, p.vocabulary,
                         (p.vocabulary + SEGMENT - 1) / SEGMENT, slot.repetition, slot.presence, slot.frequency,
                         repeated || slot.bias || slot.counts};
    if (threadIdx.x == 0) shared.turn = 0;
    sync_blocks(); // all have begun
    if (!slot.greedy && threadIdx.x == THREADS - 32) shared.number = random(slot.key, slot.drawn);
    u64 best = top(shared);
    float max = value((u32)(best >> PLACE));
    if (threadIdx.x == 0) shared.weight = {slot.scale, slot.rest, slot.lowest, max};
    __syncthreads();
    u32 token;
    if (best >> PLACE == ALL) {
        token = (u32)BROKEN_NAN;
    } else if ((__float_as_uint(max) << 1) == 0xff000000u) {
        token = (u32)BROKEN_NOT_FINITE;
    } else {
        token = slot.greedy ? first(shared, best) : draw(shared, slot);
    }
    sync_blocks(); // all have read the history
    if (!tells) return;
    p.tokens[row] = token;
    if (token >= p.vocabulary) return;
    slot.recent[slot.place] = token;
    slot.place = (slot.place + 1) % WINDOW;
    slot.drawn += 1;
    if (slot.counts) slot.counts[token] += 1;
}
