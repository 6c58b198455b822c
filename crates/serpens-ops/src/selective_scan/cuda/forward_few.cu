// The selective scan, forward, where there are few channels: N up to 16, a real A.
//
// 16 lanes share a channel, with one state each. What takes long is then the chain of one channel's steps, and a
// multiprocessor has no more channels whose chains could fill the waits. So a block's 8 channels are 4 pairs, each of
// which two warps pass on to each other: while one takes its states through a CHUNK of steps, the other computes the
// decays and inputs of the steps that follow, which need no state, and <C, h> of those before. Four more warps, the
// helpers, prepare tiles of steps (δ, δu, B and C, in shared memory) and finish them (D u, gate, store). In forward.cu
// a warp keeps its channels from the first step to the last, which is better where there are enough of them; one kernel
// for both would have two recurrences and two kinds of barriers. What the two have in common lies in forward.cuh.
//
// Macros: IO, STATE (N); VEC: elements of u, Δ, z and y that one access may move, BC_VEC: those of B and C; GATED,
// SOFTPLUS, STARTS, HELD (the input): 0 or 1; SHARED_BYTES: at least the size of Shared. From the host too: CHANNELS,
// WARPS, HELPERS, TILE (steps) and BUFFERS.

constexpr int SPLIT = 16;
constexpr int PAIRS = CHANNELS / 2;
constexpr int HELPER_THREADS = 32 * HELPERS;
constexpr int WIDTH = TILE * CHANNELS / HELPER_THREADS;  // channels of one step that a helper takes
constexpr int SUM = 8;  // steps whose <C, h> are summed over the lanes together
// B and C of a state as the halves of one word.
constexpr bool PACKED = sizeof(IO) == 2;
// Tiles that are prepared before their turn; and tiles whose copies are under way before that, as many as there is
// shared memory for on every card, and buffers for these.
constexpr int AHEAD = BUFFERS - 1;
constexpr int COPIES = sizeof(IO) == 2 ? 3 : 1;
constexpr int RAW_BUFFERS = COPIES + 1;
// Of u and z, from the copy of tile t + AHEAD + COPIES to the end of tile t - 1.
constexpr int STAGES = AHEAD + COPIES + 2;
// Accesses to B or to C of a step, and to both of a tile for a helper.
constexpr int BC_ACCESSES = STATE / BC_VEC;
constexpr int BC_ITEMS = (TILE * BC_ACCESSES + HELPER_THREADS - 1) / HELPER_THREADS;
constexpr int Y_VEC = VEC < WIDTH ? VEC : WIDTH;

// For bf16 the tensor cores sum over lanes, which cut what they add to 11 bits; that is a quarter of the error of
// rounding y. They leave four parts of each sum. (They multiply what is not summed by zero: where a state is infinite
// or none, so are the sums of its pair of channels.)
constexpr bool TENSOR = sizeof(IO) == 2;
constexpr int Y_PARTS = TENSOR ? 4 : 1;
constexpr int Y_ROW = CHANNELS * Y_PARTS + (TENSOR ? 8 : 4);
constexpr int STEP_ROW = TILE + 2;
constexpr int BC_ROW = TILE + 4;
constexpr int BC_SIZE = SPLIT * BC_ROW + 32;

struct Shared {
    // As it comes from global memory.
    IO u[STAGES][TILE][CHANNELS];
    IO z[GATED ? STAGES : 1][TILE][CHANNELS];
    IO delta[RAW_BUFFERS][TILE][CHANNELS];
    IO raw_bc[RAW_BUFFERS][2][TILE][STATE];
    // What the helpers prepare: (δ, δu), and B and C of a state. Padded against conflicts of banks.
    float2 steps[BUFFERS][CHANNELS][STEP_ROW];
    float bc[BUFFERS][PACKED ? 1 : 2][BC_SIZE];
    float resets[BUFFERS][STARTS ? TILE : 4];
    // What they finish: <C, h>, the parts of a channel side by side.
    float y[BUFFERS][TILE * Y_ROW];
    float states[WARPS][32];  // for the warp that goes on with them
    u64 prepared[BUFFERS], done[BUFFERS];  // barriers
};

static_assert(sizeof(Shared) <= SHARED_BYTES, "the host asks for as much shared memory as this needs");

__device__ __forceinline__ constexpr int bc_place(int n) { return n * BC_ROW + n / 8 * 16; }

// ---- barriers -------------------------------------------------------------------------------------------------------

// Arrives there without waiting. Racecheck does not follow one warp's arrival to another's wait; for it RACECHECK makes
// both wait, which orders the same accesses by the same barriers.
__device__ __forceinline__ void announce(int number, int threads) {
#ifdef RACECHECK
    meet(number, threads);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
#endif
}

template <int COUNT> __device__ __forceinline__ int following(int number) { return number + 1 == COUNT ? 0 : number + 1; }

// A place in a ring of BUFFERS tiles.
struct Ring {
    int buffer = 0;
    u32 parity = 0;
    __device__ __forceinline__ void next() {
        buffer = following<BUFFERS>(buffer);
        if (buffer == 0) parity ^= 1;
    }
};

// ---- sums over the lanes of a channel -------------------------------------------------------------------------------

// d += a b on the tensor cores, with a of 16 x 8 and b of 8 x 8 values, cut to 11 bits, and sums in f32. Lane 4 r + l
// holds rows r and r + 8 of columns l (a[0], a[1]) and l + 4 (a[2], a[3]) of a, rows l and l + 4 of column r of b, and
// rows r (d[0], d[1]) and r + 8 (d[2], d[3]) of columns 2 l and 2 l + 1 of d.
__device__ __forceinline__ void mma(float (&d)[4], const float (&a)[4], float b0, float b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

// x, without that the compiler knows a constant: it would move that into place before each use.
__device__ __forceinline__ float unknown(float x) { return __shfl_xor_sync(0xffffffffu, x, 0); }

// Sums of SUM steps over the lanes of each channel.
//
// The tensor cores take the values of two steps as b: its columns are groups of four lanes, its rows two channels' two
// lanes of each step. a adds the lanes of a channel: row 2 t + c of d is step t of four and channel c of the two. A
// lane has two columns of d and adds them.
struct LaneSums {
    float picks[TENSOR ? 2 : 1][4];
    int lane;
    int place;  // of the first result in a tile of y of the warp

    __device__ __forceinline__ LaneSums() {
        lane = threadIdx.x % 32;
        if constexpr (TENSOR) {
            bool same_channel = lane % 2 == lane / 4 % 2;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                picks[i / 2][i % 2 * 2] = unknown(same_channel && lane / 8 == i ? 1.0f : 0.0f);
                picks[i / 2][i % 2 * 2 + 1] = unknown(0.0f);
            }
            place = lane / 8 * Y_ROW + lane / 4 % 2 * Y_PARTS + lane % 4;
        } else {
            place = lane / 2 % SUM * Y_ROW + lane % 2;
        }
    }
    __device__ __forceinline__ void put(float* y, float* x) const {
        if constexpr (TENSOR) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                mma(d, picks[0], x[4 * i], x[4 * i + 1]);
                mma(d, picks[1], x[4 * i + 2], x[4 * i + 3]);
                y[place + 4 * i * Y_ROW] = d[0] + d[1];
            }
        } else {
#pragma unroll
            for (int step = 2; step < 16; step *= 2) {
#pragma unroll
                for (int i = 0; i < SUM / step; ++i) x[i] = exchange(x[2 * i], x[2 * i + 1], step, lane & step);
            }
            float sum = x[0] + __shfl_xor_sync(0xffffffffu, x[0], 16);
            if (lane < 16) y[place] = sum;
        }
    }
};

// ---- the recurrence -------------------------------------------------------------------------------------------------

// One warp of a pair of channels: it has one of the two chunks of each tile. Lanes with the same parity share a
// channel. (So reads of B and C find neighbours at one address, which halves the passes of a 16-byte read of shared
// memory.)
struct Runner {
    const ScanParams& p;
    Shared& s;
    const LaneSums sums;
    int lane, pair, turn;
    int n;        // the state
    bool exists;  // the channel and the state
    float a;        // A log2 e
    float inverse;  // 1 / A, for inputs that are held
    float h;
    float* saved;  // null where no checkpoints are wanted
    float* h_last;

    __device__ __forceinline__ Runner(const ScanParams& p, const BlockPlace& at, Shared& s) : p(p), s(s) {
        lane = threadIdx.x % 32, pair = threadIdx.x / 32 % PAIRS, turn = threadIdx.x / 32 / PAIRS;
        n = lane / 2;
        int channel = 2 * pair + lane % 2;
        exists = channel < at.channels && n < STATE;
        i64 global = at.channel + (exists ? channel : 0);
        a = exists ? p.a[global * STATE + n] * LOG2_E : 0.0f;
        if constexpr (HELD) inverse = exists ? 1.0f / p.a[global * STATE + n] : 0.0f;
        i64 state = (at.batch * p.channels + global) * STATE + n;
        h = exists && p.initial ? p.initial[state] : 0.0f;
        saved = exists && p.checkpoints ? p.checkpoints + (at.batch * ((p.length + CHUNK - 1) / CHUNK) * p.channels + global) * STATE + n : nullptr;
        h_last = p.last + state;
    }

    // This warp's chunk of a tile, which is in a buffer.
    __device__ __forceinline__ void run_chunk(int tile, int buffer, bool last) {
        int first = CHUNK * turn;
        i64 chunk = 2 * (i64)tile + turn;
        float steps[2 * CHUNK], b[CHUNK], c[CHUNK], decays[CHUNK], x[CHUNK];
        load<2 * CHUNK>(&s.steps[buffer][2 * pair + lane % 2][first].x, steps);
        load<CHUNK>(&s.bc[buffer][0][bc_place(n) + first], b);
        if (!PACKED) load<CHUNK>(&s.bc[buffer][!PACKED][bc_place(n) + first], c);
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) {
            if (PACKED) c[i] = high_f32(__float_as_uint(b[i])), b[i] = low_f32(__float_as_uint(b[i]));
            decays[i] = decay_of(steps[2 * i], a, STARTS ? s.resets[buffer][STARTS ? first + i : 0] : EXP2_LIFT);
            if constexpr (HELD) {
                float delta = steps[2 * i], decay = STARTS ? decay_unlifted(delta, a) : decays[i];
                b[i] *= hold_of(delta, a, inverse, decay).weight;
            }
            x[i] = steps[2 * i + 1] * b[i];
        }
        if (chunk > 0) receive();
        if (saved && chunk * CHUNK < p.length) saved[chunk * p.channels * STATE] = h;
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) x[i] = h = fmaf(decays[i], h, x[i]);
        if (!last || turn == 0) send();
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) x[i] *= c[i];
#pragma unroll
        for (int i = 0; i < CHUNK; i += SUM) sums.put(&s.y[buffer][(first + i) * Y_ROW + 2 * pair * Y_PARTS], x + i);
    }
    // Takes the state over from the other warp of the pair, and gives it back. Each warp has a place of its own in
    // `states` and a barrier of its own: what is sent is stored before the sender arrives and read after the receiver's
    // wait. The place is written again only after the sender's own next wait, for which the receiver arrives when it
    // has computed, from what it read, the state that it sends.
    __device__ __forceinline__ void receive() {
        meet(2 + 2 * pair + turn, 64);
        h = s.states[2 * pair + turn][lane];
    }
    __device__ __forceinline__ void send() {
        s.states[2 * pair + 1 - turn][lane] = h;
        announce(2 + 2 * pair + 1 - turn, 64);
    }

    __device__ __forceinline__ void run(int tiles) {
        Ring ring;
        for (int tile = 0; tile < tiles; ++tile) {
            barrier_wait(&s.prepared[ring.buffer], ring.parity);
            run_chunk(tile, ring.buffer, tile + 1 == tiles);
            barrier_arrive(&s.done[ring.buffer]);
            ring.next();
        }
        if (turn == 1 && exists) *h_last = h;
    }
};

// ---- before and after it --------------------------------------------------------------------------------------------

// Copies COUNT elements, or as many zeros; asynchronously where they are at least the 4 bytes that this needs.
template <int COUNT> __device__ __forceinline__ void copy_elements(IO* to, const IO* from, bool exists) {
    constexpr int BYTES = COUNT * sizeof(IO);
    if constexpr (BYTES < 4)
        *to = exists ? *from : from_f32<IO>(0.0f);
    else
        copy_async_or_zero<BYTES>(to, from, exists);
}

// What a thread copies of a tile of rows, ACCESS elements at a time: its first, in the tile that comes next.
template <int COLUMNS, int ACCESS> struct Copy {
    static constexpr int ACCESSES = COLUMNS / ACCESS;
    const IO* from;
    i64 step;

    __device__ __forceinline__ Copy(const StepRows<const IO>& rows, int thread)
        : from(rows.at(thread / ACCESSES) + thread % ACCESSES * ACCESS), step(rows.step) {}

    // Starts the copy of a tile with `left` steps, with zeros for steps and columns that do not exist.
    __device__ __forceinline__ void next(IO (&to)[TILE][COLUMNS], int thread, int left, int columns) {
#pragma unroll
        for (int first = 0; first < TILE * ACCESSES; first += HELPER_THREADS) {
            int i = first + thread;
            int t = i / ACCESSES, column = i % ACCESSES * ACCESS;
            const IO* own = from + (t - thread / ACCESSES) * step + (column - thread % ACCESSES * ACCESS);
            if (TILE * ACCESSES % HELPER_THREADS == 0 || i < TILE * ACCESSES)
                copy_elements<ACCESS>(&to[t][column], own, t < left && column < columns);
        }
        from += TILE * step;
    }
};

struct Helper {
    const ScanParams& p;
    const BlockPlace& at;
    Shared& s;
    int thread;
    int tiles;
    int step, channel;  // within a tile and the block, of the WIDTH values that a thread prepares and finishes
    Copy<CHANNELS, VEC> u, delta, z;
    Copy<STATE, BC_VEC> b, c;
    IO* y;
    i64 y_step;
    float d[WIDTH], bias[WIDTH];

    __device__ __forceinline__ Helper(const ScanParams& p, const BlockPlace& at, Shared& s, int tiles)
        : p(p), at(at), s(s), thread(threadIdx.x - 32 * WARPS), tiles(tiles),
          u(StepRows<const IO>(p.u + at.channel, p.u_row, at, p), thread),
          delta(StepRows<const IO>(p.delta + at.channel, p.delta_row, at, p), thread),
          z(StepRows<const IO>(p.z + at.channel, p.z_row, at, p), thread),
          b(StepRows<const IO>(p.b + at.group * STATE, p.b_row, at, p), thread),
          c(StepRows<const IO>(p.c + at.group * STATE, p.c_row, at, p), thread) {
        step = thread / (CHANNELS / WIDTH);
        channel = thread % (CHANNELS / WIDTH) * WIDTH;
        StepRows<IO> rows(p.y + at.channel, p.y_row, at, p);
        y = rows.at(step) + channel;
        y_step = TILE * rows.step;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            int own = channel + j;
            d[j] = own < at.channels && p.d ? p.d[at.channel + own] : 0.0f;
            bias[j] = own < at.channels && p.delta_bias ? p.delta_bias[at.channel + own] : 0.0f;
        }
    }

    // These three are for a tile with `left` steps, which may be none, in a stage, a buffer for copies and one for what
    // is prepared.
    __device__ __forceinline__ void fetch(int stage, int raw, int left) {
        if (left > 0) {
            u.next(s.u[stage], thread, left, at.channels);
            delta.next(s.delta[raw], thread, left, at.channels);
            if (GATED) z.next(s.z[GATED ? stage : 0], thread, left, at.channels);
            b.next(s.raw_bc[raw][0], thread, left, STATE);
            c.next(s.raw_bc[raw][1], thread, left, STATE);
        }
        copy_commit();
    }

    // δ, δu, B and C of a tile. Steps behind the last leave the state as it is: δ = δu = B = C = 0.
    __device__ __forceinline__ void prepare(int stage, int raw, int buffer, int left) const {
        float us[WIDTH], deltas[WIDTH];
        load_values<WIDTH>(&s.u[stage][step][channel], us);
        load_values<WIDTH>(&s.delta[raw][step][channel], deltas);
        float2* to = &s.steps[buffer][channel][step];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            float x = deltas[j] + bias[j];
            x = SOFTPLUS ? step_size(x) : x;
            x = step < left ? x : 0.0f;
            to[j * STEP_ROW] = make_float2(x, HELD ? us[j] : x * us[j]);
        }
        prepare_bc(raw, buffer);
        if (STARTS) {
            for (int i = thread; i < TILE; i += HELPER_THREADS) s.resets[buffer][i] = reset(p, at, p.length - left + i);
        }
    }
    __device__ __forceinline__ void prepare_bc(int raw, int buffer) const {
#pragma unroll
        for (int item = 0; item < BC_ITEMS; ++item) {
            int i = item * HELPER_THREADS + thread, t = i / BC_ACCESSES, n = i % BC_ACCESSES * BC_VEC;
            if (TILE * BC_ACCESSES % HELPER_THREADS != 0 && t >= TILE) break;
            float bs[BC_VEC], cs[BC_VEC];
            load_values<BC_VEC>(&s.raw_bc[raw][0][t][n], bs);
            load_values<BC_VEC>(&s.raw_bc[raw][1][t][n], cs);
            float* to = &s.bc[buffer][0][bc_place(n) + t];
#pragma unroll
            for (int j = 0; j < BC_VEC; ++j) {
                to[j * BC_ROW] = PACKED ? packed(bs[j], cs[j]) : bs[j];
                if (!PACKED) to[j * BC_ROW + BC_SIZE] = cs[j];
            }
        }
    }
    // The upper halves of two floats in one.
    __device__ __forceinline__ static float packed(float low, float high) {
        return __uint_as_float(__byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632));
    }

    // y = (<C, h> + D u) silu(z) of a tile.
    __device__ __forceinline__ void finish(int stage, int buffer, int left) {
        float us[WIDTH], zs[WIDTH], ys[WIDTH], parts[WIDTH * Y_PARTS];
        load_values<WIDTH>(&s.u[stage][step][channel], us);
        load<WIDTH * Y_PARTS>(&s.y[buffer][step * Y_ROW + channel * Y_PARTS], parts);
        if (GATED) load_values<WIDTH>(&s.z[GATED ? stage : 0][step][channel], zs);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            ys[j] = fmaf(d[j], us[j], parts[j * Y_PARTS]);
#pragma unroll
            for (int k = 1; k < Y_PARTS; ++k) ys[j] += parts[j * Y_PARTS + k];
            if (GATED) ys[j] *= silu(zs[j]);
        }
#pragma unroll
        for (int j = 0; j < WIDTH; j += Y_VEC)
            if (step < left && channel + j < at.channels) {
                float values[Y_VEC];
#pragma unroll
                for (int k = 0; k < Y_VEC; ++k) values[k] = ys[j + k];
                store<Y_VEC>(y + j, values);
            }
        y += y_step;
    }

    // Tile by tile, AHEAD tiles before the states and one behind them.
    __device__ __forceinline__ void run() {
        int left = p.length;  // of the tile that is prepared
        for (int tile = 0; tile < COPIES; ++tile) fetch(tile, tile, left - tile * TILE);
        int fetched = COPIES, prepared = 0, finished = 0;  // stages
        int raw_fetched = COPIES, raw = 0, buffer = 0;
        Ring ring;  // of the tile that is finished
        for (int tile = -AHEAD; tile <= tiles; ++tile) {
            copy_wait<COPIES - 1>();
            meet(1, HELPER_THREADS);
            fetch(fetched, raw_fetched, left - COPIES * TILE);
            if (tile > 0) {
                barrier_wait(&s.done[ring.buffer], ring.parity);
                finish(finished, ring.buffer, left + (AHEAD + 1) * TILE);
                finished = following<STAGES>(finished);
                ring.next();
            }
            if (left > 0) {
                prepare(prepared, raw, buffer, left);
                barrier_arrive(&s.prepared[buffer]);
            }
            fetched = following<STAGES>(fetched), prepared = following<STAGES>(prepared);
            raw_fetched = following<RAW_BUFFERS>(raw_fetched), raw = following<RAW_BUFFERS>(raw);
            buffer = following<BUFFERS>(buffer);
            left -= TILE;
        }
    }
};

extern "C" __global__ void __launch_bounds__(32 * (WARPS + HELPERS), 1) selective_scan_forward_few(const __grid_constant__ ScanParams p) {
    extern __shared__ __align__(16) u8 memory[];
    Shared& s = *reinterpret_cast<Shared*>(memory);
    BlockPlace at = place<CHANNELS, false>(p);
    int tiles = (p.length + TILE - 1) / TILE;
    if constexpr (STATE < SPLIT) {
        float* bc = &s.bc[0][0][0];
        for (int i = threadIdx.x; i < (int)(sizeof(s.bc) / sizeof(float)); i += 32 * (WARPS + HELPERS)) bc[i] = 0.0f;
    }
    if (threadIdx.x == 0)
        for (int i = 0; i < BUFFERS; ++i) barrier_init(&s.prepared[i], 32 * HELPERS), barrier_init(&s.done[i], 32 * WARPS);
    __syncthreads();
    if (threadIdx.x < 32 * WARPS)
        Runner(p, at, s).run(tiles);
    else
        Helper(p, at, s, tiles).run();
}
