// One token of one sequence through many Mamba layers, as mod.rs defines it: one block a multiprocessor, all at work
// together, each with its share of the channels and of the rows of every matrix.
//
// A last warp asks for the block's rows of W_in and W_out (TMA), stage after stage, as soon as there is room in a ring
// in shared memory: weights depend on nothing, so the memory stays at work while the other warps wait for other blocks.
// What these exchange are words of a value and the epoch (the layer of the token) that it is of: a reader asks until
// all have the epoch that it is at, so there is no barrier and no fence, and a word costs one way to the L2 and back.
//
// A layer: h (all) -> x, z of own channels -> u of own channels -> own channels' part of W_x u -> (blocks add parts up)
// W_x u (all) -> y of own channels -> y (all) -> own rows of h. Nobody writes words of the next layer before everybody
// has read those of this one, since each of the exchanges waits for all blocks.
//
// Macros: D_MODEL, D_INNER, RANK, STATE, CONV; BLOCKS, WARPS (that compute), COLUMNS (of a stage), DEPTH (stages of the
// ring), SCAN_LANES (lanes that share a channel's states), SHARED_BYTES (before the ring).

constexpr int THREADS = 32 * WARPS;
constexpr int CHANNELS = D_INNER / BLOCKS;  // of a block
constexpr int ROWS = D_MODEL / BLOCKS;      // of h, of a block
constexpr int PROJECTED = RANK + 2 * STATE;
constexpr int IN_TILES = (2 * CHANNELS + 7) / 8, OUT_TILES = (ROWS + 7) / 8;
constexpr int IN_PARTS = D_MODEL / COLUMNS, OUT_PARTS = D_INNER / COLUMNS;
constexpr int IN_STAGES = IN_TILES * IN_PARTS, STAGES = IN_STAGES + OUT_TILES * OUT_PARTS;
constexpr int SHARE = COLUMNS / WARPS, CHUNK = 64, CHUNKS = SHARE / CHUNK;  // columns of a warp of a stage
// Bytes of a row of a stage: the padding spreads eight rows over all banks.
constexpr int PITCH = COLUMNS * 2 + 64, STAGE = 8 * PITCH;
// Values from row to row of W_x, padded for the same reason.
constexpr int X_PITCH = CHANNELS % 8 ? CHANNELS : CHANNELS + 8;
constexpr int OWN_STATES = STATE / SCAN_LANES, OWN_PAIRS = (RANK / 2 + SCAN_LANES - 1) / SCAN_LANES;
static_assert(SHARE % CHUNK == 0 && STATE % SCAN_LANES == 0 && CHANNELS % 4 == 0 && RANK % 2 == 0, "");
static_assert(PROJECTED % 4 == 0 && PROJECTED / 4 <= BLOCKS && BLOCKS % 16 == 0, "");
static_assert(CHANNELS * SCAN_LANES <= THREADS && PROJECTED <= THREADS && ROWS <= THREADS, "");

// ---- words that blocks exchange -------------------------------------------------------------------------------------

// Aligned accesses of eight bytes, or sixteen, are made at once on every card: a value is never seen without its epoch.
__device__ __forceinline__ void put(uint2* to, float x, u32 epoch) {
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(__float_as_uint(x)), "r"(epoch) : "memory");
}
__device__ __forceinline__ void put_two(uint2* to, float x, float y, u32 epoch) {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %2};"
                 ::"l"(to), "r"(__float_as_uint(x)), "r"(epoch), "r"(__float_as_uint(y)) : "memory");
}
// Pairs of values, of the words `from` + 2 i `stride` for i below `exist`; the others are some of these again.
template <int COUNT> __device__ __forceinline__ void take(const uint2* from, int stride, int exist, u32 epoch, float2 (&to)[COUNT]) {
    uint4 words[COUNT];
    bool missing;
    do {
        missing = false;
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(words[i].x), "=r"(words[i].y), "=r"(words[i].z), "=r"(words[i].w)
                         : "l"(from + 2 * (i < exist ? i : 0) * stride) : "memory");
#pragma unroll
        for (int i = 0; i < COUNT; ++i) missing |= words[i].y != epoch || words[i].w != epoch;
    } while (missing);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) to[i] = make_float2(__uint_as_float(words[i].x), __uint_as_float(words[i].z));
}

// ---- shared memory --------------------------------------------------------------------------------------------------

// What a layer needs beside its large matrices, of this block's channels but for the norm.
struct __align__(16) Beside {
    float norm[D_MODEL];
    bf16 x[PROJECTED * X_PITCH];
    bf16 dt[CHANNELS * RANK];
    float a[CHANNELS * STATE], state[CHANNELS * STATE], taps[CHANNELS * CONV], past[(CONV - 1) * CHANNELS];
    float conv_bias[CHANNELS], dt_bias[CHANNELS], d[CHANNELS];
};
struct __align__(16) Shared {
    Beside beside[2];  // of this layer and of the next
    u64 full[DEPTH], empty[DEPTH];
    bf16 x[D_INNER];  // what is multiplied
    float squares[(WARPS + 3) / 4 * 4];
    float sums[WARPS][8 * (IN_TILES > OUT_TILES ? IN_TILES : OUT_TILES)];
    float u[CHANNELS], gate[CHANNELS];
    float projected[PROJECTED];
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "");

__device__ __forceinline__ u32 in_shared(const void* p) { return (u32)__cvta_generic_to_shared(p); }
// Of the warps that compute.
__device__ __forceinline__ void sync() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

// COUNT rows of BYTES, `stride` bytes apart, to rows PITCHED bytes apart, by all threads that compute.
template <int COUNT, int BYTES, int PITCHED> __device__ __forceinline__ void copy_rows(void* to, const void* from, int stride) {
    constexpr int PIECE = BYTES % 16 == 0 ? 16 : 8, PIECES = BYTES / PIECE;
    static_assert(BYTES % PIECE == 0, "");
    for (int i = threadIdx.x; i < COUNT * PIECES; i += THREADS)
        copy_async<PIECE>((char*)to + i / PIECES * PITCHED + i % PIECES * PIECE, (const char*)from + (i64)(i / PIECES) * stride + i % PIECES * PIECE);
}
template <int BYTES> __device__ __forceinline__ void copy_one(void* to, const void* from) { copy_rows<1, BYTES, 0>(to, from, 0); }

__device__ __forceinline__ void ask_beside(Beside& to, const MambaLayerParams& w, int first) {
    copy_one<D_MODEL * 4>(to.norm, w.norm);
    copy_rows<PROJECTED, CHANNELS * 2, X_PITCH * 2>(to.x, w.x_proj + first, D_INNER * 2);
    copy_one<CHANNELS * RANK * 2>(to.dt, w.dt_proj + first * RANK);
    copy_one<CHANNELS * STATE * 4>(to.a, w.a + first * STATE);
    copy_one<CHANNELS * STATE * 4>(to.state, w.state + first * STATE);
    copy_one<CHANNELS * CONV * 4>(to.taps, w.conv + first * CONV);
    copy_rows<CONV - 1, CHANNELS * 4, CHANNELS * 4>(to.past, w.past + first, D_INNER * 4);
    if (w.conv_bias) copy_one<CHANNELS * 4>(to.conv_bias, w.conv_bias + first);
    copy_one<CHANNELS * 4>(to.dt_bias, w.dt_bias + first);
    copy_one<CHANNELS * 4>(to.d, w.d + first);
    copy_commit();
}

// ---- the ring of weights --------------------------------------------------------------------------------------------

__device__ __forceinline__ void await(u64& barrier, u32 parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(in_shared(&barrier)), "r"(parity) : "memory");
}

// The last warp: eight rows of COLUMNS columns a stage, tile after tile of W_in, then of W_out, of every layer.
__device__ void ask_weights(Shared& s, char* ring, const MambaLayersParams& p, int first, int first_row) {
    int lane = threadIdx.x % 32, place = 0;
    u32 parity = 1;
    u64 policy;  // a token reads them once: states and words stay in the L2
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#pragma unroll 1
    for (int l = 0; l < p.count; ++l) {
        const bf16 *in = p.layers[l].in_proj, *out = p.layers[l].out_proj;
#pragma unroll 1
        for (int i = 0; i < STAGES; ++i) {
            await(s.empty[place], parity);
            const bf16* from;
            int exist;
            if (i < IN_STAGES) {  // rows of x, then those of z
                int row = i / IN_PARTS * 8 + lane;
                exist = 8;
                from = in + (i64)(row < CHANNELS ? first + row : D_INNER - CHANNELS + first + row) * D_MODEL + i % IN_PARTS * COLUMNS;
            } else {
                int tile = (i - IN_STAGES) / OUT_PARTS;
                exist = min(8, ROWS - 8 * tile);
                from = out + (i64)(first_row + 8 * tile + lane) * D_INNER + (i - IN_STAGES) % OUT_PARTS * COLUMNS;
            }
            u32 full = in_shared(&s.full[place]);
            if (lane == 0) asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(full), "r"(exist * COLUMNS * 2) : "memory");
            __syncwarp();
            if (lane < exist)
                asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(in_shared(ring + place * STAGE + lane * PITCH)), "l"(from), "r"(COLUMNS * 2), "r"(full), "l"(policy) : "memory");
            if (++place == DEPTH) place = 0, parity ^= 1;
        }
    }
}

// d += a b for one row of x (of 16 that there might be), 8 outputs and 16 inputs.
__device__ __forceinline__ void multiply(float (&d)[4], u32 a0, u32 a2, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1));
}

// A warp's share of the products: of TILES tiles of eight outputs, the columns of each stage that are its own.
struct Products {
    Shared& s;
    const char* own;  // this lane's place in the first stage
    int warp, lane, place;
    u32 parity;

    // The sums of this warp's columns with s.x, to s.sums. Any 8 inputs may come first in a product, as both agree.
    template <int TILES, int PARTS> __device__ __forceinline__ void add_up() {
        uint4 x[PARTS][CHUNKS][2];
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int c = 0; c < 2 * CHUNKS; ++c) {
                const bf16* from = s.x + part * COLUMNS + warp * SHARE + c * 32 + lane % 4 * 8;
                x[part][c / 2][c % 2] = lane < 4 ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
            float first[4] = {0, 0, 0, 0}, second[4] = {0, 0, 0, 0};
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                await(s.full[place], parity);
                const char* from = own + place * STAGE;
#pragma unroll
                for (int c = 0; c < 2 * CHUNKS; ++c) {
                    uint4 w = *reinterpret_cast<const uint4*>(from + c * 64), own_x = x[part][c / 2][c % 2];
                    multiply(first, own_x.x, own_x.y, w.x, w.y);
                    multiply(second, own_x.z, own_x.w, w.z, w.w);
                }
                asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(in_shared(&s.empty[place])) : "memory");
                if (++place == DEPTH) place = 0, parity ^= 1;
            }
            if (lane < 4) *reinterpret_cast<float2*>(&s.sums[warp][8 * t + 2 * lane]) = make_float2(first[0] + second[0], first[1] + second[1]);
        }
    }
};
__device__ __forceinline__ float total(const Shared& s, int output) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) sum += s.sums[i][output];
    return sum;
}

// ---- a layer --------------------------------------------------------------------------------------------------------

struct Block {
    Shared& s;
    int tid, warp, lane, block, first, first_row;
    uint2 *h_words, *y_words, *projected_words, *parts;  // the last (PROJECTED / 4, BLOCKS, 4)
    float own_h;

    // norm(h) / rstd to s.x, and what a warp has of the sum of squares.
    __device__ __forceinline__ float read_h(const MambaLayersParams& p, const Beside& beside, int l, u32 epoch) {
        constexpr int PAIRS = D_MODEL / 2, COUNT = (PAIRS + THREADS - 1) / THREADS;
        float2 h[COUNT];
        int exist = (PAIRS - tid + THREADS - 1) / THREADS;
        if (exist <= 0) return 0.0f;
        if (l == 0) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) h[i] = reinterpret_cast<const float2*>(p.h)[tid + (i < exist ? i : 0) * THREADS];
        } else {
            take<COUNT>(h_words + 2 * tid, THREADS, exist, epoch - 1, h);
        }
        float square = 0.0f;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (i >= exist) break;
            int k = 2 * (tid + i * THREADS);
            square = fmaf(h[i].x, h[i].x, fmaf(h[i].y, h[i].y, square));
            *reinterpret_cast<u32*>(&s.x[k]) = pack_bf16(h[i].x * beside.norm[k], h[i].y * beside.norm[k + 1]);
        }
        return square;
    }

    // u = silu(conv(x)) by the first threads, silu(z) by others, once W_in's products are summed.
    __device__ __forceinline__ void convolve(const MambaLayerParams& w, const float (&taps)[CONV], const float (&past)[CONV - 1], float bias) {
        constexpr int GATES = THREADS - (CHANNELS + 31) / 32 * 32;
        bool is_gate = GATES >= CHANNELS && tid >= GATES;
        int channel = is_gate ? tid - GATES : tid;
        if (channel >= CHANNELS) return;
        float squares = 0.0f, rstd;
#pragma unroll
        for (int i = 0; i < WARPS; ++i) squares += s.squares[i];
        asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(rstd) : "f"(fmaf(squares, 1.0f / D_MODEL, w.eps)));
        if (is_gate) {
            s.gate[channel] = silu(total(s, CHANNELS + channel) * rstd);
            return;
        }
        float x = total(s, channel) * rstd, sum = bias;
#pragma unroll
        for (int k = 0; k + 1 < CONV; ++k) sum = fmaf(taps[k], past[k], sum);
        s.u[channel] = silu(fmaf(taps[CONV - 1], x, sum));
        if (GATES < CHANNELS) s.gate[channel] = silu(total(s, CHANNELS + channel) * rstd);
        float* to = w.past + first + channel;
#pragma unroll
        for (int k = 0; k + 1 < CONV; ++k) to[k * D_INNER] = k + 2 < CONV ? past[k + 2 < CONV ? k + 1 : 0] : x;
    }

    // What own channels give to W_x u; the first blocks add four of its outputs up for all.
    __device__ __forceinline__ void project(const Beside& beside, u32 epoch) {
        if (tid < PROJECTED) {
            float even = 0.0f, odd = 0.0f;
#pragma unroll
            for (int i = 0; i < CHANNELS; i += 4) {
                float4 u = *reinterpret_cast<const float4*>(&s.u[i]);
                uint2 w = *reinterpret_cast<const uint2*>(&beside.x[tid * X_PITCH + i]);
                even = fmaf(low_f32(w.x), u.x, even), odd = fmaf(high_f32(w.x), u.y, odd);
                even = fmaf(low_f32(w.y), u.z, even), odd = fmaf(high_f32(w.y), u.w, odd);
            }
            put(parts + (tid / 4 * BLOCKS + block) * 4 + tid % 4, even + odd, epoch);
        }
        if (warp || block >= PROJECTED / 4) return;
        constexpr int COUNT = BLOCKS / 16;
        float2 part[COUNT], sum = make_float2(0.0f, 0.0f);
        take<COUNT>(parts + block * BLOCKS * 4 + 2 * lane, 32, COUNT, epoch, part);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) sum.x += part[i].x, sum.y += part[i].y;
#pragma unroll
        for (int step = 2; step < 32; step *= 2) {
            sum.x += __shfl_xor_sync(0xffffffffu, sum.x, step);
            sum.y += __shfl_xor_sync(0xffffffffu, sum.y, step);
        }
        if (lane < 2) put_two(projected_words + block * 4 + 2 * lane, sum.x, sum.y, epoch);
    }

    // y of own channels, whose states move on: SCAN_LANES lanes a channel.
    __device__ __forceinline__ void scan(const MambaLayerParams& w, const Beside& beside, u32 epoch) {
        int channel = min(tid / SCAN_LANES, CHANNELS - 1), part = tid % SCAN_LANES, n = part * OWN_STATES;
        bool exists = tid / SCAN_LANES < CHANNELS;
        u32 dt[OWN_PAIRS];
        float a[OWN_STATES], h[OWN_STATES];
        const bf16* row = beside.dt + channel * RANK;
#pragma unroll
        for (int i = 0; i < OWN_PAIRS; ++i) {
            int k = part + i * SCAN_LANES;
            dt[i] = k < RANK / 2 ? *reinterpret_cast<const u32*>(row + 2 * k) : 0;
        }
#pragma unroll
        for (int i = 0; i < OWN_STATES; ++i) {
            a[i] = beside.a[channel * STATE + n + i] * LOG2_E;
            h[i] = beside.state[channel * STATE + n + i];
        }
        float bias = beside.dt_bias[channel], d = beside.d[channel], u = s.u[channel], gate = s.gate[channel];
        if (tid < PROJECTED / 2) {
            float2 words[1];
            take<1>(projected_words + 2 * tid, 1, 1, epoch, words);
            *reinterpret_cast<float2*>(&s.projected[2 * tid]) = words[0];
        }
        sync();
        float even = 0.0f, odd = 0.0f, y = 0.0f;
#pragma unroll
        for (int i = 0; i < OWN_PAIRS; ++i) {
            float2 low = *reinterpret_cast<const float2*>(&s.projected[2 * min(part + i * SCAN_LANES, RANK / 2 - 1)]);
            even = fmaf(low_f32(dt[i]), low.x, even), odd = fmaf(high_f32(dt[i]), low.y, odd);
        }
        float delta = softplus(warp_sum<SCAN_LANES>(even + odd) + bias);
        float* to = w.state + (first + channel) * STATE + n;
#pragma unroll
        for (int i = 0; i < OWN_STATES; ++i) {
            h[i] = fmaf(decay_of(delta, a[i]), h[i], delta * u * s.projected[RANK + n + i]);
            y = fmaf(s.projected[RANK + STATE + n + i], h[i], y);
        }
        y = fmaf(d, u, warp_sum<SCAN_LANES>(y)) * gate;
        if (!exists) return;
        if (part == 0) put(y_words + first + channel, y, epoch);
#pragma unroll
        for (int i = 0; i < OWN_STATES; ++i) to[i] = h[i];
    }

    __device__ __forceinline__ void read_y(u32 epoch) {
        constexpr int PAIRS = D_INNER / 2, COUNT = (PAIRS + THREADS - 1) / THREADS;
        float2 y[COUNT];
        int exist = (PAIRS - tid + THREADS - 1) / THREADS;
        if (exist <= 0) return;
        take<COUNT>(y_words + 2 * tid, THREADS, exist, epoch, y);
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (i < exist) *reinterpret_cast<u32*>(&s.x[2 * (tid + i * THREADS)]) = pack_bf16(y[i].x, y[i].y);
    }

    __device__ __forceinline__ void layer(const MambaLayersParams& p, Products& products, int l, u32 epoch) {
        const MambaLayerParams& w = p.layers[l];
        const Beside& beside = s.beside[l % 2];
        if (l + 1 < p.count) ask_beside(s.beside[(l + 1) % 2], p.layers[l + 1], first);
        float square = read_h(p, beside, l, epoch);
        sync();
        float taps[CONV], past[CONV - 1], bias = 0.0f;
        if (tid < CHANNELS) {
#pragma unroll
            for (int k = 0; k < CONV; ++k) taps[k] = beside.taps[tid * CONV + k];
#pragma unroll
            for (int k = 0; k + 1 < CONV; ++k) past[k] = beside.past[k * CHANNELS + tid];
            if (w.conv_bias) bias = beside.conv_bias[tid];
        }
        square = warp_sum(square);
        if (lane == 0) s.squares[warp] = square;
        products.add_up<IN_TILES, IN_PARTS>();
        sync();
        convolve(w, taps, past, bias);
        sync();
        project(beside, epoch);
        scan(w, beside, epoch);
        read_y(epoch);
        sync();
        products.add_up<OUT_TILES, OUT_PARTS>();
        copy_wait<0>();
        sync();
        if (tid >= ROWS) return;
        own_h += total(s, tid);
        if (l + 1 < p.count) put(h_words + first_row + tid, own_h, epoch);
        else p.h[first_row + tid] = own_h;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS + 32, 1) mamba_layers(const __grid_constant__ MambaLayersParams p) {
    extern __shared__ __align__(128) char memory[];
    Shared& s = *reinterpret_cast<Shared*>(memory);
    char* ring = memory + SHARED_BYTES;
    int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, block = blockIdx.x;
    int first = block * CHANNELS, first_row = block * ROWS;
    if (tid < DEPTH) {
        asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(in_shared(&s.full[tid])) : "memory");
        asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(in_shared(&s.empty[tid])), "n"(THREADS) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;" ::: "memory");
    __syncthreads();
    if (warp == WARPS) return ask_weights(s, ring, p, first, first_row);
    u32 epoch = *p.epoch;
    uint2* words = p.words;
    Block own{s, tid, warp, lane, block, first, first_row, words, words + D_MODEL, words + D_MODEL + D_INNER, words + D_MODEL + D_INNER + PROJECTED, 0.0f};
    if (tid < ROWS) own.own_h = p.h[first_row + tid];
    Products products{s, ring + lane / 4 * PITCH + warp * SHARE * 2 + lane % 4 * 16, warp, lane, 0, 0};
    ask_beside(s.beside[0], p.layers[0], first);
    copy_wait<0>();
    sync();
#pragma unroll 1
    for (int l = 0; l < p.count; ++l) {
        if (l + 1 == p.count) release_successor();
        own.layer(p, products, l, ++epoch);
    }
    // Everybody has read it: they have taken words of this launch.
    if (block == 0 && tid == 0) *p.epoch = epoch;
}
