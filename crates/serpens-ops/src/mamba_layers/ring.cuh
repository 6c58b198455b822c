// Of the kernels of mamba_layers: the block's share, and the ring in shared memory that its weights come through.
//
// Macros: D_MODEL, D_INNER, BLOCKS, WARPS (that compute), COLUMNS (inputs of a stage), DEPTH (stages of the ring),
// AHEAD (stages that are on their way at a time).

constexpr int THREADS = 32 * WARPS;
constexpr int CHANNELS = D_INNER / BLOCKS;  // of a block
constexpr int ROWS = D_MODEL / BLOCKS;      // of h, of a block
constexpr int IN_PARTS = D_MODEL / COLUMNS, OUT_PARTS = D_INNER / COLUMNS;
constexpr int SHARE = COLUMNS / WARPS;  // inputs of a warp of a stage

// Stages that are full, and that every thread has read.
struct Ring {
    u64 full[DEPTH], empty[DEPTH];

    __device__ __forceinline__ void init() {
        if (threadIdx.x < DEPTH) barrier_init(&full[threadIdx.x], 1), barrier_init(&empty[threadIdx.x], THREADS);
    }
};

// A place in the ring, that goes round.
struct Place {
    int stage = 0;
    u32 parity;
    __device__ __forceinline__ void next() {
        if (++stage == DEPTH) stage = 0, parity ^= 1;
    }
};

// Asks for what fills a stage.
struct Asking {
    Ring& ring;
    Place place, landed;
    int asked = 0;
    u64 policy;  // a token reads weights once: states and words stay in the L2

    __device__ __forceinline__ explicit Asking(Ring& ring) : ring(ring), place{0, 1}, landed{0, 0} {
        asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    }
    // Waits until the stage is empty and few others are on their way, and says how many bytes will fill it. With more
    // on their way memory is no faster, and what blocks tell each other queues behind them.
    __device__ __forceinline__ void begin(int bytes) {
        barrier_wait(&ring.empty[place.stage], place.parity);
        if (asked++ >= AHEAD) {
            barrier_wait(&ring.full[landed.stage], landed.parity);
            landed.next();
        }
        if (threadIdx.x % 32 == 0)
            asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(&ring.full[place.stage])), "r"(bytes) : "memory");
        __syncwarp();
    }
    __device__ __forceinline__ void copy(void* to, const void* from, int bytes) {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
                     ::"r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(&ring.full[place.stage])), "l"(policy) : "memory");
    }
};

// Has what a layer needs beside its large matrices brought to the L2, a part of it by each block: one thread asks.
__device__ __forceinline__ void prefetch(const void* from, int bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void prefetch_beside(const MambaLayerParams& w, int first) {
    constexpr int X_PART = (RANK + 2 * STATE) * CHANNELS;
    prefetch(w.x_proj + first / CHANNELS * X_PART, X_PART * 2);
    prefetch(w.dt_proj + first * RANK, CHANNELS * RANK * 2);
    prefetch(w.a + first * STATE, CHANNELS * STATE * 4);
    prefetch(w.state + first * STATE, CHANNELS * STATE * 4);
    prefetch(w.conv + first * CONV, CHANNELS * CONV * 4);
    if (first == 0) prefetch(w.norm, D_MODEL * 4);
}
