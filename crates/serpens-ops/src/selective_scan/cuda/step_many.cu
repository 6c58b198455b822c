// One position of many sequences, as mod.rs defines it, with Δ of low rank and activations in bf16. After packet.cuh
// and decay.cuh. What bounds it is memory, which needs many bytes under way and few instructions between them: a block
// has some channels of up to SLOTS slots, whose states are copied to shared memory AHEAD slots before they are used,
// where they take no registers. LANES lanes of a warp share a channel. What is of a slot and a channel but not of a
// state (Δ, softplus, the gate) is computed once: of LANES slots each lane has one of its own, and sends it to the
// others.
//
// Macros: IO and LOW (bf16: u, low, B, C, z, y; W_Δ), H (float or bf16: states), RANK (of W_Δ, a multiple of 8), STATE
// (N, a multiple of WIDTH), HELD (whether the input is; 0 or 1).

constexpr int LANES = 4;
constexpr int THREADS = 128;
constexpr int CHANNELS = THREADS / LANES;
constexpr int WARPS = THREADS / 32;
constexpr int SLOTS = 8;
constexpr int AHEAD = 4;
constexpr int WIDTH = 4;  // values of an access
constexpr int ACCESSES = (STATE + LANES * WIDTH - 1) / (LANES * WIDTH);
constexpr int BLOCKS = 6;  // of a multiprocessor: what registers there are for

// The first state of a lane's i-th access.
__device__ __forceinline__ int state_of(int lane, int i) { return (i * LANES + lane) * WIDTH; }

// ---- Δ = W low, before bias and softplus ---------------------------------------------------------------------------

// On the tensor cores, of the block's slots (as many again of the operand are zeros) and channels: warps share the rank
// out and leave their sums, which are added in order. A lane reads 8 bytes of a row as they lie: which value comes
// first in a product is the same for both operands, so it may be any.
struct Products {
    static constexpr int TILES = CHANNELS / 8, STEPS = (RANK + 16 * WARPS - 1) / (16 * WARPS);
    static constexpr int ROW = CHANNELS + 8;  // of sums, so that rows do not begin in the same banks
    uint2 weights[STEPS][TILES];
    int g, q, warp;

    __device__ __forceinline__ static uint2 words(const bf16* from, bool exists) {
        return exists ? *reinterpret_cast<const uint2*>(from) : make_uint2(0, 0);
    }
    __device__ __forceinline__ int input(int i) const { return 16 * (i * WARPS + warp) + 4 * q; }

    __device__ __forceinline__ Products(const ScanStepParams& p) {
        g = threadIdx.x % 32 / 4, q = threadIdx.x % 4, warp = threadIdx.x / 32;
#pragma unroll
        for (int i = 0; i < STEPS; ++i)
#pragma unroll
            for (int t = 0; t < TILES; ++t) {
                int channel = blockIdx.x * CHANNELS + 8 * t + g;
                bool exists = input(i) < RANK && channel < p.channels;
                weights[i][t] = words(p.weight + channel * p.weight_stride + input(i), exists);
            }
    }
    // d += a b for 8 slots (and 8 that are zeros), 8 channels and 16 of the rank.
    __device__ __forceinline__ static void multiply(float (&d)[4], uint2 a, uint2 b) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %6, %5, %6}, {%7, %8}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a.x), "r"(a.y), "r"(0), "r"(b.x), "r"(b.y));
    }
    // `low`: the first slot's.
    __device__ __forceinline__ void put(float* sums, const bf16* low, i64 stride, int count) const {
        uint2 x[STEPS];
#pragma unroll
        for (int i = 0; i < STEPS; ++i) x[i] = words(low + g * stride + input(i), input(i) < RANK && g < count);
        float d[TILES][4] = {};
#pragma unroll
        for (int i = 0; i < STEPS; ++i)
#pragma unroll
            for (int t = 0; t < TILES; ++t) multiply(d[t], x[i], weights[i][t]);
#pragma unroll
        for (int t = 0; t < TILES; ++t)
            *reinterpret_cast<float2*>(sums + (warp * SLOTS + g) * ROW + 8 * t + 2 * q) = make_float2(d[t][0], d[t][1]);
    }
    __device__ __forceinline__ static float sum(const float* sums, int slot, int channel) {
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) sum += sums[(warp * SLOTS + slot) * ROW + channel];
        return sum;
    }
};

// ---- what a block reads --------------------------------------------------------------------------------------------

// B or C of the block's slots.
__device__ __forceinline__ void stage(float (*to)[2][STATE], int which, const IO* rows, i64 stride, int count) {
    constexpr int PARTS = STATE / WIDTH;
    for (int i = threadIdx.x; i < count * PARTS; i += THREADS) {
        int slot = i / PARTS, n = i % PARTS * WIDTH;
        float x[WIDTH];
        load<WIDTH>(rows + slot * stride + n, x);
        store<WIDTH>(&to[slot][which][n], x);
    }
}

// States to the second-level cache, where they may be before kernels that are still at work have written others.
__device__ __forceinline__ void prefetch(const H* states, int count) {
#if __CUDA_ARCH__ >= 900
    size_t address = __cvta_generic_to_global(states);
    u32 bytes = count * sizeof(H);
    if (((address | bytes) & 15) == 0)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(bytes) : "memory");
#endif
}

// To where they are not read again before others have taken their place in the caches.
__device__ __forceinline__ void store_once(float* to, const float (&x)[WIDTH]) {
    __stcs(reinterpret_cast<float4*>(to), make_float4(x[0], x[1], x[2], x[3]));
}
__device__ __forceinline__ void store_once(bf16* to, const float (&x)[WIDTH]) { store<WIDTH>(to, x); }

// A thread's own places in shared memory for states of slots to come.
struct Ring {
    Packet<WIDTH, H>* own;

    __device__ __forceinline__ Packet<WIDTH, H>& place(int slot, int i) const {
        return own[(slot % AHEAD * ACCESSES + i) * THREADS];
    }
    __device__ __forceinline__ void fetch(const H* row, int slot, int lane, bool exists) const {
#pragma unroll
        for (int i = 0; i < ACCESSES; ++i) {
            int n = state_of(lane, i);
            if (exists && n < STATE) copy_async<WIDTH * sizeof(H)>(&place(slot, i), row + n);
        }
        copy_commit();
    }
};

// What a lane reads for its own slot.
struct Own {
    IO u, z;

    __device__ __forceinline__ void read(const ScanStepParams& p, int slot, int channel, bool exists) {
        u = exists ? p.u[slot * p.u_stride + channel] : IO();
        z = exists && p.z ? p.z[slot * p.z_stride + channel] : IO();
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    selective_scan_step_many(const __grid_constant__ ScanStepParams p) {
    __shared__ __align__(16) float bc[SLOTS][2][STATE];
    __shared__ __align__(16) float sums[WARPS * SLOTS * Products::ROW];
    __shared__ __align__(16) Packet<WIDTH, H> states[AHEAD * ACCESSES * THREADS];
    release_successor();
    int lane = threadIdx.x % LANES, of_block = threadIdx.x / LANES, first_channel = blockIdx.x * CHANNELS;
    bool exists = first_channel + of_block < p.channels;
    int channel = exists ? first_channel + of_block : p.channels - 1;  // those beyond take part in sums
    int from = blockIdx.y * p.slots_of_block, count = min(p.slots_of_block, p.slots - from);
    if (threadIdx.x < count) {
        const H* row = p.state + (from + threadIdx.x) * p.state_stride;
        prefetch(row + first_channel * (i64)STATE, min(CHANNELS, p.channels - first_channel) * STATE);
    }
    float a[ACCESSES][WIDTH] = {};
#pragma unroll
    for (int i = 0; i < ACCESSES; ++i)
        if (state_of(lane, i) < STATE) load<WIDTH>(p.a + channel * (i64)STATE + state_of(lane, i), a[i]);
    Products products(p);
    float bias = p.delta_bias ? p.delta_bias[channel] : 0.0f, d = p.d ? p.d[channel] : 0.0f;
    await_predecessors();
    Ring ring = {states + threadIdx.x};
    H* state = p.state + from * p.state_stride + channel * (i64)STATE;
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) ring.fetch(state + i * p.state_stride, i, lane, i < count);
    Own next;
    next.read(p, from + lane, channel, lane < count);
    stage(bc, 0, p.b + from * p.b_stride, p.b_stride, count);
    stage(bc, 1, p.c + from * p.c_stride, p.c_stride, count);
    products.put(sums, p.delta + from * p.delta_stride, p.delta_stride, count);
    __syncthreads();
#pragma unroll 1
    for (int first = 0; first < count; first += LANES) {
        Own own = next;
        int coming = first + LANES + lane;
        next.read(p, from + coming, channel, coming < count);
        float own_delta = softplus(Products::sum(sums, first + lane, of_block) + bias);
        float u = to_f32(own.u), own_input = HELD ? u : own_delta * u, y[LANES] = {};
#pragma unroll
        for (int s = 0; s < LANES; ++s) {
            int slot = first + s;
            float delta = __shfl_sync(0xffffffffu, own_delta, s, LANES);
            float input = __shfl_sync(0xffffffffu, own_input, s, LANES);
            copy_wait<AHEAD - 1>();
#pragma unroll
            for (int i = 0; i < ACCESSES; ++i) {
                int n = state_of(lane, i);
                if (n >= STATE || slot >= count) continue;
                float moved[WIDTH];
                const Packet<WIDTH, H>& h = ring.place(slot, i);
                Packet<WIDTH, float> b, c;
                b.read(&bc[slot][0][n]);
                c.read(&bc[slot][1][n]);
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) {
                    float decay = decay_of(delta, a[i][j] * LOG2_E), taken = input;
                    if constexpr (HELD) taken *= hold_of(delta, a[i][j] * LOG2_E, reciprocal(a[i][j]), decay).weight;
                    moved[j] = fmaf(decay, h[j], taken * b[j]);
                    y[s] = fmaf(c[j], moved[j], y[s]);
                }
                if (exists) store_once(state + n, moved);
            }
            ring.fetch(state + AHEAD * p.state_stride, slot, lane, slot + AHEAD < count);
            state += p.state_stride;
        }
        // The lane's own slot's sum over the lanes.
        bool upper = lane & 2;
        float sum = exchange(exchange(y[0], y[2], 2, upper), exchange(y[1], y[3], 2, upper), 1, lane & 1);
        sum = fmaf(d, u, sum);
        if (p.z) sum *= silu(to_f32(own.z));
        if (exists && first + lane < count) p.y[(from + first + lane) * p.y_stride + channel] = from_f32<IO>(sum);
    }
}
