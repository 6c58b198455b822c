// The selective scan, forward.
//
// SPLIT neighbouring lanes share a channel and hold PER_LANE of its states each, in registers, from the first step to
// the last. A block has two kinds of warps. WARPS of them run the recurrence of CHANNELS channels, TILE steps at a
// time, and do nothing else. HELPERS of them prepare the tile that comes next (δ, δu, B and C as f32, in shared memory)
// and finish the one before (D u, gate, store), so that neither the loads nor the logarithms of softplus nor the gate
// stand in the way of the recurrence.
//
// Where channels are so few that 16 lanes share one, forward_few.cu is the better kernel for a real A. What both share
// lies in forward.cuh.
//
// Long sequences of few channels are cut into segments of time: a pass over all of them but the last that computes
// nothing but what they leave behind from an empty state, then what that makes of the states before them, then the scan
// over all at once. What flows back into the segments of the backward scan is the same with time reversed, C for B and
// the gradient g before the gate for δu: carry = decay (carry + g C).
//
// Macros: IO, STATE (N), SPLIT, PER_LANE, WARPS, HELPERS, TILE, STAGES; BLOCKS: that a multiprocessor must hold; WIDTH:
// channels of one step that a helper takes at once; VEC: elements of u, Δ, z and y that one access may move, BC_VEC:
// those of B and C; COMPLEX (A, and with it B, C and the state), GATED, SOFTPLUS, STARTS, HELD (the input, of a real
// A): 0 or 1; PASS: 0 the scan, 1 what segments leave behind, 2 what flows back out of them (u is then the gradient of
// y, b is C), both for a real A; SHARED_BYTES: at least the size of Shared.

constexpr bool SCAN = PASS == 0, BACK = PASS == 2;
constexpr bool HAS_Z = GATED && PASS != 1;
constexpr int WARP_CHANNELS = 32 / SPLIT;
constexpr int CHANNELS = WARPS * WARP_CHANNELS;
constexpr int HELPER_THREADS = 32 * HELPERS, THREADS = 32 * WARPS + HELPER_THREADS;
// Runs of WIDTH channels in a tile, and of BC_VEC values of B and C, that each helper takes.
constexpr int ITEMS = TILE * (CHANNELS / WIDTH) / HELPER_THREADS;
constexpr int PARTS = COMPLEX ? 2 : 1;  // floats of a number
constexpr int VALUES = PARTS * STATE;   // floats of a state, and values of B and of C
constexpr int LANE_VALUES = PARTS * PER_LANE;
// Steps whose B and C a lane loads together, 16 bytes at least.
constexpr int GROUP = PER_LANE > 2 ? 2 : 4 / PER_LANE;
constexpr int BC_PER_STEP = 2 * VALUES / BC_VEC;
constexpr int BC_ITEMS = (TILE * BC_PER_STEP + HELPER_THREADS - 1) / HELPER_THREADS;
// A tile's copy is under way while the helpers prepare one of AHEAD tiles before it; u and z stay until the tile is
// finished.
constexpr int AHEAD = STAGES - 3;
static_assert(ITEMS * HELPER_THREADS * WIDTH == TILE * CHANNELS, "the helpers share a tile evenly");
static_assert(CHUNK % TILE == 0 || TILE % CHUNK == 0, "checkpoints lie at the start of tiles or of parts of them");

constexpr int Y_ROW = CHANNELS + 4;

struct Shared {
    // What helpers copy from global memory for themselves alone.
    IO u[STAGES][ITEMS][HELPER_THREADS][WIDTH];
    IO delta[STAGES][ITEMS][HELPER_THREADS][WIDTH];
    IO z[HAS_Z ? STAGES : 1][ITEMS][HELPER_THREADS][WIDTH];
    IO bc[STAGES][BC_ITEMS][HELPER_THREADS][BC_VEC];
    // What they prepare: (δ, δu), (δ, u) where it is held, or (δ, g), and B and C with the states of a lane side by
    // side. Padded against conflicts of banks.
    float2 steps[2][CHANNELS * (TILE + 2) + (CHANNELS + 7) / 8 * 4];
    float bc_f32[2][2][SPLIT][TILE * LANE_VALUES + 4];
    float resets[2][STARTS ? TILE : 4];
    // What they finish: <C, h>, in one part for each lane of a channel.
    float y[2][SPLIT][TILE * Y_ROW + (WARP_CHANNELS > 4 ? WARP_CHANNELS : 4)];
};

static_assert(sizeof(Shared) <= SHARED_BYTES, "the host asks for as much shared memory as this needs");

// Where the first step of a channel lies in `steps`.
__device__ __forceinline__ constexpr int first_step(int channel) { return channel * (TILE + 2) + channel / 8 * 4; }

// ---- the recurrence -------------------------------------------------------------------------------------------------

// Lanes of one channel are told apart by `part`. Neighbours (lane ^ 1) share a part and lane ^ 2 a channel, so that
// reads of B and C as well as of δ find pairs of lanes at one address, which halves the passes of a 16-byte read of
// shared memory.
__device__ __forceinline__ int lane_channel(int lane) {
    return SPLIT == 1 ? lane : SPLIT == 32 ? 0 : (lane & 1) | ((lane >> 2 & (WARP_CHANNELS / 2 - 1)) << 1);
}
__device__ __forceinline__ int lane_part(int lane) {
    return SPLIT == 1 ? 0 : SPLIT == 32 ? lane : (lane >> 1 & 1) | (lane / (2 * WARP_CHANNELS) << 1);
}
// A lane's part of A, the real part times log2 e.
struct Exponents {
    float re[PER_LANE];
    Turns im[COMPLEX ? PER_LANE : 1];
    float inverse[HELD ? PER_LANE : 1];  // 1 / A
};

// exp(δ A) for the numbers of a lane at the steps of a group; `resets` is what is added to the exponent: EXP2_LIFT, or
// EXP2_NONE where the state starts anew. And the weights of inputs that are held.
struct Decays {
    float re[GROUP][PER_LANE], im[COMPLEX ? GROUP : 1][PER_LANE], holds[HELD ? GROUP : 1][PER_LANE];

    __device__ __forceinline__ void set(const Exponents& a, const float (&steps)[2 * GROUP], const float* resets) {
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            float delta = steps[2 * i];
#pragma unroll
            for (int j = 0; j < PER_LANE; ++j) {
                re[i][j] = decay_of(delta, a.re[j], STARTS ? resets[i] : EXP2_LIFT);
                if constexpr (COMPLEX) turn(delta, a.im[j], re[i][j], re[i][j], im[i][j]);
                if constexpr (HELD) {
                    float decay = STARTS ? decay_unlifted(delta, a.re[j]) : re[i][j];
                    holds[i][j] = hold_of(delta, a.re[j], a.inverse[j], decay).weight;
                }
            }
        }
    }
};

typedef float State[PARTS][PER_LANE];

// One step: h = decay h + δu B, with a weight for δ where u is held, or back decay (h + g C); the result is the lane's
// part of Re <C, h>, twice that for the pairs that complex numbers stand for.
__device__ __forceinline__ float advance(State& h, const Decays& decays, int i, float input, const float* b, const float* c) {
    float y = 0.0f;
#pragma unroll
    for (int j = 0; j < PER_LANE; ++j) {
        float decay = decays.re[i][j], re = h[0][j];
        if constexpr (COMPLEX) {
            float decay_im = decays.im[i][j], im = h[1][j];
            h[0][j] = fmaf(decay, re, fmaf(-decay_im, im, input * b[j]));
            h[1][j] = fmaf(decay, im, fmaf(decay_im, re, input * b[PER_LANE + j]));
            y = fmaf(c[j], h[0][j], fmaf(-c[PER_LANE + j], h[1][j], y));
        } else if constexpr (BACK) {
            h[0][j] = decay * fmaf(input, b[j], re);
        } else {
            float taken = input;
            if constexpr (HELD) taken *= decays.holds[i][j];
            h[0][j] = fmaf(decay, re, taken * b[j]);
            if (SCAN) y = fmaf(c[j], h[0][j], y);
        }
    }
    return COMPLEX ? 2.0f * y : y;
}

__device__ __forceinline__ void save_states(float* to, const State& h, int first) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        float* values = to + part * STATE + first;
        if constexpr (STATE == SPLIT * PER_LANE) {
            store<PER_LANE>(values, h[part]);
        } else {
#pragma unroll
            for (int j = 0; j < PER_LANE; ++j)
                if (first + j < STATE) values[j] = h[part][j];
        }
    }
}

// Σ δ where the state starts anew.
__device__ __forceinline__ float infinite() { return __int_as_float(0x7f800000); }

// Between two tiles, where the warps of both kinds wait for each other, each kind in a place of its own.
__device__ __forceinline__ void meet_at_tile() { meet(1, THREADS); }

__device__ __forceinline__ void run_states(const ScanParams& p, const BlockPlace& at, Shared& s, int tiles) {
    int lane = threadIdx.x % 32;
    int part = lane_part(lane);
    int channel = threadIdx.x / 32 * WARP_CHANNELS + lane_channel(lane);
    bool exists = channel < at.channels;
    i64 global = at.channel + (exists ? channel : 0);
    i64 slot = at.segment * p.batch + at.batch;
    const float* before = !SCAN ? nullptr : p.segments.count > 1 ? p.carry + slot * p.channels * VALUES
                          : p.initial ? p.initial + at.batch * p.channels * VALUES : nullptr;
    Exponents a;
    State h;
    float delta_sum = 0.0f;
    bool anew = false;
#pragma unroll
    for (int j = 0; j < PER_LANE; ++j) {
        int n = part * PER_LANE + j;
        bool state = n < STATE;
        i64 from = global * VALUES + n;
        a.re[j] = state ? p.a[global * STATE + n] * LOG2_E : 0.0f;
        if constexpr (HELD) a.inverse[j] = state ? 1.0f / p.a[global * STATE + n] : 0.0f;
        h[0][j] = state && before ? before[from] : 0.0f;
        if constexpr (COMPLEX) {
            a.im[j] = turns(state ? p.a_im[global * STATE + n] : 0.0f);
            h[PARTS - 1][j] = state && before ? before[from + STATE] : 0.0f;
        }
    }
    i64 first_saved = at.batch * ((p.length + CHUNK - 1) / CHUNK) + first_chunk(p.segments, at.segment), chunk = (i64)p.channels * VALUES;
    float* saved = p.checkpoints + (first_saved * p.channels + global) * VALUES;
    bool saves = SCAN && exists && p.checkpoints;
    for (int tile = 0; tile < tiles; ++tile) {
        int buffer = tile & 1;
        meet_at_tile();
        const float* steps = &s.steps[buffer][first_step(channel)].x;
        const float* b_tile = s.bc_f32[buffer][0][part];
        const float* c_tile = s.bc_f32[buffer][1][part];
        const float* resets = s.resets[buffer];
        float* y_tile = &s.y[buffer][part][channel];
        // While a group of steps goes through the recurrence, the decays of the next are computed, and what those need
        // is loaded.
        float now[2 * GROUP], next[2 * GROUP];
        float b[2][GROUP * LANE_VALUES], c[2][GROUP * LANE_VALUES];
        Decays decays[2];
        load<2 * GROUP>(steps, now);
        load<2 * GROUP>(steps + 2 * GROUP, next);
        load<GROUP * LANE_VALUES>(b_tile, b[0]);
        if (SCAN) load<GROUP * LANE_VALUES>(c_tile, c[0]);
        decays[0].set(a, now, resets);
#pragma unroll
        for (int first = 0; first < TILE; first += GROUP) {
            if (first % CHUNK == 0 && saves && (first == 0 || tile * TILE + first < at.steps)) {
                if (TILE >= CHUNK || tile % (CHUNK / TILE) == 0) {
                    save_states(saved, h, part * PER_LANE);
                    saved += chunk;
                }
            }
            int even = first / GROUP % 2, odd = 1 - even;
            float after[2 * GROUP];
            if (first + 2 * GROUP < TILE) load<2 * GROUP>(steps + 2 * (first + 2 * GROUP), after);
            if (first + GROUP < TILE) {
                load<GROUP * LANE_VALUES>(b_tile + (first + GROUP) * LANE_VALUES, b[odd]);
                if (SCAN) load<GROUP * LANE_VALUES>(c_tile + (first + GROUP) * LANE_VALUES, c[odd]);
                decays[odd].set(a, next, resets + first + GROUP);
            }
#pragma unroll
            for (int i = 0; i < GROUP; ++i) {
                float y = advance(h, decays[even], i, now[2 * i + 1], b[even] + i * LANE_VALUES, c[even] + i * LANE_VALUES);
                if (SCAN) {
                    y_tile[(first + i) * Y_ROW] = y;
                } else {
                    delta_sum += now[2 * i];
                    if (STARTS) anew |= resets[first + i] < 0.0f;
                }
            }
#pragma unroll
            for (int i = 0; i < 2 * GROUP; ++i) now[i] = next[i], next[i] = after[i];
        }
    }
    meet_at_tile();
    if (!SCAN && exists) {
        save_states(p.carry + (slot * p.channels + global) * VALUES, h, part * PER_LANE);
        if (part == 0) p.delta_sums[slot * p.channels + global] = anew ? infinite() : delta_sum;
    } else if (exists && at.segment + 1 == p.segments.count) {
        save_states(p.last + (at.batch * p.channels + global) * VALUES, h, part * PER_LANE);
    }
}

// ---- before and after it --------------------------------------------------------------------------------------------

// Copies COUNT elements, asynchronously where they are at least the 4 bytes that this needs.
template <int COUNT> __device__ __forceinline__ void copy_elements(IO* to, const IO* from) {
    if constexpr (COUNT * sizeof(IO) >= 4)
        copy_async<COUNT * sizeof(IO)>(to, from);
    else
        *to = *from;
}

// The values of u, Δ, z and y of one thread: WIDTH channels of one step of every tile.
struct Item {
    int step, channel;  // within the tile, the first of the block
    const IO *u, *delta, *z;
    IO* y;
    float d[WIDTH], bias[WIDTH];
};

// BC_VEC values of B or C of one step of every tile.
struct BcItem {
    int step;  // past the end of the tile where this thread has none
    const IO* from;
    float* to;  // in the first buffer
};

struct Helper {
    const ScanParams& p;
    Shared& s;
    const BlockPlace& at;
    int thread;
    Item items[ITEMS];
    BcItem bc_items[BC_ITEMS];
    i64 u_step, delta_step, z_step, y_step, b_step, c_step;

    __device__ __forceinline__ Helper(const ScanParams& p, const BlockPlace& at, Shared& s)
        : p(p), s(s), at(at), thread(threadIdx.x - 32 * WARPS) {
        StepRows<const IO> u(p.u, p.u_row, at, p), delta(p.delta, p.delta_row, at, p);
        StepRows<const IO> z(p.z, p.z_row, at, p), b(p.b, p.b_row, at, p), c(p.c, p.c_row, at, p);
        StepRows<IO> y(p.y, p.y_row, at, p);
        u_step = TILE * u.step, delta_step = TILE * delta.step, z_step = TILE * z.step, y_step = TILE * y.step;
        b_step = TILE * b.step, c_step = TILE * c.step;
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            Item& item = items[i];
            int index = thread + i * HELPER_THREADS;
            item.step = index / (CHANNELS / WIDTH);
            item.channel = index % (CHANNELS / WIDTH) * WIDTH;
            int first = at.channel + item.channel;
            item.u = u.at(item.step) + first;
            item.delta = delta.at(item.step) + first;
            item.z = z.at(item.step) + first;
            item.y = y.at(item.step) + first;
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                bool exists = item.channel + j < at.channels;
                item.d[j] = exists && p.d ? p.d[first + j] : 0.0f;
                item.bias[j] = exists && p.delta_bias ? p.delta_bias[first + j] : 0.0f;
            }
        }
#pragma unroll
        for (int i = 0; i < BC_ITEMS; ++i) {
            BcItem& item = bc_items[i];
            int index = thread + i * HELPER_THREADS;
            int n = index % BC_PER_STEP * BC_VEC;
            bool is_c = n >= VALUES;
            n -= is_c ? VALUES : 0;
            item.step = index / BC_PER_STEP;
            item.from = (is_c ? c : b).at(item.step) + at.group * VALUES + n;
            bool imaginary = n >= STATE;
            n -= imaginary ? STATE : 0;
            int row = item.step * PARTS + imaginary;
            item.to = &s.bc_f32[0][is_c][n / PER_LANE][row * PER_LANE + n % PER_LANE];
        }
    }
    __device__ __forceinline__ bool is_c(int bc_item) const {
        return (thread + bc_item * HELPER_THREADS) % BC_PER_STEP * BC_VEC >= VALUES;
    }
    __device__ __forceinline__ IO (&z_of(int stage, int item) const)[WIDTH] { return s.z[HAS_Z ? stage : 0][item][thread]; }
    __device__ __forceinline__ void copy(IO (&to)[WIDTH], const IO* from, const Item& item) const {
#pragma unroll
        for (int j = 0; j < WIDTH; j += VEC)
            if (item.channel + j < at.channels) copy_elements<VEC>(to + j, from + j);
    }
    template <int COUNT> __device__ __forceinline__ static void clear(IO (&to)[COUNT]) {
#pragma unroll
        for (int j = 0; j < COUNT; ++j) to[j] = from_f32<IO>(0.0f);
    }

    // Starts the copies of the next tile, which has `left` steps, into a stage. What lies behind the last step is zero.
    __device__ __forceinline__ void fetch(int stage, int left) {
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            Item& item = items[i];
            if (item.step < left) {
                copy(s.u[stage][i][thread], item.u, item);
                copy(s.delta[stage][i][thread], item.delta, item);
                if (HAS_Z) copy(z_of(stage, i), item.z, item);
            } else {
                clear(s.u[stage][i][thread]);
            }
            item.u += u_step, item.delta += delta_step, item.z += z_step;
        }
#pragma unroll
        for (int i = 0; i < BC_ITEMS; ++i) {
            BcItem& item = bc_items[i];
            if (!SCAN && is_c(i)) continue;
            if (item.step < left) {
                if (BC_ITEMS * HELPER_THREADS == TILE * BC_PER_STEP || item.step < TILE) copy_elements<BC_VEC>(s.bc[stage][i][thread], item.from);
            } else {
                clear(s.bc[stage][i][thread]);
            }
            item.from += is_c(i) ? c_step : b_step;
        }
        copy_commit();
    }

    // δ, δu, B and C of a tile with `left` steps. Steps behind the last leave the state as it is: δ = δu = B = C = 0.
    __device__ __forceinline__ void prepare(int tile, int stage, int left) const {
        int buffer = tile & 1;
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Item& item = items[i];
            float us[WIDTH], deltas[WIDTH], zs[WIDTH];
            load_values<WIDTH>(s.u[stage][i][thread], us);
            load_values<WIDTH>(s.delta[stage][i][thread], deltas);
            if (HAS_Z && BACK) load_values<WIDTH>(z_of(stage, i), zs);
            bool exists = item.step < left;
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                float x = deltas[j] + item.bias[j];
                x = SOFTPLUS ? step_size(x) : x;
                x = exists ? x : 0.0f;
                float input = !BACK ? (HELD ? us[j] : x * us[j]) : HAS_Z && exists ? us[j] * silu(zs[j]) : us[j];
                s.steps[buffer][first_step(item.channel + j) + item.step] = make_float2(x, input);
            }
        }
#pragma unroll
        for (int i = 0; i < BC_ITEMS; ++i) {
            constexpr int RUN = BC_VEC < PER_LANE ? BC_VEC : PER_LANE;
            const BcItem& item = bc_items[i];
            if (BC_ITEMS * HELPER_THREADS != TILE * BC_PER_STEP && item.step >= TILE || !SCAN && is_c(i)) continue;
            float values[BC_VEC];
            load_values<BC_VEC>(s.bc[stage][i][thread], values);
            float* to = item.to + buffer * (int)(sizeof(s.bc_f32[0]) / sizeof(float));
#pragma unroll
            for (int j = 0; j < BC_VEC; j += RUN) {
                float run[RUN];
#pragma unroll
                for (int k = 0; k < RUN; ++k) run[k] = values[j + k];
                store<RUN>(to + j / PER_LANE * (TILE * LANE_VALUES + 4), run);
            }
        }
        if (STARTS) {
            for (int i = thread; i < TILE; i += HELPER_THREADS) {
                s.resets[buffer][i] = reset(p, at, tile * TILE + i);
            }
        }
    }
    // y = (<C, h> + D u) silu(z) of a tile with `left` steps.
    __device__ __forceinline__ void finish(int tile, int stage, int left) {
        if (!SCAN) return;
        int buffer = tile & 1;
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            Item& item = items[i];
            float us[WIDTH], zs[WIDTH], ys[WIDTH];
            load_values<WIDTH>(s.u[stage][i][thread], us);
            load<WIDTH>(&s.y[buffer][0][item.step * Y_ROW + item.channel], ys);
#pragma unroll
            for (int part = 1; part < SPLIT; ++part) {
                float more[WIDTH];
                load<WIDTH>(&s.y[buffer][part][item.step * Y_ROW + item.channel], more);
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) ys[j] += more[j];
            }
            if (GATED) load_values<WIDTH>(z_of(stage, i), zs);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                ys[j] = fmaf(item.d[j], us[j], ys[j]);
                if (GATED) ys[j] *= silu(zs[j]);
            }
#pragma unroll
            for (int j = 0; j < WIDTH; j += VEC)
                if (item.step < left && item.channel + j < at.channels) {
                    float values[VEC];
#pragma unroll
                    for (int k = 0; k < VEC; ++k) values[k] = ys[j + k];
                    store<VEC>(item.y + j, values);
                }
            item.y += y_step;
        }
    }
    __device__ __forceinline__ static int next(int stage) { return stage + 1 == STAGES ? 0 : stage + 1; }

    // Tile by tile, one ahead of the states and one behind them.
    __device__ __forceinline__ void run(int tiles) {
        int length = at.steps;
        for (int tile = 0; tile <= AHEAD; ++tile) fetch(tile, length - tile * TILE);
        copy_wait<AHEAD>();
        prepare(0, 0, length);
        int fetched = AHEAD + 1, prepared = 1, finished = 0;
        int left = length;  // from the tile of the states on
        for (int tile = 0; tile < tiles; ++tile) {
            meet_at_tile();
            fetch(fetched, left - (AHEAD + 1) * TILE);
            fetched = next(fetched);
            if (tile > 0) {
                finish(tile - 1, finished, TILE);
                finished = next(finished);
            }
            copy_wait<AHEAD>();
            left -= TILE;
            if (left > 0) {
                prepare(tile + 1, prepared, left);
                prepared = next(prepared);
            }
        }
        meet_at_tile();
        finish(tiles - 1, finished, left + TILE);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) selective_scan_forward(const __grid_constant__ ScanParams p) {
    extern __shared__ __align__(16) u8 memory[];
    Shared& s = *reinterpret_cast<Shared*>(memory);
    BlockPlace at = place<CHANNELS, BACK>(p);
    int tiles = (at.steps + TILE - 1) / TILE;
    if constexpr (STATE < SPLIT * PER_LANE) {
        float* bc = &s.bc_f32[0][0][0][0];
        for (int i = threadIdx.x; i < (int)(sizeof(s.bc_f32) / sizeof(float)); i += THREADS) bc[i] = 0.0f;
        __syncthreads();
    }
    if (threadIdx.x < 32 * WARPS)
        run_states(p, at, s, tiles);
    else
        Helper(p, at, s).run(tiles);
}

#if PASS
// From the first segment to the last, or back, the true carry into each: one thread for each state.
extern "C" __global__ void __launch_bounds__(COMBINE_THREADS) selective_scan_combine(const __grid_constant__ ScanParams p) {
    i64 plane = (i64)p.channels * STATE, states = p.batch * plane;
    i64 i = (i64)blockIdx.x * COMBINE_THREADS + threadIdx.x;
    if (i >= states) return;
    float a = p.a[i % plane] * LOG2_E, h = p.initial ? p.initial[i] : 0.0f;
    for (int number = 0; number < p.segments.count; ++number) {
        i64 segment = BACK ? p.segments.count - 1 - number : number;
        float* carry = p.carry + segment * states + i;
        bool last = number + 1 == p.segments.count;  // whose own is not known, nor wanted
        float left = last ? 0.0f : *carry, sum = last ? 0.0f : p.delta_sums[segment * p.batch * p.channels + i / STATE];
        *carry = h;
        h = sum == infinite() ? left : fmaf(decay_unlifted(sum, a), h, left);
    }
}
#endif
