// The walk of the gradients of the selective scan with a real A; see backward.cuh for who does what.
//
// Of each chunk the states are computed again from the checkpoint: once up to the last SUB steps, keeping the state
// before every SUB steps, then, SUB steps at a time from the last to the first, once more with the decays a and the
// decayed states w = a h kept in registers for the way back:
//
//     forward   h_t = w_t + δ_t u_t B_t                y_t = <C_t, h_t>        dC_t = Σ_channels g_t h_t
//     back      λ_t = g_t C_t + a_(t+1) λ_(t+1)        q_t = λ_t w_t           dB_t = Σ_channels λ_t δ_t u_t
//               s_t = <λ_t, B_t>    p_t = <A, q_t>     dA += δ_t q_t
//
// with g the gradient before the gate. y, s and p give the gradients of z, u and Δ. Where the input is held its weight
// (decay.cuh) stands for δ in δ u, s_t has it too, and p_t and dA have what comes through it.

constexpr int RESIDENT_WARPS = SUB == 4 ? 16 : 12;  // by the registers that a and w of SUB steps leave
constexpr int BLOCKS = WARPS >= RESIDENT_WARPS ? 1 : RESIDENT_WARPS / WARPS;

// What the walk reads of a step. Padded so that 8 channels of 4 steps meet different banks; one after another in
// memory, so that one uniform register reaches all of a step.
struct Step {
    float2 delta[CHANNELS + (CHANNELS > 8 ? 12 : 8)];  // δ and δ u, or u where it is held
    float g[CHANNELS];            // the gradient of y
    float dz[CHANNELS];           // the gradient of z over y
    float slope[CHANNELS];        // dδ/dΔ
    float bc[2][PADDED];
};

// Columns of tiles are swizzled.
struct Shared {
    IO tiles[2][3][CHUNK][CHANNELS];  // u, Δ and z, whose places their gradients take
    IO dy[CHUNK][CHANNELS];
    IO bc_raw[BC_AHEAD ? CHUNK : 1][2][PADDED];
    Step steps[CHUNK];
    float bc_sums[WARPS][2][CHUNK][16];  // of dB, dC
};

enum { U, DELTA, Z };

// The states before the SUB steps from t0: a lane keeps its own where its warp's sums of these steps will be.
__device__ __forceinline__ float* entry(Shared& s, int warp, int lane, int t0) {
    return s.bc_sums[warp][lane / (4 * SUB)][t0] + lane % (4 * SUB) * 4;
}

// Where the first or second (half) two of a lane's states lie in row t of `bc_sums`, so that those of four lanes and
// steps meet in no bank.
__device__ __forceinline__ u32 two_at(u32 t, u32 state_lane, u32 half) { return state_lane * 4 + (half ^ t / 2 % 2) * 2; }

// Behind it, where there are several slices, each one's y, s and p: (slices, 3, CHUNK, CHANNELS).
__device__ __forceinline__ float& slice_sum(Shared& s, int slice, int which, int t, int channel) {
    return reinterpret_cast<float*>(&s + 1)[((slice * 3 + which) * CHUNK + t) * CHANNELS + swizzled<float>(t, channel)];
}

// ---- tiles ----------------------------------------------------------------------------------------------------------

// Starts the copies of a chunk's rows into shared memory, with zeros where there is nothing. The same thread takes the
// same accesses as in `put_tile`.
__device__ __forceinline__ void get_tile(const ScanBackwardParams& p, const ThreadPlace& at, Shared& s, const Chunk& chunk) {
    auto& tile = s.tiles[chunk.buffer];
    share_out<CHUNK * ACCESSES>(at, [&](u32 i) {
        u32 t = i / ACCESSES, c = i % ACCESSES * VEC, column = at.first_channel + c, to = swizzled<IO>(t, c);
        u32 row = row_of(p, chunk, min((int)t, chunk.steps - 1));
        bool exists = (int)t < chunk.steps && (int)c < at.count;
        fetch<VEC>(&tile[U][t][to], address(p.u, row, column), exists);
        fetch<VEC>(&tile[DELTA][t][to], address(p.delta, row, column), exists);
        if (GATE) fetch<VEC>(&tile[Z][t][to], address(p.z, row, column), exists);
        fetch<VEC>(&s.dy[t][to], address(p.dy, row, column), exists);
    });
    constexpr u32 BC_ACCESSES = PADDED / BC_VEC;
    share_out<BC_AHEAD ? CHUNK * BC_ACCESSES : 0>(at, [&](u32 i) {
        u32 t = i / BC_ACCESSES, n = i % BC_ACCESSES * BC_VEC, column = at.group * p.state + n;
        u32 row = row_of(p, chunk, min((int)t, chunk.steps - 1));
        bool exists = (int)t < chunk.steps && (int)n < p.state;
        fetch<BC_VEC>(&s.bc_raw[t][0][n], address(p.b, row, column), exists);
        fetch<BC_VEC>(&s.bc_raw[t][1][n], address(p.c, row, column), exists);
    });
}

__device__ __forceinline__ void put_tile(const ScanBackwardParams& p, const ThreadPlace& at, Shared& s, const Chunk& chunk) {
    auto& tile = s.tiles[chunk.buffer];
    share_out<CHUNK * ACCESSES>(at, [&](u32 i) {
        u32 t = i / ACCESSES, c = i % ACCESSES * VEC, row = row_of(p, chunk, t), column = at.first_channel + c, from = swizzled<IO>(t, c);
        if ((int)t >= chunk.steps || (int)c >= at.count) return;
        put<VEC>(address(p.du, row, column), &tile[U][t][from]);
        put<VEC>(address(p.ddelta, row, column), &tile[DELTA][t][from]);
        if (GATE) put<VEC>(address(p.dz, row, column), &tile[Z][t][from]);
    });
}

constexpr u32 FOURS = PADDED / 2;  // of B and C of a step

// B and C of a chunk as f32, zero for states and steps that do not exist.
__device__ __forceinline__ void widen_bc(const ScanBackwardParams& p, const ThreadPlace& at, Shared& s, const Chunk& chunk) {
    share_out<CHUNK * FOURS>(at, [&](u32 i) {
        u32 t = i / FOURS, n = i % FOURS * 4;
        float values[4];
        if (BC_AHEAD) {
            load<4>(&s.bc_raw[t][0][n], values);
        } else {
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                bool exists = (int)t < chunk.steps && (int)(n % PADDED + j) < p.state;
                u32 column = at.group * p.state + n % PADDED + j;
                values[j] = exists ? to_f32(*address(n < PADDED ? p.b : p.c, row_of(p, chunk, t), column)) : 0.0f;
            }
        }
        store<4>(&s.steps[t].bc[0][n], values);
    });
}

constexpr u32 OWN_FOURS = (CHUNK * FOURS + THREADS - 1) / THREADS;  // of dB and dC of a chunk that a thread adds, puts

// Which four, the first of dB, the last of dC.
struct Four {
    u32 which, t, n;
    bool exists;
};
__device__ __forceinline__ Four own_four(const ThreadPlace& at, u32 k) {
    constexpr u32 HALF = CHUNK * FOURS / 2;
    u32 i = k * THREADS + at.tid, j = i % HALF;
    return {i / HALF % 2, j / (FOURS / 2), j % (FOURS / 2) * 4, i < 2 * HALF};
}

__device__ __forceinline__ void swap(float& x, float& y) {
    float kept = x;
    x = y;
    y = kept;
}

// The sums over the block's channels of a chunk's dB and dC, from the warps' sums.
__device__ __forceinline__ void add_bc_sums(const Shared& s, const ThreadPlace& at, float (&sums)[OWN_FOURS][4]) {
#pragma unroll
    for (u32 k = 0; k < OWN_FOURS; ++k) {
        Four f = own_four(at, k);
#pragma unroll
        for (u32 r = 0; r < 4; ++r) sums[k][r] = 0.0f;
#pragma unroll
        for (u32 warp = 0; warp < CHANNEL_WARPS; ++warp) {
            float more[4];
            load<4>(&s.bc_sums[f.n / 16 * CHANNEL_WARPS + warp][f.which][f.t][f.n % 16], more);
#pragma unroll
            for (int r = 0; r < 4; ++r) sums[k][r] += more[r];
        }
        if (two_at(f.t, 0, 0) != 0) {
            swap(sums[k][0], sums[k][2]);
            swap(sums[k][1], sums[k][3]);
        }
    }
}

__device__ __forceinline__ void put_bc_sums(const ScanBackwardParams& p, const ThreadPlace& at, const Chunk& chunk,
                                            const float (&sums)[OWN_FOURS][4]) {
    u32 width = p.groups * p.state;
    float* to = p.bc_partials + at.group_block * p.batch * p.length * 2 * width + at.group * p.state;
#pragma unroll
    for (u32 k = 0; k < OWN_FOURS; ++k) {
        Four f = own_four(at, k);
        if (!f.exists || (int)f.t >= chunk.steps || (int)f.n >= p.state) continue;
        float* at_n = to + ((u64)(row_of(p, chunk, f.t) * 2 + f.which) * width + f.n);
        if (STATE_VEC == 4) {
            store<4>(at_n, sums[k]);
        } else {
#pragma unroll
            for (u32 r = 0; r < 4; ++r)
                if ((int)(f.n + r) < p.state) at_n[r] = sums[k][r];
        }
    }
}

// A chunk's gradients, when all its warps have walked over it.
__device__ __forceinline__ void put_chunk(const ScanBackwardParams& p, const ThreadPlace& at, Shared& s, const Chunk& chunk) {
    float sums[OWN_FOURS][4];
    add_bc_sums(s, at, sums);
    put_tile(p, at, s, chunk);
    put_bc_sums(p, at, chunk, sums);
}

// ---- what is per channel and step -----------------------------------------------------------------------------------

// Where nothing is, u, z and dy are zeros; steps past the end must also have δ and its slope zero.
__device__ __forceinline__ void prepare(const ScanBackwardParams& p, const ThreadPlace& at, Shared& s, const Chunk& chunk) {
    auto& tile = s.tiles[chunk.buffer];
    constexpr int COUNT = Prepared::COUNT;
    int channel = prepared_channel(at);
    float bias[2], u[COUNT][2], x[COUNT][2], g[COUNT][2], z[COUNT][2], slope[COUNT][2];
    of_prepared(p, at, p.bias, bias);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        int t = Prepared::row(at, i);
        u32 c = swizzled<IO>(t, channel);
        load<2>(&tile[U][t][c], u[i]);
        load<2>(&tile[DELTA][t][c], x[i]);
        load<2>(&s.dy[t][c], g[i]);
        if (GATE) load<2>(&tile[Z][t][c], z[i]);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            x[i][j] += bias[j];
            slope[i][j] = 1.0f;
        }
    }
    if (p.softplus) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
#pragma unroll
            for (int j = 0; j < 2; ++j) x[i][j] = softplus_and_slope(x[i][j], slope[i][j]);
    }
    if (chunk.steps < CHUNK) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (Prepared::step(at, i) >= chunk.steps) x[i][0] = x[i][1] = slope[i][0] = slope[i][1] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        int t = Prepared::step(at, i);
        if (!Prepared::EVEN && t >= CHUNK) break;
        float steps[4] = {x[i][0], HELD ? u[i][0] : x[i][0] * u[i][0], x[i][1], HELD ? u[i][1] : x[i][1] * u[i][1]}, dz[2];
#pragma unroll
        for (int j = 0; GATE && j < 2; ++j) {
            float sigma = sigmoid(z[i][j]), gate = z[i][j] * sigma;
            dz[j] = g[i][j] * (sigma + gate * (1.0f - sigma));
            g[i][j] *= gate;
        }
        store<4>(&s.steps[t].delta[channel].x, steps);
        store<2>(&s.steps[t].g[channel], g[i]);
        store<2>(&s.steps[t].slope[channel], slope[i]);
        if (GATE) store<2>(&s.steps[t].dz[channel], dz);
    }
}

// The sums over time that a thread keeps for its channel.
struct ChannelSums {
    float d, bias;
};

// The gradients of u, Δ and z at K steps, 4 STRIDE apart from t0 + first, from their sums over the states: y, s and p
// (here with A log2 e for A). Columns are swizzled alike every 8 steps, so t0, which divides by 8, does not count for
// that.
template <int K, int STRIDE>
__device__ __forceinline__ void finish(Shared& s, const ThreadPlace& at, int buffer, int t0, int first, float d, const float (&y)[K],
                                       const float (&lambda_b)[K], const float (&p)[K], ChannelSums& sums) {
    auto& tile = s.tiles[buffer];
    float u[K], du[K], ddelta[K], dz[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
        int t = Finished::EVEN ? first + 4 * STRIDE * k : (first + 4 * STRIDE * k) % CHUNK, row = t0 + t;
        const Step& step = s.steps[row];
        float delta = step.delta[at.channel].x, g = step.g[at.channel];
        u[k] = to_f32(tile[U][row][swizzled<IO>(t, at.channel)]);
        ddelta[k] = (HELD ? LN_2 * p[k] : LN_2 * p[k] + u[k] * lambda_b[k]) * step.slope[at.channel];
        if (GATE) dz[k] = step.dz[at.channel] * (y[k] + d * u[k]);
        du[k] = (HELD ? lambda_b[k] : delta * lambda_b[k]) + d * g;
        if (Finished::EVEN || first + 4 * STRIDE * k < CHUNK) {
            sums.d += g * u[k];
            sums.bias += ddelta[k];
        }
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
        int t = first + 4 * STRIDE * k, row = t0 + t;
        if (!Finished::EVEN && t >= CHUNK) break;
        u32 c = swizzled<IO>(t, at.channel);
        tile[U][row][c] = from_f32<IO>(du[k]);
        tile[DELTA][row][c] = from_f32<IO>(ddelta[k]);
        if (GATE) tile[Z][row][c] = from_f32<IO>(dz[k]);
    }
}

// ---- sums over lanes ------------------------------------------------------------------------------------------------

// The sums over the 8 channels of two steps' values of 4 states: channel lane 4 i + r gets step i's state r.
__device__ __forceinline__ float sum_channels(const float (&x)[2][4], int channel_lane) {
    bool high = channel_lane & 4, middle = channel_lane & 2, low = channel_lane & 1;
    float y[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) y[r] = exchange(x[0][r], x[1][r], 16, high);
    float y0 = exchange(y[0], y[2], 2, middle), y1 = exchange(y[1], y[3], 2, middle);
    return exchange(y0, y1, 1, low);
}

// d += a b on the tensor cores, with a of 16 x 4 and b of 4 x 8 values, cut to 11 bits, and sums in f32. Lane 4 r + l
// holds rows r and r + 8 of column l of a, row l of column r of b, and rows r (d[0], d[1]) and r + 8 (d[2], d[3]) of
// columns 2 l and 2 l + 1 of d.
__device__ __forceinline__ void mma(float (&d)[4], float a0, float a1, float b) {
    asm("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(b)));
}

// The sums over the 4 lanes of a channel of 4 steps' values, each for the lane of that step.
__device__ __forceinline__ float sum_states(const ThreadPlace& at, const float* x) {
    bool high = at.state_lane & 2, low = at.state_lane & 1;
    float x0 = exchange(x[0], x[2], 8, high), x1 = exchange(x[1], x[3], 8, high);
    return exchange(x0, x1, 4, low);
}

// The sums over a warp's channels of 4 steps' values times a weight: dB (WHICH 0) or dC (1).
//
// For f32 by shuffles, two steps at once. For bf16 by the tensor cores, finer than the result: a holds the lanes'
// states as they lie, two at a time, so a lane's channel is column l of a and its half of the channels a bit of the
// row. The columns of b and d are steps and halves of the channels, 2 step + half, and in b only those of the values'
// own step are not zero. Of d then only the rows and columns of the same half count.
template <int WHICH> struct Products {
    float x[2][4];  // EXACT: the products of two steps; else the sums

    __device__ __forceinline__ void begin() {
#pragma unroll
        for (int r = 0; r < 4; ++r) x[0][r] = x[1][r] = 0.0f;
    }
    // Step i's values; `weight` is that of the step and the lane's channel, `column_weight` that of the lane's column.
    __device__ __forceinline__ void add(const ThreadPlace& at, int i, const float (&values)[4], float weight, float column_weight) {
        if constexpr (EXACT) {
#pragma unroll
            for (int r = 0; r < 4; ++r) x[i % 2][r] = values[r] * weight;
        } else {
            float b = (int)at.lane / 8 == i ? column_weight : 0.0f;
            mma(x[0], values[0], values[1], b);
            mma(x[1], values[2], values[3], b);
        }
    }
    // When steps i and i + 1 of the 4 from t0 are done.
    __device__ __forceinline__ void end(const ThreadPlace& at, Shared& s, int t0, int i, bool last) const {
        if constexpr (EXACT) {
            int t = t0 + i + at.channel_lane / 4;
            u32 place = two_at(t, at.state_lane, at.channel_lane % 4 / 2) + at.channel_lane % 2;
            s.bc_sums[at.warp][WHICH][t][place] = sum_channels(x, at.channel_lane);
        } else if (last) {
            // The lane of the other half has the same step and states: each keeps two of them.
            int half = at.lane / 16, t = at.lane % 4;
            float sums[2];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                float kept = half ? x[1][2 * r + 1] : x[0][2 * r], sent = half ? x[0][2 * r + 1] : x[1][2 * r];
                sums[r] = kept + __shfl_xor_sync(0xffffffffu, sent, 16);
            }
            store<2>(&s.bc_sums[at.warp][WHICH][t0 + t][two_at(t, at.state_lane, half)], sums);
        }
    }
};

// The weight of a lane's column in the 4 steps from t0: δ u, or u where it is held, for dB, g for dC.
template <int WHICH> __device__ __forceinline__ float column_weight(const ThreadPlace& at, const Shared& s, int t0) {
    int channel = at.warp % CHANNEL_WARPS * 8 + at.lane / 4 % 2 * 4 + at.lane % 4, t = t0 + at.lane / 8;
    return WHICH ? s.steps[t].g[channel] : s.steps[t].delta[channel].y;
}

// ---- the walk over a chunk ------------------------------------------------------------------------------------------

// What a thread carries through time.
struct Carry {
    float a[4];      // A log2 e
    float inverse[HELD ? 4 : 1];  // 1 / A
    float carry[4];  // a_(t+1) λ_(t+1)
    float da[4];
    ChannelSums sums;

    // Of state r of a step whose decay is `a`, or 0 where it starts anew.
    __device__ __forceinline__ Hold hold(float delta, int r, float& a) const {
        if (STARTS) a = decay_unlifted(delta, this->a[r]);
        return hold_of(delta, this->a[r], inverse[HELD ? r : 0], a);
    }
    // What state r takes in of a step's input, times B.
    __device__ __forceinline__ float taken(float delta, float input, int r, float a) const {
        return HELD ? hold(delta, r, a).weight * input : input;
    }
};

// What a lane reads of two steps. The next two's are read before this two's sums are written, past which the compiler
// moves no read.
struct Pair {
    float delta[2], input[2], g[2], b[2][4], c[2][4];

    __device__ __forceinline__ void read(const ThreadPlace& at, const Shared& s, int t0, int i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const Step& step = s.steps[t0 + i + j];
            delta[j] = step.delta[at.channel].x;
            input[j] = step.delta[at.channel].y;
            g[j] = step.g[at.channel];
            load<4>(&step.bc[0][at.slice * 16 + at.state_lane * 4], b[j]);
            load<4>(&step.bc[1][at.slice * 16 + at.state_lane * 4], c[j]);
        }
    }
};

// The states before every SUB steps, from the one before the chunk.
__device__ __forceinline__ void enter(const ThreadPlace& at, Shared& s, const Carry& carry, float (&h)[4], u32 resets) {
    for (int t0 = 0;; t0 += SUB) {
        store<4>(entry(s, at.warp, at.lane, t0), h);
        if (t0 + SUB == CHUNK) return;
#pragma unroll
        for (int i = 0; i < SUB; ++i) {
            const Step& step = s.steps[t0 + i];
            float2 delta = step.delta[at.channel];
            float a[4], b[4];
            decays(a, carry.a, delta.x, resets, t0 + i);
            load<4>(&step.bc[0][at.slice * 16 + at.state_lane * 4], b);
#pragma unroll
            for (int r = 0; r < 4; ++r) h[r] = a[r] * h[r] + carry.taken(delta.x, delta.y, r, a[r]) * b[r];
        }
    }
}

// SUB steps forward: the decays, the decayed states, dC and y, of step l of every four. `pair` ends as the last two.
__device__ __forceinline__ void replay(const ThreadPlace& at, Shared& s, const Carry& carry, int t0, u32 resets, Pair& pair,
                                       float (&a)[SUB][4], float (&w)[SUB][4], float (&y)[SUB / 4]) {
    float h[4], dot[4], weight = column_weight<1>(at, s, t0), next_weight = 0.0f;
    load<4>(entry(s, at.warp, at.lane, t0), h);
    pair.read(at, s, t0, 0);
    __syncwarp();
    Products<1> products;
#pragma unroll
    for (int i = 0; i < SUB; i += 2) {
        Pair next;
        if (i + 2 < SUB) next.read(at, s, t0, i + 2);
        if (SUB > 4 && i == 2) next_weight = column_weight<1>(at, s, t0 + 4);
        if (i == 4) weight = next_weight;
        if (i % 4 == 0) products.begin();
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            float& y_sum = dot[i % 4 + j];
            decays(a[i + j], carry.a, pair.delta[j], resets, t0 + i + j);
            y_sum = 0.0f;
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                w[i + j][r] = a[i + j][r] * h[r];
                h[r] = w[i + j][r] + carry.taken(pair.delta[j], pair.input[j], r, a[i + j][r]) * pair.b[j][r];
                y_sum += h[r] * pair.c[j][r];
            }
            products.add(at, i % 4 + j, h, pair.g[j], weight);
        }
        products.end(at, s, t0 + i / 4 * 4, i % 4, i % 4 == 2);
        if (GATE && i % 4 == 2) y[i / 4] = sum_states(at, dot);
        if (i + 2 < SUB) pair = next;
    }
}

// The same steps back: λ, dB, dA and the sums s and p, of step l of every four.
__device__ __forceinline__ void walk_back(const ThreadPlace& at, Shared& s, Carry& carry, int t0, Pair& pair, const float (&a)[SUB][4],
                                          const float (&w)[SUB][4], float (&lambda_b)[SUB / 4], float (&p)[SUB / 4]) {
    float dot_b[4], dot_a[4], weight = column_weight<0>(at, s, t0 + SUB - 4), next_weight = 0.0f;
    Products<0> products;
#pragma unroll
    for (int i = SUB - 2; i >= 0; i -= 2) {
        Pair next;
        if (i > 0) next.read(at, s, t0, i - 2);
        if (SUB > 4 && i == 4) next_weight = column_weight<0>(at, s, t0);
        if (SUB > 4 && i == 2) weight = next_weight;
        if (i % 4 == 2) products.begin();
#pragma unroll
        for (int j = 1; j >= 0; --j) {
            float lambda[4], &b_sum = dot_b[i % 4 + j], &a_sum = dot_a[i % 4 + j];
            b_sum = a_sum = 0.0f;
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                lambda[r] = pair.g[j] * pair.c[j][r] + carry.carry[r];
                carry.carry[r] = a[i + j][r] * lambda[r];
                float q = lambda[r] * w[i + j][r];
                if constexpr (HELD) {
                    float decay = a[i + j][r], by_hold = lambda[r] * pair.b[j][r] * pair.input[j];
                    Hold hold = carry.hold(pair.delta[j], r, decay);
                    a_sum += LOG2_E * decay * by_hold;
                    carry.da[r] += hold.slope * by_hold;
                    lambda[r] *= hold.weight;
                }
                b_sum += lambda[r] * pair.b[j][r];
                a_sum += carry.a[r] * q;
                carry.da[r] += pair.delta[j] * q;
            }
            products.add(at, i % 4 + j, lambda, pair.input[j], weight);
        }
        products.end(at, s, t0 + i / 4 * 4, i % 4, i % 4 == 0);
        if (i % 4 == 0) {
            lambda_b[i / 4] = sum_states(at, dot_b);
            p[i / 4] = sum_states(at, dot_a);
        }
        if (i > 0) pair = next;
    }
}

// The rest of a chunk where states lie in several slices: their sums, of the steps that this slice finishes.
__device__ __forceinline__ void add_slices(const ThreadPlace& at, Shared& s, Carry& carry, int buffer, float d) {
    __syncthreads();
    float sums[3][Finished::COUNT];
#pragma unroll
    for (int j = 0; j < 3; ++j) {
#pragma unroll
        for (int i = 0; i < Finished::COUNT; ++i) {
            sums[j][i] = 0.0f;
            for (int slice = 0; slice < SLICES; ++slice)
                sums[j][i] += slice_sum(s, slice, j, Finished::row(at, i), at.channel);
        }
    }
    finish<Finished::COUNT, SLICES>(s, at, buffer, 0, Finished::step(at, 0), d, sums[0], sums[1], sums[2], carry.sums);
}

// The 32 steps of a chunk, with everything in shared memory.
__device__ __forceinline__ void walk_chunk(const ThreadPlace& at, Shared& s, Carry& carry, int buffer, float d, float (&h)[4],
                                           u32 resets) {
    enter(at, s, carry, h, resets);
    for (int t0 = CHUNK - SUB; t0 >= 0; t0 -= SUB) {
        float a[SUB][4], w[SUB][4], y[SUB / 4] = {0.0f}, lambda_b[SUB / 4], p[SUB / 4];
        Pair pair;
        replay(at, s, carry, t0, resets, pair, a, w, y);
        walk_back(at, s, carry, t0, pair, a, w, lambda_b, p);
        if (SLICES == 1) {
            finish<SUB / 4, 1>(s, at, buffer, t0 & ~7, (t0 & 7) + at.state_lane, d, y, lambda_b, p, carry.sums);
        } else {
#pragma unroll
            for (int half = 0; half < SUB / 4; ++half) {
                int t = t0 + at.state_lane + 4 * half;
                slice_sum(s, at.slice, 0, t, at.channel) = y[half];
                slice_sum(s, at.slice, 1, t, at.channel) = lambda_b[half];
                slice_sum(s, at.slice, 2, t, at.channel) = p[half];
            }
        }
    }
    if (SLICES > 1) add_slices(at, s, carry, buffer, d);
}

// ---- the kernel -----------------------------------------------------------------------------------------------------

// The sums of dD and of the bias's gradient over the lanes and slices of a channel.
__device__ __forceinline__ void put_channel_sums(const ScanBackwardParams& p, const ThreadPlace& at, Shared& s, const ChannelSums& sums) {
    float d = sums.d, bias = sums.bias;
#pragma unroll
    for (int step = 4; step <= 8; step *= 2) {
        d += __shfl_xor_sync(0xffffffffu, d, step);
        bias += __shfl_xor_sync(0xffffffffu, bias, step);
    }
    float* shared = reinterpret_cast<float*>(s.steps);  // (slices, 2, channels)
    if (at.state_lane == 0) {
        shared[at.slice * 2 * CHANNELS + at.channel] = d;
        shared[(at.slice * 2 + 1) * CHANNELS + at.channel] = bias;
    }
    __syncthreads();
    for (u32 i = at.tid; i < 2 * CHANNELS; i += THREADS) {
        float sum = 0.0f;
        for (int slice = 0; slice < SLICES; ++slice) sum += shared[slice * 2 * CHANNELS + i];
        float* partials = i < CHANNELS ? p.d_partials : p.bias_partials;
        if (partials && (int)(i % CHANNELS) < at.count)
            partials[(at.segment * p.batch + at.batch) * p.channels + at.first_channel + i % CHANNELS] = sum;
    }
}

// The own channel's value of D.
__device__ __forceinline__ float of_channel(const ScanBackwardParams& p, const ThreadPlace& at, const float* values) {
    return values && at.channel < at.count ? values[at.first_channel + at.channel] : 0.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) selective_scan_backward(const __grid_constant__ ScanBackwardParams p) {
    extern __shared__ __align__(16) u8 shared_bytes[];
    Shared& s = *reinterpret_cast<Shared*>(shared_bytes);
    const ThreadPlace at = place(p);
    int first = first_chunk(p.segments, at.segment), last = first + chunks_of(p.segments, at.segment) - 1;
    i64 plane = (i64)p.channels * p.state, slot = at.segment * p.batch + at.batch;

    Carry carry;
    carry.sums = {0.0f, 0.0f};
    load_states(p, at, p.a, carry.a);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        if constexpr (HELD) carry.inverse[r] = 1.0f / carry.a[r];
        carry.a[r] *= LOG2_E;
        carry.carry[r] = carry.da[r] = 0.0f;
    }
    const float* into = p.segments.count > 1 ? p.carry + slot * plane : p.dlast ? p.dlast + at.batch * plane : nullptr;
    if (into) load_states(p, at, into, carry.carry);

    Chunk chunk = chunk_at(p, at, last), later = chunk;
    get_tile(p, at, s, chunk);
    copy_commit();
    for (int number = last; number >= first; --number) {
        ThreadPlace here = at;
        find_thread(here);
        float h[4], d = of_channel(p, here, p.d);
        load_states(p, here, p.checkpoints + (at.batch * p.chunks + number) * plane, h);
        u32 resets = resets_of(p, here, chunk);
        copy_wait<0>();
        __syncthreads();
        if (number < last) put_chunk(p, here, s, later);
        later = chunk;
        chunk = chunk_at(p, at, number - 1);
        widen_bc(p, here, s, later);
        prepare(p, here, s, later);
        __syncthreads();
        if (number > first) get_tile(p, here, s, chunk);
        copy_commit();
        walk_chunk(at, s, carry, later.buffer, d, h, resets);
    }
    ThreadPlace here = at;
    find_thread(here);
    __syncthreads();
    put_chunk(p, here, s, later);
    store_states(p, here, p.a_partials + slot * plane, carry.da);
    if (p.dinitial && at.segment == 0) store_states(p, here, p.dinitial + at.batch * plane, carry.carry);
    put_channel_sums(p, here, s, carry.sums);
}
