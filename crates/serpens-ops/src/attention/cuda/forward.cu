// Causal attention on Hopper's tensor cores: o = softmax(scale q kᵀ) v over the keys that a query sees, and the
// logarithm of each row's sum of exponentials for the way back. Bound by the tensor cores and, for small heads, by the
// exponential.
//
// A block has GROUPS × 64 queries of a head and walks their keys from the last tile to the first, so that only the
// first and last tiles are masked. Four warps copy: q once, tiles of k and v some stages ahead, with cp.async, because
// rows are of any stride and tiles end where sequences do. Four warps each for 64 queries multiply: the next tile's q
// kᵀ and this one's products with v are begun together, and the softmax of the former is computed while the latter are
// under way. Sums and largest values stay in registers, in f32; weights become bf16 for the second product.
//
// Macros: those of spans.cuh and hopper.cuh, GROUPS (2 or 3), STAGES (of k, and of v).

constexpr int QUERIES = 64 * GROUPS;
constexpr int LOADERS = 128, THREADS = LOADERS + 128 * GROUPS;
constexpr int LATE = 2;  // copies under way: less than what both rings hold, or those who multiply would wait for ever

struct Places {
    u32 q, k, v;
    Ring<1> of_q;
    Ring<STAGES> of_k, of_v;

    __device__ __forceinline__ Places(u32 base, u32 barriers)
        : q(base), k(base + tile_bytes(QUERIES)), v(k + STAGES * tile_bytes(KEYS)), of_q(barriers), of_k(barriers + 16), of_v(barriers + 16 + 16 * STAGES) {}
    __device__ __forceinline__ u32 k_tile() const { return k + of_k.stage * tile_bytes(KEYS); }
    __device__ __forceinline__ u32 v_tile() const { return v + of_v.stage * tile_bytes(KEYS); }
};

// A tile of queries of a head, and the tiles of keys that they see: `count` of them, the last first.
struct Work {
    Tile<QUERIES> tile;
    int head, first, end, count;

    static __device__ __forceinline__ int all(const AttentionParams& p) { return p.heads * (p.queries / p.stretch) * Tile<QUERIES>::of_stretch(p); }
    // Of `all`, the longest first; forth and back over the blocks, so that each has about the same sum.
    static __device__ __forceinline__ int number(int round) {
        return round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    }
    __device__ __forceinline__ Work(const AttentionParams& p, int i)
        : tile(p, i / p.heads % (p.queries / p.stretch), Tile<QUERIES>::of_stretch(p) - 1 - i / p.heads / (p.queries / p.stretch)), head(i % p.heads) {
        int origin = tile.stretch * (p.stretch + p.past), last = keys_of(p, tile.end - 1).last;
        int low = (keys_of(p, tile.first).first - origin) / KEYS, high = (last - origin) / KEYS;
        first = origin + high * KEYS, end = last + 1, count = high - low + 1;
    }
};

__device__ __forceinline__ void copy_tiles(const AttentionParams& p, const Work& work, Places& places) {
    int thread = threadIdx.x;
    Telling<LATE> telling;
    const bf16* k = p.k + work.head / p.group * HEAD;
    const bf16* v = p.v + work.head / p.group * HEAD;
    auto copy_v = [&](int t) {
        int key = work.first - t * KEYS;
        places.of_v.await_empty();
        read_tile<KEYS, LOADERS>(places.v_tile(), v + key * p.v_stride, p.v_stride, work.end - key, thread);
        telling.started_for(places.of_v.full());
        places.of_v.advance();
    };
    places.of_q.await_empty();
    read_tile<QUERIES, LOADERS>(places.q, p.q + work.tile.first * p.q_stride + work.head * HEAD, p.q_stride, work.tile.end - work.tile.first, thread);
    telling.started_for(places.of_q.full());
    places.of_q.advance();
    for (int t = 0; t < work.count; ++t) {
        int key = work.first - t * KEYS;
        places.of_k.await_empty();
        read_tile<KEYS, LOADERS>(places.k_tile(), k + key * p.k_stride, p.k_stride, work.end - key, thread);
        telling.started_for(places.of_k.full());
        places.of_k.advance();
        if (t > 0) copy_v(t - 1);
    }
    copy_v(work.count - 1);
    telling.finish();
}

// Of two rows, 8 apart, what is known after some tiles.
struct Softmax {
    float scale;  // of sums, for powers of two
    Span spans[2];
    int all_first, all_last;  // keys that every row of this warp sees
    float top[2] = {-infinite(), -infinite()}, sum[2] = {0.0f, 0.0f};

    // Sums of the keys from `key` on to weights; gives what the sums of weighted values before are multiplied by.
    __device__ __forceinline__ void enter(float (&s)[KEYS / 2], int key, float (&factor)[2]) {
        if (key < all_first || key + KEYS - 1 > all_last) {
            int column = key + 2 * (threadIdx.x % 4);
#pragma unroll
            for (int i = 0; i < KEYS / 2; ++i)
                if (!spans[i / 2 % 2].has(column + i / 4 * 8 + i % 2)) s[i] = -infinite();
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = top[half];
#pragma unroll
            for (int i = 0; i < KEYS / 4; ++i) most = fmaxf(most, s[i / 2 * 4 + half * 2 + i % 2]);
            most = warp_max<4>(most);
            // Nothing seen yet: any number will do.
            float base = most == -infinite() ? 0.0f : most * scale;
            factor[half] = exp2_fast(fmaf(top[half], scale, -base));
            float own = 0.0f;
#pragma unroll
            for (int i = 0; i < KEYS / 4; ++i) {
                float& x = s[i / 2 * 4 + half * 2 + i % 2];
                x = exp2_fast(fmaf(x, scale, -base));
                own += x;
            }
            sum[half] = fmaf(sum[half], factor[half], own);
            top[half] = most;
        }
    }
};

__device__ __forceinline__ void multiply_tiles(const AttentionParams& p, const Work& work, Places& places) {
    int group = threadIdx.x / 128 - LOADERS / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    int first = work.tile.first + group * 64 + warp * 16, row = first + lane / 4;
    auto span = [&](int query) { return keys_of(p, min(query, work.tile.end - 1)); };
    Softmax softmax{p.scale * LOG2_E, {span(row), span(row + 8)}, span(first + 15).first, span(first).last};
    float s[KEYS / 2], o[WIDTH / 2], factor[2];
    u32 weights[KEYS / 16][4];
    u32 q = places.q + group * 64 * 128;
#pragma unroll
    for (int i = 0; i < WIDTH / 2; ++i) o[i] = 0.0f;
    places.of_q.await_full();
    places.of_k.await_full();
    dots<QUERIES, KEYS>(s, q, places.k_tile());
    products_wait<0>();
    settle(s);
    places.of_k.leave();
    places.of_k.advance();
    softmax.enter(s, work.first, factor);
    pack(weights, s);
    for (int t = 1; t < work.count; ++t) {
        places.of_k.await_full();
        dots<QUERIES, KEYS>(s, q, places.k_tile());
        places.of_v.await_full();
        weigh<KEYS>(o, weights, places.v_tile());
        products_wait<1>();
        settle(s);
        places.of_k.leave();
        places.of_k.advance();
        softmax.enter(s, work.first - t * KEYS, factor);
        products_wait<0>();
        settle(o);
        settle(weights);
        places.of_v.leave();
        places.of_v.advance();
#pragma unroll
        for (int i = 0; i < WIDTH / 2; ++i) o[i] *= factor[i / 2 % 2];
        pack(weights, s);
    }
    places.of_q.leave();
    places.of_q.advance();
    places.of_v.await_full();
    weigh<KEYS>(o, weights, places.v_tile());
    products_wait<0>();
    settle(o);
    places.of_v.leave();
    places.of_v.advance();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float sum = warp_sum<4>(softmax.sum[half]);
        factor[half] = 1.0f / sum;
        if (lane % 4 == 0 && row + 8 * half < work.tile.end) p.lse[(i64)work.head * p.queries + row + 8 * half] = fmaf(softmax.top[half], p.scale, logf(sum));
    }
    put_rows(p.o + work.head * HEAD, p.o_stride, row, work.tile.end, o, factor);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_forward(const __grid_constant__ AttentionParams p) {
    extern __shared__ u8 memory[];
    __shared__ u64 barriers[2 + 4 * STAGES];
    u32 base = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    Places places(base, (u32)__cvta_generic_to_shared(barriers));
    if (threadIdx.x == 0) {
        places.of_q.init(LOADERS, 4 * GROUPS * SPEAKERS);
        places.of_k.init(LOADERS, 4 * GROUPS * SPEAKERS);
        places.of_v.init(LOADERS, 4 * GROUPS * SPEAKERS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    int all = Work::all(p);
    if (threadIdx.x < LOADERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 56 : 32));
        for (int round = 0; Work::number(round) < all; ++round) copy_tiles(p, Work(p, Work::number(round)), places);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 224 : 160));
        for (int round = 0; Work::number(round) < all; ++round) multiply_tiles(p, Work(p, Work::number(round)), places);
    }
}
