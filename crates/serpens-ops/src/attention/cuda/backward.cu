// The gradients of causal attention on Hopper's tensor cores. With P = exp(scale q kᵀ - lse), computed again, and
// δ = Σ o ∘ do of each row:
//
//     dv = Pᵀ do      dS = P ∘ (do vᵀ - δ)      dk = scale dSᵀ q      dq = scale dS k
//
// A block has KEYS keys of a head of k and v, in registers the sums of their dk and dv, and walks the tiles of queries
// that see them, from the last to the first, for one head of q after the other that shares them. Two warps copy, tiles
// of q and do one ahead; four warps each for 64 keys multiply. Both of these need all of dS for dq: it goes through
// shared memory. dq is a sum over blocks, added up in f32 by bulk copies in order: a warp waits until the blocks of
// the keys before have added theirs. Blocks take their keys by a ticket, so that those it waits for have begun; they
// began at the same last tile, so they are ahead. `attention_prepare` computes δ and sets tickets and turns to zero,
// `attention_finish` makes rows of dq out of the sums, which lie in the order of the products' registers.
//
// Bound by the tensor cores; the exponentials and sums between the products are hidden by the other four warps only in
// part.
//
// Macros: those of spans.cuh and hopper.cuh, QUERIES (of a tile: 128, or 64 where heads have two strips, as the
// registers allow), ROW_LANES (threads of a row of `attention_prepare`).

constexpr int LOADERS = 64, THREADS = 128 + 256;
constexpr int LATE = 1;
constexpr int TOGETHER = 32;  // heads of k in one stretch or another whose blocks take turns
static_assert(SUMS == QUERIES * WIDTH && SUMS == 32 * 256, "32 sums of a tile's dq for each multiplying thread");
constexpr u32 Q_BYTES = tile_bytes(QUERIES), K_BYTES = tile_bytes(KEYS), DS_BYTES = QUERIES * KEYS * 2, ROW_BYTES = QUERIES * 8;

// Places in shared memory, and barriers: of k and v; of the stages of q and do; of the sums of dq.
struct Places {
    u32 k, v, q, grad, ds, dq, rows, kv_full;
    Ring<STAGES> of_q, of_grad;
    Ring<1> of_dq;

    __device__ __forceinline__ Places(u32 base, u32 barriers)
        : k(base), v(k + K_BYTES), q(v + K_BYTES), grad(q + STAGES * Q_BYTES), ds(grad + STAGES * Q_BYTES), dq(ds + 2 * DS_BYTES), rows(dq + SUMS * 4),
          kv_full(barriers), of_q(barriers + 16), of_grad(barriers + 48), of_dq(barriers + 80) {}
};
constexpr int BARRIERS = 12;

// A tile of keys of a head of k, and the tiles of queries that see them, in one head of q.
struct Work {
    Tile<KEYS> keys;
    int kv_head, first, count;

    // The first keys, which most queries see, of some heads and stretches first: of so many that their dq stays in the
    // second-level cache, and so few blocks of each at once that they seldom wait for their turns.
    static __device__ __forceinline__ Work of_ticket(const AttentionParams& p, int ticket) {
        int kv_heads = p.heads / p.group, all = kv_heads * (p.queries / p.stretch), tiles = Tile<KEYS>::of_stretch(p);
        int from = ticket / (TOGETHER * tiles) * TOGETHER, left = ticket - from * tiles, together = min(TOGETHER, all - from);
        int i = from + left % together;
        return Work(p, i % kv_heads, Tile<KEYS>(p, i / kv_heads, left / together));
    }
    __device__ __forceinline__ Work(const AttentionParams& p, int kv_head, Tile<KEYS> keys) : keys(keys), kv_head(kv_head) {
        int origin = keys.stretch * p.stretch;
        first = (keys.first - origin) / QUERIES;
        count = (queries_of(p, keys.end - 1).last - origin) / QUERIES - first + 1;
    }
};

// What a block is at: a tile of queries of a head.
struct Step {
    int head, number;  // of q, and of the tile in its stretch

    __device__ __forceinline__ Step(const AttentionParams& p, const Work& work) : head(work.kv_head * p.group), number(work.first + work.count - 1) {}
    __device__ __forceinline__ bool exists(const AttentionParams& p, const Work& work) const { return head < (work.kv_head + 1) * p.group; }
    __device__ __forceinline__ void advance(const Work& work) {
        if (--number < work.first) number += work.count, ++head;
    }
    __device__ __forceinline__ int query(const AttentionParams& p, const Work& work) const { return work.keys.stretch * p.stretch + number * QUERIES; }
};

// The `number`-th tile of queries among those of all stretches and heads.
__device__ __forceinline__ int tile_of_all(const AttentionParams& p, int stretch, int head, int number) {
    return (head * (p.queries / p.stretch) + stretch) * Tile<QUERIES>::of_stretch(p) + number;
}

__device__ void copy_tiles(const AttentionParams& p, const Work& work, Places places) {
    int thread = threadIdx.x, end = (work.keys.stretch + 1) * p.stretch;
    Telling<LATE> telling;
    read_tile<KEYS, LOADERS>(places.k, p.k + work.keys.first * p.k_stride + work.kv_head * HEAD, p.k_stride, work.keys.end - work.keys.first, thread);
    read_tile<KEYS, LOADERS>(places.v, p.v + work.keys.first * p.v_stride + work.kv_head * HEAD, p.v_stride, work.keys.end - work.keys.first, thread);
    telling.started_for(places.kv_full);
    for (Step step(p, work); step.exists(p, work); step.advance(work)) {
        int query = step.query(p, work);
        places.of_q.await_empty();
        read_tile<QUERIES, LOADERS>(places.q + places.of_q.stage * Q_BYTES, p.q + query * p.q_stride + step.head * HEAD, p.q_stride, end - query, thread);
        if (thread < QUERIES / 2)
            copy_chunk(places.rows + places.of_q.stage * ROW_BYTES + thread * 16, p.rows + (i64)tile_of_all(p, work.keys.stretch, step.head, step.number) * (2 * QUERIES) + thread * 4, 16);
        telling.started_for(places.of_q.full());
        places.of_q.advance();
        places.of_grad.await_empty();
        read_tile<QUERIES, LOADERS>(places.grad + places.of_grad.stage * Q_BYTES, p.grad + query * p.grad_stride + step.head * HEAD, p.grad_stride, end - query, thread);
        telling.started_for(places.of_grad.full());
        places.of_grad.advance();
    }
    telling.finish();
}

// One thread: adds each step's part of dq when it is this block's turn.
__device__ void add_dq(const AttentionParams& p, const Work& work, Places places) {
    for (Step step(p, work); step.exists(p, work); step.advance(work)) {
        int query = step.query(p, work);
        int tile = tile_of_all(p, work.keys.stretch, step.head, step.number);
        int turn = work.keys.number - (keys_of(p, query).first - work.keys.stretch * p.stretch) / KEYS, now;
        float* to = p.dq_sums + (i64)tile * SUMS;
        places.of_dq.await_full();
        do {
            asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(p.turns + tile) : "memory");
        } while (now != turn);
        asm volatile("fence.proxy.async;" ::: "memory");
        if (turn == 0)
            asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(places.dq), "n"(SUMS * 4) : "memory");
        else
            asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(places.dq), "n"(SUMS * 4) : "memory");
        asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
        arrive(places.of_dq.full() + 8);
        places.of_dq.advance();
        asm volatile("cp.async.bulk.wait_group 0;\nfence.proxy.async;" ::: "memory");
        asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(p.turns + tile), "r"(turn + 1) : "memory");
    }
}

__device__ __forceinline__ void load_two(float (&x)[2], u32 from) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x[0]), "=f"(x[1]) : "r"(from));
}

// Of 64 keys (rows) and a tile of queries (columns).
struct Products {
    float dk[WIDTH / 2], dv[WIDTH / 2];
    u32 weights[QUERIES / 16][4];

    // Sums of q and k to weights, in bf16, given each query's logarithm.
    __device__ __forceinline__ void weights_of(float (&s)[QUERIES / 2], const Span (&spans)[2], bool all, int query, u32 rows, float scale) {
        int column = 2 * (threadIdx.x % 4);
#pragma unroll
        for (int i = 0; i < QUERIES / 8; ++i) {
            float lse[2];
            load_two(lse, rows + (8 * i + column) * 4);
#pragma unroll
            for (int j = 0; j < 4; ++j) s[4 * i + j] = exp2_fast(fmaf(s[4 * i + j], scale, -lse[j % 2]));
        }
        if (all) return;
#pragma unroll
        for (int i = 0; i < QUERIES / 2; ++i)
            if (!spans[i / 2 % 2].has(query + column + i / 4 * 8 + i % 2)) s[i] = 0.0f;
    }
    // weights × (dp - δ)
    __device__ __forceinline__ void slopes_of(float (&dp)[QUERIES / 2], u32 rows) {
        int column = 2 * (threadIdx.x % 4);
#pragma unroll
        for (int i = 0; i < QUERIES / 8; ++i) {
            float delta[2];
            load_two(delta, rows + (QUERIES + 8 * i + column) * 4);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                u32 pair = weights[i / 2][i % 2 * 2 + half];
                dp[4 * i + 2 * half] = low_f32(pair) * (dp[4 * i + 2 * half] - delta[0]);
                dp[4 * i + 2 * half + 1] = high_f32(pair) * (dp[4 * i + 2 * half + 1] - delta[1]);
            }
        }
    }
};

// This warp's 16 keys of dS, (keys, queries) in strips of 64 queries, as the first operand of dq's products.
__device__ __forceinline__ void put_slopes(u32 ds, int key, const u32 (&slopes)[QUERIES / 16][4]) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < QUERIES / 16; ++k) {
        int chunk = 2 * k + lane / 16;
        u32 to = ds + chunk / 8 * KEYS * 128 + place(key + lane % 16, chunk % 8);
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(slopes[k][0]), "r"(slopes[k][1]), "r"(slopes[k][2]), "r"(slopes[k][3]) : "memory");
    }
}

__device__ void multiply_tiles(const AttentionParams& p, const Work& work, Places places) {
    int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, thread = threadIdx.x % 128;
    int first = work.keys.first + group * 64 + warp * 16, key = first + thread % 32 / 4;
    auto span = [&](int key) { return key < work.keys.end ? queries_of(p, key) : Span{0x7fffffff, -1}; };
    Span spans[2] = {span(key), span(key + 8)};
    int all_first = span(first + 15).first, all_last = span(first).last;
    float scale = p.scale * LOG2_E;
    Products own;
#pragma unroll
    for (int i = 0; i < WIDTH / 2; ++i) own.dk[i] = own.dv[i] = 0.0f;
    u32 k = places.k + group * 64 * 128, v = places.v + group * 64 * 128;
    await(places.kv_full, 0);
    int buffer = 0;
    for (Step step(p, work); step.exists(p, work); step.advance(work), buffer ^= 1) {
        int query = step.query(p, work);
        u32 q = places.q + places.of_q.stage * Q_BYTES, grad = places.grad + places.of_grad.stage * Q_BYTES;
        u32 rows = places.rows + places.of_q.stage * ROW_BYTES, ds = places.ds + buffer * DS_BYTES;
        float s[QUERIES / 2], dp[QUERIES / 2];
        places.of_q.await_full();
        dots<KEYS, QUERIES>(s, k, q);
        places.of_grad.await_full();
        dots<KEYS, QUERIES>(dp, v, grad);
        products_wait<1>();
        settle(s);
        own.weights_of(s, spans, query >= all_first && query + QUERIES - 1 <= all_last, query, rows, scale);
        pack(own.weights, s);
        weigh<QUERIES>(own.dv, own.weights, grad);
        products_wait<1>();
        settle(dp);
        own.slopes_of(dp, rows);
        u32 slopes[QUERIES / 16][4];
        pack(slopes, dp);
        put_slopes(ds, group * 64 + warp * 16, slopes);
        publish();
        asm volatile("bar.sync 1, 256;" ::: "memory");
        weigh<QUERIES>(own.dk, slopes, q);
        // All keys, and half of the tile's dq: 64 queries, or 64 columns.
        float dq[32];
        u32 queries = ds + (QUERIES == 128 ? group * KEYS * 128 : 0), columns = places.k + (QUERIES == 128 ? 0 : group * KEYS * 128);
        products_begin();
#pragma unroll
        for (int i = 0; i < KEYS / 16; ++i) {
            if (i == 0)
                multiply<0, 1, 1>(dq, operand(queries), operand(columns));
            else
                multiply<1, 1, 1>(dq, operand(queries) + i * NEXT_ROWS, operand(columns) + i * NEXT_ROWS);
        }
        products_commit();
        products_wait<1>();
        settle(own.dv);
        settle(own.dk);
        settle(own.weights);
        settle(slopes);
        places.of_q.leave(), places.of_q.advance();
        places.of_grad.leave(), places.of_grad.advance();
        products_wait<0>();
        settle(dq);
        places.of_dq.await_empty();
#pragma unroll
        for (int i = 0; i < 8; ++i)
            asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(places.dq + ((group * 8 + i) * 128 + thread) * 16), "f"(dq[4 * i]), "f"(dq[4 * i + 1]), "f"(dq[4 * i + 2]), "f"(dq[4 * i + 3]) : "memory");
        publish();
        arrive_together(places.of_dq.full());
        places.of_dq.advance();
    }
    float dk_factor[2] = {p.scale, p.scale}, dv_factor[2] = {1.0f, 1.0f};
    put_rows(p.dk + work.kv_head * HEAD, p.dk_stride, key, work.keys.end, own.dk, dk_factor);
    put_rows(p.dv + work.kv_head * HEAD, p.dv_stride, key, work.keys.end, own.dv, dv_factor);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_backward(const __grid_constant__ AttentionParams p) {
    extern __shared__ u8 memory[];
    __shared__ u64 barriers[BARRIERS];
    __shared__ int ticket;
    u32 base = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u;
    Places places(base, (u32)__cvta_generic_to_shared(barriers));
    if (threadIdx.x == 0) {
        init_barrier(places.kv_full, LOADERS);
        places.of_q.init(LOADERS, 8 * SPEAKERS);
        places.of_grad.init(LOADERS, 8 * SPEAKERS);
        places.of_dq.init(8 * SPEAKERS, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        ticket = atomicAdd(p.ticket, 1);
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
        if (threadIdx.x < LOADERS)
            copy_tiles(p, Work::of_ticket(p, ticket), places);
        else if (threadIdx.x == LOADERS)
            add_dq(p, Work::of_ticket(p, ticket), places);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
        multiply_tiles(p, Work::of_ticket(p, ticket), places);
    }
}

// ---- before and after ----------------------------------------------------------------------------------------------

// A row of a tile for each ROW_LANES threads, 8 columns each: lse as a power of two, and δ. Rows that do not exist
// weigh nothing.
extern "C" __global__ void __launch_bounds__(256) attention_prepare(const __grid_constant__ AttentionParams p) {
    int tiles = Tile<QUERIES>::of_stretch(p), stretches = p.queries / p.stretch;
    i64 row = (i64)blockIdx.x * (256 / ROW_LANES) + threadIdx.x / ROW_LANES, of_head = (i64)stretches * tiles * QUERIES;
    int lane = threadIdx.x % ROW_LANES;
    if (blockIdx.x == 0 && threadIdx.x == 0) *p.ticket = 0;
    if (row >= p.heads * of_head) return;
    if (row % QUERIES == 0 && lane == 0) p.turns[row / QUERIES] = 0;
    int head = row / of_head, in_head = row % of_head, stretch = in_head / (tiles * QUERIES), in_stretch = in_head % (tiles * QUERIES);
    bool exists = in_stretch < p.stretch;
    i64 query = (i64)stretch * p.stretch + in_stretch;
    float sum = 0.0f;
    if (exists && lane * 8 < HEAD) {
        float o[8], grad[8];
        load(p.o + query * p.o_stride + head * HEAD + lane * 8, o);
        load(p.grad + query * p.grad_stride + head * HEAD + lane * 8, grad);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum = fmaf(o[i], grad[i], sum);
    }
    sum = warp_sum<ROW_LANES>(sum);
    if (lane) return;
    float* to = p.rows + row / QUERIES * 2 * QUERIES + row % QUERIES;
    to[0] = exists ? p.lse[head * (i64)p.queries + query] * LOG2_E : infinite();
    to[QUERIES] = sum;
}

// A tile of dq for each block.
extern "C" __global__ void __launch_bounds__(256) attention_finish(const __grid_constant__ AttentionParams p) {
    int tiles = Tile<QUERIES>::of_stretch(p);
    Tile<QUERIES> tile(p, blockIdx.x / tiles, blockIdx.x % tiles);
    const float4* sums = reinterpret_cast<const float4*>(p.dq_sums + (i64)tile_of_all(p, tile.stretch, blockIdx.y, tile.number) * SUMS);
    int group = threadIdx.x / 128, thread = threadIdx.x % 128, row = tile.first + thread / 32 * 16 + thread % 32 / 4;
    float dq[32], factor[2] = {p.scale, p.scale};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        float4 x = sums[(group * 8 + i) * 128 + thread];
        dq[4 * i] = x.x, dq[4 * i + 1] = x.y, dq[4 * i + 2] = x.z, dq[4 * i + 3] = x.w;
    }
    put_strip(p.dq + blockIdx.y * HEAD, p.dq_stride, QUERIES == 128 ? 0 : group * 64, row + (QUERIES == 128 ? group * 64 : 0), tile.end, dq, factor);
}
