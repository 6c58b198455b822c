// One token of one sequence through many Mamba layers, as mod.rs defines it: one block a multiprocessor, all at work
// together, each with its share of the channels and of the rows of every matrix.
//
// A last warp asks for the block's rows of W_in and W_out (TMA), stage after stage, as soon as there is room in a ring
// in shared memory (ring.cuh): weights depend on nothing, so the memory stays at work while the other warps wait for
// other blocks. The warp before it copies what else a layer needs. What blocks exchange are words of a value, or two of
// bf16, and the epoch (the layer of the token) that it is of: a reader asks until all have the epoch that it is at, so
// there is no barrier and no fence, and a word costs one way to the L2 and back.
//
// A layer: h (all) -> x, z of own channels -> u of own channels -> own channels' part of W_x u -> (blocks add parts up)
// W_x u (all) -> y of own channels -> y (all) -> own rows of h. Nobody writes words of the next layer before everybody
// has read those of this one, since each of the exchanges waits for all blocks.
//
// How W_in and W_out are multiplied stands in rows.cuh (bf16) and blocks.cuh (8 and 4 bits).
//
// Macros: WEIGHT (BF16_WEIGHT, Q8_0_WEIGHT, Q4_0_WEIGHT); D_MODEL, D_INNER, RANK, STATE, CONV; those of ring.cuh;
// SCAN_LANES (lanes that share a channel's states), SHARED_BYTES (before the ring).

constexpr int PROJECTED = RANK + 2 * STATE;
// Values from row to row of W_x, padded so that eight rows lie in different banks.
constexpr int X_PITCH = CHANNELS % 8 ? CHANNELS : CHANNELS + 8;
constexpr int OWN_STATES = STATE / SCAN_LANES, OWN_PAIRS = (RANK / 2 + SCAN_LANES - 1) / SCAN_LANES;
static_assert(STATE % SCAN_LANES == 0 && CHANNELS % 4 == 0 && RANK % 2 == 0, "");
static_assert(PROJECTED % 4 == 0 && PROJECTED / 4 <= BLOCKS && BLOCKS % 16 == 0, "");
static_assert(CHANNELS * SCAN_LANES <= THREADS && PROJECTED <= THREADS && ROWS <= THREADS, "");

// ---- words that blocks exchange -------------------------------------------------------------------------------------

// Aligned accesses of eight bytes, or sixteen, are made at once on every card: a value is never seen without its epoch.
__device__ __forceinline__ void put(uint2* to, u32 bits, u32 epoch) {
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(bits), "r"(epoch) : "memory");
}
__device__ __forceinline__ void put(uint2* to, float x, u32 epoch) { put(to, __float_as_uint(x), epoch); }
__device__ __forceinline__ void put_two(uint2* to, float x, float y, u32 epoch) {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %2};"
                 ::"l"(to), "r"(__float_as_uint(x)), "r"(epoch), "r"(__float_as_uint(y)) : "memory");
}
// COUNT pairs of words from each of PLANES, `plane` words apart, the i-th at 2 i `stride`, for i below `exist`; the
// others are some of these again.
template <int COUNT, int PLANES> __device__ __forceinline__ void take(const uint2* from, int plane, int stride, int exist, u32 epoch, uint2 (&to)[COUNT][PLANES]) {
    uint4 words[COUNT][PLANES];
    bool missing;
    do {
        missing = false;
#pragma unroll
        for (int i = 0; i < COUNT * PLANES; ++i) {
            uint4& word = words[i / PLANES][i % PLANES];
            const uint2* at = from + i % PLANES * plane + 2 * (i / PLANES < exist ? i / PLANES : 0) * stride;
            asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w) : "l"(at) : "memory");
        }
#pragma unroll
        for (int i = 0; i < COUNT * PLANES; ++i) missing |= words[i / PLANES][i % PLANES].y != epoch || words[i / PLANES][i % PLANES].w != epoch;
    } while (missing);
#pragma unroll
    for (int i = 0; i < COUNT * PLANES; ++i) to[i / PLANES][i % PLANES] = make_uint2(words[i / PLANES][i % PLANES].x, words[i / PLANES][i % PLANES].z);
}
__device__ __forceinline__ float2 floats(uint2 bits) { return make_float2(__uint_as_float(bits.x), __uint_as_float(bits.y)); }

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
    Beside beside;  // of this layer, and from y on of the next
    u64 copied, read;
    Ring ring;
    Inputs inputs;
    float squares[(WARPS + 3) / 4 * 4];
    float sums[WARPS * SUMS];
    float u[CHANNELS], gate[CHANNELS];
    float projected[PROJECTED];
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "");

// Of the warps that compute.
__device__ __forceinline__ void sync() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

// COUNT rows of BYTES, `stride` bytes apart, to rows PITCHED bytes apart, by a warp.
template <int COUNT, int BYTES, int PITCHED> __device__ __forceinline__ void copy_rows(void* to, const void* from, int stride) {
    constexpr int PIECE = BYTES % 16 == 0 ? 16 : 8, PIECES = BYTES / PIECE;
    static_assert(BYTES % PIECE == 0, "");
    for (int i = threadIdx.x % 32; i < COUNT * PIECES; i += 32)
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
}

// The last warp but one: what a layer needs beside, as soon as nobody needs that of the layer before. Were it asked for
// by those who wait for words, these would queue behind it.
__device__ void copy_beside(Shared& s, const MambaLayersParams& p, int first) {
#pragma unroll 1
    for (int l = 0; l < p.count; ++l) {
        if (l > 0) barrier_wait(&s.read, (l - 1) % 2);
        ask_beside(s.beside, p.layers[l], first);
        asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(&s.copied)) : "memory");
        if (threadIdx.x % 32 == 0 && l + 1 < p.count) prefetch_beside(p.layers[l + 1], first);
    }
}

__device__ __forceinline__ float total(const Shared& s, int output) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) sum += s.sums[i * SUMS + output];
    return sum;
}

// ---- a layer --------------------------------------------------------------------------------------------------------

struct Block {
    Shared& s;
    int tid, warp, lane, block, first, first_row;
    uint2 *h_words, *y_words, *projected_words, *parts;  // the last (PROJECTED / 4, BLOCKS, 4)
    float own_h;

    // norm(h) / rstd to s.inputs, and what a warp has of the sum of squares.
    __device__ __forceinline__ float read_h(const MambaLayersParams& p, const Beside& beside, int l, u32 epoch) {
        constexpr int FOURS = D_MODEL / 4, COUNT = (FOURS + THREADS - 1) / THREADS;
        float4 h[COUNT];
        int exist = (FOURS - tid + THREADS - 1) / THREADS;
        if (exist <= 0) return 0.0f;
        if (l == 0) {
#pragma unroll
            for (int i = 0; i < COUNT; ++i) h[i] = reinterpret_cast<const float4*>(p.h)[tid + (i < exist ? i : 0) * THREADS];
        } else {
            uint2 words[COUNT][2];
            take(h_words + 2 * tid, D_MODEL / 2, THREADS, exist, epoch - 1, words);
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                float2 low = floats(words[i][0]), high = floats(words[i][1]);
                h[i] = make_float4(low.x, low.y, high.x, high.y);
            }
        }
        float square = 0.0f;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            float4 w = reinterpret_cast<const float4*>(beside.norm)[tid + (i < exist ? i : 0) * THREADS];
            if (i < exist) square = fmaf(h[i].x, h[i].x, fmaf(h[i].y, h[i].y, fmaf(h[i].z, h[i].z, fmaf(h[i].w, h[i].w, square))));
            h[i] = make_float4(h[i].x * w.x, h[i].y * w.y, h[i].z * w.z, h[i].w * w.w);
        }
        s.inputs.put(exist, h);
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
            s.gate[channel] = silu(total(s, Z_SUM + first_sum(first) + channel) * rstd);
            return;
        }
        float x = total(s, first_sum(first) + channel) * rstd, sum = bias;
#pragma unroll
        for (int k = 0; k + 1 < CONV; ++k) sum = fmaf(taps[k], past[k], sum);
        s.u[channel] = silu(fmaf(taps[CONV - 1], x, sum));
        if (GATES < CHANNELS) s.gate[channel] = silu(total(s, Z_SUM + first_sum(first) + channel) * rstd);
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
        uint2 part[COUNT][1];
        float2 sum = make_float2(0.0f, 0.0f);
        take(parts + block * BLOCKS * 4 + 2 * lane, 0, 32, COUNT, epoch, part);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) sum.x += floats(part[i][0]).x, sum.y += floats(part[i][0]).y;
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
            uint2 words[1][1];
            take(projected_words + 2 * tid, 0, 0, 1, epoch, words);
            *reinterpret_cast<uint2*>(&s.projected[2 * tid]) = words[0][0];
        }
        barrier_arrive(&s.read);
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
        float next = __shfl_down_sync(0xffffffffu, y, SCAN_LANES);  // of the next channel
        if (!exists) return;
        if (part == 0 && channel % 2 == 0) put(y_words + (first + channel) / 2, pack_bf16(y, next), epoch);
#pragma unroll
        for (int i = 0; i < OWN_STATES; ++i) to[i] = h[i];
    }

    __device__ __forceinline__ void read_y(u32 epoch) {
        constexpr int FOURS = D_INNER / 4, COUNT = (FOURS + THREADS - 1) / THREADS;
        float4 y[COUNT];
        uint2 words[COUNT][1];
        int exist = (FOURS - tid + THREADS - 1) / THREADS;
        if (exist <= 0) return;
        take(y_words + 2 * tid, 0, THREADS, exist, epoch, words);
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            y[i] = make_float4(low_f32(words[i][0].x), high_f32(words[i][0].x), low_f32(words[i][0].y), high_f32(words[i][0].y));
        s.inputs.put(exist, y);
    }

    __device__ __forceinline__ void layer(const MambaLayersParams& p, Products& products, int l, u32 epoch) {
        const MambaLayerParams& w = p.layers[l];
        const Beside& beside = s.beside;
        barrier_wait(&s.copied, l % 2);
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
        products.add_up<IN_PANELS, IN_PARTS>();
        sync();
        convolve(w, taps, past, bias);
        sync();
        project(beside, epoch);
        scan(w, beside, epoch);
        read_y(epoch);
        sync();
        products.add_up<OUT_PANELS, OUT_PARTS>();
        sync();
        if (tid < ROWS) {
            own_h += total(s, first_sum(first_row) + tid);
            int row = first_row + tid;
            // The first two of every four, then the others: neighbours read four each.
            if (l + 1 < p.count) put(h_words + row % 4 / 2 * (D_MODEL / 2) + row / 4 * 2 + row % 2, own_h, epoch);
            else p.h[row] = own_h;
        }
        sync();
    }
};

extern "C" __global__ void __launch_bounds__(THREADS + 64, 1) mamba_layers(const __grid_constant__ MambaLayersParams p) {
    extern __shared__ __align__(128) char memory[];
    Shared& s = *reinterpret_cast<Shared*>(memory);
    char* stages = memory + SHARED_BYTES;
    int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, block = blockIdx.x;
    int first = block * CHANNELS, first_row = block * ROWS;
    s.ring.init();
    if (tid == 0) barrier_init(&s.copied, 32), barrier_init(&s.read, THREADS);
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;" ::: "memory");
    __syncthreads();
    if (warp == WARPS) return copy_beside(s, p, first);
    if (warp > WARPS) return ask_weights(s.ring, stages, p, first, first_row);
    u32 epoch = *p.epoch;
    uint2* words = p.words;
    Block own{s, tid, warp, lane, block, first, first_row, words, words + D_MODEL, words + D_MODEL + D_INNER / 2, words + D_MODEL + D_INNER / 2 + PROJECTED, 0.0f};
    if (tid < ROWS) own.own_h = p.h[first_row + tid];
    Products products(s.ring, s.inputs, s.sums, stages);
#pragma unroll 1
    for (int l = 0; l < p.count; ++l) {
        if (l + 1 == p.count) release_successor();
        own.layer(p, products, l, ++epoch);
    }
    // Everybody has read it: they have taken words of this launch.
    if (block == 0 && tid == 0) *p.epoch = epoch;
}
