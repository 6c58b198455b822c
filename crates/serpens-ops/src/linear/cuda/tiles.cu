// The products of step.cuh for tens of rows of x and weights in bf16, on Hopper: rows of W are the first operand of
// wgmma, rows of x the second, both as tiles in shared memory that are read some tiles ahead. A block has OUTPUTS rows
// of W and ROWS of x; the SPLIT blocks of a cluster share the inputs out and add their sums in order, each for a part
// of the rows. Tiles of W are asked for ahead of the kernel before, whose results are then waited for.
//
// Macros: X, W (bf16), OUT (float or bf16: y), SCALES (unused), ACCUMULATE, CONV (as in step.cuh), ROWS (32, 64 or
// 128), GROUPS (of four warps, each with 64 outputs), SPLIT, STAGES (tiles in shared memory).

constexpr int INPUTS = 64;  // of a tile: rows of 128 bytes
constexpr int OUTPUTS = 64 * GROUPS, THREADS = 128 * GROUPS;
constexpr int TILE_BYTES = 128 * (ROWS + OUTPUTS), OF_W = 128 * ROWS;
constexpr int PART = ROWS < 64 ? ROWS : 64;  // rows of x of an instruction
constexpr int AHEAD = STAGES - 2;            // one tile is multiplied, the one before it may still be read
constexpr int PAST = CONV > 1 ? CONV - 1 : 1, TAPS = CONV ? CONV : 1;

// ---- tiles ---------------------------------------------------------------------------------------------------------

// Eight values of a row, as wgmma looks for them in tiles of 128-byte rows: the eight rows of 1,024 bytes have them in
// eight orders.
__device__ __forceinline__ u32 place(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

// One of the two matrices, from the first row of this block on. A thread has the same eight inputs of several rows.
struct Rows {
    const bf16* own;
    i64 stride;
    int count, inputs, k;

    __device__ __forceinline__ Rows(const bf16* first, i64 stride, int count, int inputs)
        : stride(stride), count(count), inputs(inputs), k(threadIdx.x % 8 * 8) {
        own = first + threadIdx.x / 8 * stride + k;
    }
    // COUNT rows of tile `t`; zeros where there are no more, or no more inputs.
    template <int COUNT> __device__ __forceinline__ void read(u32 tile, int t) const {
        constexpr int STEP = THREADS / 8;
        static_assert(COUNT % STEP == 0, "every thread has as many rows");
        bool exists = t * INPUTS + k < inputs;
        const bf16* from = own + (exists ? t * INPUTS : -k);
        int row = threadIdx.x / 8;
        u32 to = tile + place(row, threadIdx.x % 8);
#pragma unroll
        for (int i = 0; i < COUNT; i += STEP) {
            u32 bytes = exists && row + i < count ? 16 : 0;
            const bf16* source = bytes ? from + i * stride : from;
            asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to + i * 128), "l"(source), "r"(bytes) : "memory");
        }
    }
};

// ---- products ------------------------------------------------------------------------------------------------------

// Of 64 outputs or PART rows of x, 16 inputs each: groups of eight rows 1,024 bytes apart, in the order of `place`.
__device__ __forceinline__ u64 operand(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

#define EIGHT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SIXTEEN_NAMES "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"

// d += w xᵀ: of rows lane / 4 and 8 more of a warp's 16 outputs, and of neighbouring rows of x 8 i + 2 (lane % 4).
__device__ __forceinline__ void multiply(float (&d)[16], u64 w, u64 x) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" SIXTEEN_NAMES "}, %16, %17, 1, 1, 1, 0, 0;"
                 : EIGHT(0), EIGHT(8) : "l"(w), "l"(x));
}
__device__ __forceinline__ void multiply(float (&d)[32], u64 w, u64 x) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SIXTEEN_NAMES
                 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 0;"
                 : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24) : "l"(w), "l"(x));
}

struct Sums {
    float d[ROWS / PART][PART / 2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int part = 0; part < ROWS / PART; ++part)
#pragma unroll
            for (int i = 0; i < PART / 2; ++i) d[part][i] = 0.0f;
    }
    // Begins to add a tile's products.
    __device__ __forceinline__ void add(u32 tile) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        u64 w = operand(tile + OF_W + threadIdx.x / 128 * 64 * 128);
#pragma unroll
        for (int k = 0; k < INPUTS / 16; ++k)
#pragma unroll
            for (int part = 0; part < ROWS / PART; ++part) multiply(d[part], w + 2 * k, operand(tile + part * PART * 128) + 2 * k);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    }
    // Waits until at most LEFT tiles are still being multiplied.
    template <int LEFT> __device__ __forceinline__ void wait() {
        asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
    }
    // (ROWS, OUTPUTS), so many floats from row to row that no two threads write to the same bank.
    static constexpr int STRIDE = OUTPUTS + 4;
    __device__ __forceinline__ void put(float* to) {
        int lane = threadIdx.x % 32, output = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
        for (int part = 0; part < ROWS / PART; ++part)
#pragma unroll
            for (int i = 0; i < PART / 2; ++i) {
                asm volatile("" : "+f"(d[part][i]));  // not read before the wait
                int row = part * PART + i / 4 * 8 + lane % 4 * 2 + i % 2;
                to[row * STRIDE + output + i / 2 % 2 * 8] = d[part][i];
            }
    }
};

// ---- what becomes of the sums --------------------------------------------------------------------------------------

__device__ __forceinline__ void meet() {
    if (SPLIT > 1)
        asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
    else
        __syncthreads();
}

// Four sums of block `part` of the cluster.
__device__ __forceinline__ float4 of_block(const float* here, int part) {
    if (SPLIT == 1) return *reinterpret_cast<const float4*>(here);
    u32 there;
    float4 x;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"((u32)__cvta_generic_to_shared(here)), "r"(part));
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(there) : "memory");
    return x;
}

constexpr int FOURS = ROWS * OUTPUTS / 4 / SPLIT;  // results of a block, four at a time

// The `i`-th four results of a block.
struct Four {
    const LinearStepParams& p;
    int row, column, slot, output;
    bool exists, convolved;

    __device__ __forceinline__ Four(const LinearStepParams& p, int i) : p(p) {
        i += blockIdx.z * FOURS;
        row = i / (OUTPUTS / 4), column = i % (OUTPUTS / 4) * 4;
        slot = blockIdx.x * ROWS + row, output = blockIdx.y * OUTPUTS + column;
        exists = slot < p.slots && output < p.outputs;
        convolved = CONV && exists && output < p.conv.channels;
    }
    __device__ __forceinline__ float* state(int k) const {
        return p.conv.state + slot * p.conv.state_stride + (i64)k * p.conv.channels + output;
    }
    __device__ __forceinline__ void prefetch() const {
        if (!convolved || column % 32) return;  // a line
#pragma unroll
        for (int k = 0; k + 1 < CONV; ++k) asm volatile("prefetch.global.L2 [%0];" ::"l"(state(k)));
    }
    __device__ __forceinline__ void finish(const float* sums) const {
        if (!exists) return;
        float y[4] = {0.0f, 0.0f, 0.0f, 0.0f}, before[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        float past[PAST][4];
        if (convolved) {
#pragma unroll
            for (int k = 0; k + 1 < CONV; ++k) load(state(k), past[k]);
        }
        if (ACCUMULATE) load(p.y + slot * p.y_stride + output, before);
#pragma unroll
        for (int part = 0; part < SPLIT; ++part) {
            float4 sum = of_block(sums + row * Sums::STRIDE + column, part);
            y[0] += sum.x, y[1] += sum.y, y[2] += sum.z, y[3] += sum.w;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) y[j] += (p.bias ? p.bias[output + j] : 0.0f) + before[j];
        if (convolved)
            convolve(y, past);
        else
            store(p.y + slot * p.y_stride + output, y);
    }
    __device__ __forceinline__ void convolve(float (&x)[4], float (&past)[PAST][4]) const {
        float taps[4 * TAPS], u[4];
        load(p.conv.weight + (i64)output * TAPS, taps);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            x[j] = to_f32(from_f32<OUT>(x[j]));
            float sum = p.conv.bias ? p.conv.bias[output + j] : 0.0f;
#pragma unroll
            for (int k = 0; k + 1 < CONV; ++k) sum = fmaf(taps[j * TAPS + k], past[k][j], sum);
            sum = fmaf(taps[j * TAPS + TAPS - 1], x[j], sum);
            u[j] = p.conv.silu ? silu(sum) : sum;
        }
#pragma unroll
        for (int k = 0; k + 1 < CONV; ++k) store(state(k), k + 2 < CONV ? past[k + 1] : x);
        store(p.conv.u + slot * p.conv.u_stride + output, u);
    }
};

#if SPLIT > 1
#define OF_CLUSTER __cluster_dims__(1, 1, SPLIT)
#else
#define OF_CLUSTER
#endif

extern "C" __global__ void OF_CLUSTER __launch_bounds__(THREADS, 1) linear_tiles(const __grid_constant__ LinearStepParams p) {
    extern __shared__ __align__(1024) u8 memory[];
    release_successor();
    int first_row = blockIdx.x * ROWS, first = blockIdx.y * OUTPUTS;
    Rows w(p.weight + first * p.weight_stride, p.weight_stride, p.outputs - first, p.inputs);
    Rows x(p.x + first_row * p.x_stride, p.x_stride, p.slots - first_row, p.inputs);
    int tiles = (p.inputs + INPUTS - 1) / INPUTS, from = tiles * blockIdx.z / SPLIT, to = tiles * (blockIdx.z + 1) / SPLIT;
    // wgmma's order of rows goes by addresses.
    u32 unaligned = (u32)__cvta_generic_to_shared(memory), base = (unaligned + 1023) & ~1023u;
    float* all_sums = reinterpret_cast<float*>(memory + (base - unaligned));
    auto tile = [&](int t) { return base + (u32)((t - from) % STAGES) * TILE_BYTES; };
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
        if (from + i < to) w.read<OUTPUTS>(tile(from + i) + OF_W, from + i);
    for (int i = threadIdx.x; CONV && i < FOURS; i += THREADS) Four(p, i).prefetch();
    await_predecessors();
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
        if (from + i < to) x.read<ROWS>(tile(from + i), from + i);
        copy_commit();
    }
    Sums sums;
    sums.clear();
    for (int t = from; t < to; ++t) {
        copy_wait<AHEAD - 1>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        sums.add(tile(t));
        // All have multiplied the tile before the last: its place is free.
        int next = t + AHEAD;
        if (next < to) w.read<OUTPUTS>(tile(next) + OF_W, next), x.read<ROWS>(tile(next), next);
        copy_commit();
        sums.wait<1>();
    }
    sums.wait<0>();
    __syncthreads();
    sums.put(all_sums);
    meet();
#pragma unroll 2
    for (int i = threadIdx.x; i < FOURS; i += THREADS) Four(p, i).finish(all_sums);
    if (SPLIT > 1) meet();  // others read from this block until here
}
