// The walk of the gradients of the selective scan with a real A; see backward.cuh for who does what.
//
// Of each chunk the states are computed again from the checkpoint: once up to the last 8 steps, keeping the state before every 8
// steps, then, 8 steps at a time from the last to the first, once more with the decays a and the decayed states w = a h kept in
// registers for the way back:
//
//     forward   h_t = w_t + δ_t u_t B_t                y_t = <C_t, h_t>        dC_t = Σ_channels g_t h_t
//     back      λ_t = g_t C_t + a_(t+1) λ_(t+1)        q_t = λ_t w_t           dB_t = Σ_channels λ_t δ_t u_t
//               s_t = <λ_t, B_t>    p_t = <A, q_t>     dA += δ_t q_t
//
// with g the gradient before the gate. y, s and p give the gradients of z, u and Δ.

constexpr int BLOCKS = WARPS >= 12 ? 1 : 12 / WARPS;  // that should fit into a multiprocessor: 3 warps per scheduler
constexpr int BC_PARTS = EXACT ? 1 : 2;  // that a warp leaves of its sums of dB and dC

// Columns of channels are swizzled, except those of `steps` and `g`.
struct Shared {
    IO tiles[2][3][CHUNK][CHANNELS];  // u, Δ and z, whose places their gradients take
    IO dy[CHUNK][CHANNELS];
    IO bc_raw[BC_AHEAD ? CHUNK : 1][2][PADDED];
    float bc[CHUNK][2][PADDED];
    float2 steps[CHUNK][CHANNELS + 4];  // δ and δ u
    float g[CHUNK][CHANNELS + 8];       // the gradient of y
    float dz[CHUNK][CHANNELS];          // the gradient of z over y
    float slope[CHUNK][CHANNELS];       // dδ/dΔ
    float bc_sums[WARPS * BC_PARTS][2][CHUNK][16];  // of dB, dC; each four of states in the order 0, 2, 1, 3
};

enum { U, DELTA, Z };

// The states before the 8 steps from t0: a lane keeps its own where its warp's sums of dC of these steps will be.
__device__ __forceinline__ float* entry(Shared& s, int warp, int lane, int t0) {
    return s.bc_sums[warp * BC_PARTS][1][t0] + lane * 4;
}

// Behind it, where there are several slices, each one's y, s and p: (slices, 3, CHUNK, CHANNELS).
__device__ __forceinline__ float& slice_sum(Shared& s, int slice, int which, int t, int channel) {
    return reinterpret_cast<float*>(&s + 1)[((slice * 3 + which) * CHUNK + t) * CHANNELS + swizzled(t, channel)];
}

// ---- tiles ----------------------------------------------------------------------------------------------------------------

// Starts the copies of a chunk's rows into shared memory, with zeros where there is nothing. The same thread takes the same pieces
// as in `put_tile`.
__device__ __forceinline__ void get_tile(const BackwardParams& p, const Place& at, Shared& s, const Chunk& chunk) {
    auto& tile = s.tiles[chunk.buffer];
    share_out<CHUNK * PIECES>(at, [&](u32 i) {
        u32 t = i / PIECES, c = i % PIECES * VEC, column = at.first_channel + c, to = swizzled(t, c);
        u32 row = row_of(p, chunk, min((int)t, chunk.steps - 1));
        bool exists = (int)t < chunk.steps && (int)c < at.count;
        fetch<VEC>(&tile[U][t][to], address(p.u, row, column), exists);
        fetch<VEC>(&tile[DELTA][t][to], address(p.delta, row, column), exists);
        if (GATE) fetch<VEC>(&tile[Z][t][to], address(p.z, row, column), exists);
        fetch<VEC>(&s.dy[t][to], address(p.dy, row, column), exists);
    });
    constexpr u32 BC_PIECES = PADDED / BC_VEC;
    share_out<BC_AHEAD ? CHUNK * BC_PIECES : 0>(at, [&](u32 i) {
        u32 t = i / BC_PIECES, n = i % BC_PIECES * BC_VEC, column = at.group * p.state + n;
        u32 row = row_of(p, chunk, min((int)t, chunk.steps - 1));
        bool exists = (int)t < chunk.steps && (int)n < p.state;
        fetch<BC_VEC>(&s.bc_raw[t][0][n], address(p.b, row, column), exists);
        fetch<BC_VEC>(&s.bc_raw[t][1][n], address(p.c, row, column), exists);
    });
}

__device__ __forceinline__ void put_tile(const BackwardParams& p, const Place& at, Shared& s, const Chunk& chunk) {
    auto& tile = s.tiles[chunk.buffer];
    share_out<CHUNK * PIECES>(at, [&](u32 i) {
        u32 t = i / PIECES, c = i % PIECES * VEC, row = row_of(p, chunk, t), column = at.first_channel + c, from = swizzled(t, c);
        if ((int)t >= chunk.steps || (int)c >= at.count) return;
        put<VEC>(address(p.du, row, column), &tile[U][t][from]);
        put<VEC>(address(p.ddelta, row, column), &tile[DELTA][t][from]);
        if (GATE) put<VEC>(address(p.dz, row, column), &tile[Z][t][from]);
    });
}

constexpr u32 FOURS = PADDED / 2;  // of B and C of a step

// B and C of a chunk as f32, zero for states and steps that do not exist.
__device__ __forceinline__ void widen_bc(const BackwardParams& p, const Place& at, Shared& s, const Chunk& chunk) {
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
        store<4>(&s.bc[t][0][n], values);
    });
}

// The sums over the block's channels of a chunk's dB and dC, from the warps' sums.
__device__ __forceinline__ void put_bc_sums(const BackwardParams& p, const Shared& s, const Place& at, const Chunk& chunk) {
    constexpr u32 PARTS = CHANNEL_WARPS * BC_PARTS;
    u32 width = p.groups * p.state;
    float* to = p.bc_parts + at.part * p.batch * p.length * 2 * width + at.group * p.state;
    share_out<CHUNK * FOURS>(at, [&](u32 i) {
        u32 t = i / FOURS, which = i % FOURS * 4 / PADDED, n = i % FOURS * 4 % PADDED;
        if ((int)t >= chunk.steps || (int)n >= p.state) return;
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (u32 part = 0; part < PARTS; ++part) {
            float more[4];
            load<4>(&s.bc_sums[n / 16 * PARTS + part][which][t][n % 16], more);
#pragma unroll
            for (int r = 0; r < 4; ++r) sum[r] += more[r];
        }
        float* at_n = to + ((u64)(row_of(p, chunk, t) * 2 + which) * width + n);
        float ordered[4] = {sum[0], sum[2], sum[1], sum[3]};
        if (STATE_VEC == 4) {
            *reinterpret_cast<float4*>(at_n) = {ordered[0], ordered[1], ordered[2], ordered[3]};
        } else {
#pragma unroll
            for (u32 r = 0; r < 4; ++r)
                if ((int)(n + r) < p.state) at_n[r] = ordered[r];
        }
    });
}

// ---- what is per channel and step --------------------------------------------------------------------------------------------

// Where nothing is, u, z and dy are zeros; steps past the end must also have δ and its slope zero.
__device__ __forceinline__ void prepare(const BackwardParams& p, const Place& at, Shared& s, const Chunk& chunk, float bias) {
    auto& tile = s.tiles[chunk.buffer];
    u32 c = swizzled(at.own_step, at.own_channel);
    float u[SHARE], x[SHARE], dy[SHARE], z[SHARE], slope[SHARE];
#pragma unroll
    for (int i = 0; i < SHARE; ++i) {
        int t = own_row(at, i);
        u[i] = to_f32(tile[U][t][c]);
        x[i] = to_f32(tile[DELTA][t][c]) + bias;
        dy[i] = to_f32(s.dy[t][c]);
        if (GATE) z[i] = to_f32(tile[Z][t][c]);
        slope[i] = 1.0f;
    }
    if (p.softplus) {
#pragma unroll
        for (int i = 0; i < SHARE; ++i) x[i] = softplus_and_slope(x[i], slope[i]);
    }
    if (chunk.steps < CHUNK) {
#pragma unroll
        for (int i = 0; i < SHARE; ++i)
            if (own_step(at, i) >= chunk.steps) x[i] = slope[i] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < SHARE; ++i) {
        int t = own_step(at, i);
        if (!EVEN_SHARES && t >= CHUNK) break;
        float g = dy[i];
        if (GATE) {
            float sigma = sigmoid(z[i]), gate = z[i] * sigma;
            s.dz[t][c] = g * (sigma + gate * (1.0f - sigma));
            g *= gate;
        }
        s.steps[t][at.own_channel] = {x[i], x[i] * u[i]};
        s.g[t][at.own_channel] = g;
        s.slope[t][c] = slope[i];
    }
}

// The sums over time that a thread keeps for its channel.
struct ChannelSums {
    float d, bias;
};

// The gradients of u, Δ and z at K steps, 4 STRIDE apart, from their sums over the states: y, s and p (here with A log2 e for A).
template <int K, int STRIDE> __device__ __forceinline__ void finish(Shared& s, const Place& at, int buffer, int t, float d,
                                                                    const float (&y)[K], const float (&lambda_b)[K],
                                                                    const float (&p)[K], ChannelSums& sums) {
    auto& tile = s.tiles[buffer];
    u32 c = swizzled(at.own_step, at.own_channel);
    float u[K], du[K], ddelta[K], dz[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
        int row = EVEN_SHARES ? t + 4 * STRIDE * k : (t + 4 * STRIDE * k) % CHUNK;
        float delta = s.steps[row][at.own_channel].x, g = s.g[row][at.own_channel];
        u[k] = to_f32(tile[U][row][c]);
        ddelta[k] = (LN_2 * p[k] + u[k] * lambda_b[k]) * s.slope[row][c];
        if (GATE) dz[k] = s.dz[row][c] * (y[k] + d * u[k]);
        du[k] = delta * lambda_b[k] + d * g;
        if (EVEN_SHARES || t + 4 * STRIDE * k < CHUNK) {
            sums.d += g * u[k];
            sums.bias += ddelta[k];
        }
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
        int row = t + 4 * STRIDE * k;
        if (!EVEN_SHARES && row >= CHUNK) break;
        tile[U][row][c] = from_f32<IO>(du[k]);
        tile[DELTA][row][c] = from_f32<IO>(ddelta[k]);
        if (GATE) tile[Z][row][c] = from_f32<IO>(dz[k]);
    }
}

// ---- sums over lanes ----------------------------------------------------------------------------------------------------------

// Of two values, the sum over two lanes of the one that this lane keeps: the second where `second` is set.
__device__ __forceinline__ float exchange(float x0, float x1, int step, bool second) {
    float kept = second ? x1 : x0, sent = second ? x0 : x1;
    return kept + __shfl_xor_sync(0xffffffffu, sent, step);
}

// The sums over the 8 channels of two steps' values of 4 states: channel lane 4 i + r gets step i's state r.
__device__ __forceinline__ float sum_channels(const float (&x)[2][4], int channel_lane) {
    bool high = channel_lane & 4, middle = channel_lane & 2, low = channel_lane & 1;
    float y[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) y[r] = exchange(x[0][r], x[1][r], 16, high);
    float y0 = exchange(y[0], y[2], 2, middle), y1 = exchange(y[1], y[3], 2, middle);
    return exchange(y0, y1, 1, low);
}

// d += a b on the tensor cores, with a of 16 x 8 and b of 8 x 8 values, cut to 11 bits, and sums in f32. Lane 4 r + l holds rows
// r and r + 8 of columns l (a[0], a[1]) and l + 4 (a[2], a[3]) of a, rows l and l + 4 of column r of b, and rows r (d[0], d[1])
// and r + 8 (d[2], d[3]) of columns 2 l and 2 l + 1 of d.
__device__ __forceinline__ void mma(float (&d)[4], const float (&a)[4], float b0, float b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

// Reads 4 values of which the compiler must not know that they are constants: it would move them into place before each use.
__device__ __forceinline__ void load_unknown(float (&to)[4], const float* shared) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "r"((u32)__cvta_generic_to_shared(shared))
                 : "memory");
}

// Constant operands of the tensor cores.
struct Operands {
    float low[4], high[4];  // the two halves of the identity, 16 x 8 each
    float add[4];           // 0 and 1: what adds the columns of a half of the channels
    float mask[4];          // for step i of two: 1 at 2 i + 0 or 2 i + 1, if the lane's column is this step's even or odd one
};

__device__ __forceinline__ void fill_operands(const Place& at, float* shared, Operands& to) {
    int row = at.lane / 4, column = at.lane % 4;
    float(*own)[4] = reinterpret_cast<float(*)[4]>(shared + at.tid * 16);
    float one = row == column ? 1.0f : 0.0f, other = row == column + 4 ? 1.0f : 0.0f;
    own[0][0] = own[1][1] = one;
    own[0][2] = own[1][3] = other;
    own[0][1] = own[0][3] = own[1][0] = own[1][2] = 0.0f;
    bool half = row / 2 % 2 == column / 2;
    own[2][0] = half && row < 4 ? 1.0f : 0.0f;
    own[2][1] = half && row >= 4 ? 1.0f : 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) own[3][i] = row % 4 == i ? 1.0f : 0.0f;
    load_unknown(to.low, own[0]);
    load_unknown(to.high, own[1]);
    load_unknown(to.add, own[2]);
    load_unknown(to.mask, own[3]);
}

// The sums over the 4 lanes of a channel of 4 steps' values, each for the lane whose own channel and step it is.
//
// By shuffles each exchange halves the values of a lane. The tensor cores first turn the values round: their b has the steps of
// channels as rows and (half of the channels, state lane) as columns, and becomes a d of 16 rows, 4 channels of 4 steps. Then they
// add columns: of d as it lies, taken as a, the rows r and r + 8 are even and odd columns, and the columns l and l + 4 the two
// halves of the rows, which the zeros of `add` keep apart.
__device__ __forceinline__ float sum_states(const Place& at, const Operands& operands, const float* x) {
    if constexpr (EXACT) {
        bool high = at.state_lane & 2, low = at.state_lane & 1;
        float x0 = exchange(x[0], x[2], 8, high), x1 = exchange(x[1], x[3], 8, high);
        return exchange(x0, x1, 4, low);
    } else {
        float turned[4] = {0.0f, 0.0f, 0.0f, 0.0f}, sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        mma(turned, operands.low, x[0], x[1]);
        mma(turned, operands.high, x[2], x[3]);
        mma(sums, turned, operands.add[0], operands.add[1]);
        return sums[0] + sums[3];
    }
}

// The sums over a warp's channels of two steps' values times a weight: dB (WHICH 0) or dC (1).
//
// For f32 by shuffles. For bf16 by the tensor cores, finer than the result: a holds the lanes' 4 states as they lie, so a lane's
// channel is column l, and its states are rows r, r + 8 of columns l and l + 4. b keeps apart, in its columns, what must not be
// added: the two halves of the channels (bit 2), the two steps (bit 1) and the two columns of a that are one channel (bit 0).
// Of d then only the rows and columns of the same half of the channels count.
template <int WHICH> struct Products {
    float x[2][4];  // EXACT: the products; else the sums, in x[0]

    __device__ __forceinline__ void begin() { x[0][0] = x[0][1] = x[0][2] = x[0][3] = 0.0f; }
    __device__ __forceinline__ void add(const Operands& operands, int i, const float (&values)[4], float weight) {
        if constexpr (EXACT) {
#pragma unroll
            for (int r = 0; r < 4; ++r) x[i][r] = values[r] * weight;
        } else {
            mma(x[0], values, weight * operands.mask[2 * i], weight * operands.mask[2 * i + 1]);
        }
    }
    __device__ __forceinline__ void end(const Place& at, Shared& s, int t0) const {
        if constexpr (EXACT) {
            int r = at.channel_lane % 4, place = r % 2 * 2 + r / 2;
            s.bc_sums[at.warp][WHICH][t0 + at.channel_lane / 4][at.state_lane * 4 + place] = sum_channels(x, at.channel_lane);
        } else if (at.lane % 4 / 2 == at.lane / 16) {
            store<4>(&s.bc_sums[at.warp * 2 + at.lane / 16][WHICH][t0 + at.lane % 2][at.state_lane * 4], x[0]);
        }
    }
};

// ---- the walk over a chunk --------------------------------------------------------------------------------------------------

// What a thread carries through time.
struct Carry {
    float a[4];      // A log2 e
    float carry[4];  // a_(t+1) λ_(t+1)
    float da[4];
    ChannelSums sums;
};

// What a lane reads of two steps. The next two's are read before this two's sums are written, past which the compiler moves
// no read.
struct Pair {
    float delta[2], input[2], g[2], b[2][4], c[2][4];

    __device__ __forceinline__ void read(const Place& at, const Shared& s, int t0, int i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            float2 step = s.steps[t0 + i + j][at.channel];
            delta[j] = step.x;
            input[j] = step.y;
            g[j] = s.g[t0 + i + j][at.channel];
            load<4>(&s.bc[t0 + i + j][0][at.slice * 16 + at.state_lane * 4], b[j]);
            load<4>(&s.bc[t0 + i + j][1][at.slice * 16 + at.state_lane * 4], c[j]);
        }
    }
};

// The states before every 8 steps, from the one before the chunk.
__device__ __forceinline__ void enter(const Place& at, Shared& s, const Carry& carry, float (&h)[4], u32 resets) {
    for (int t0 = 0;; t0 += SUB) {
        store<4>(entry(s, at.warp, at.lane, t0), h);
        if (t0 + SUB == CHUNK) return;
#pragma unroll
        for (int i = 0; i < SUB; ++i) {
            float2 step = s.steps[t0 + i][at.channel];
            float a[4], b[4];
            decays(a, carry.a, step.x, resets, t0 + i);
            load<4>(&s.bc[t0 + i][0][at.slice * 16 + at.state_lane * 4], b);
#pragma unroll
            for (int r = 0; r < 4; ++r) h[r] = a[r] * h[r] + step.y * b[r];
        }
    }
}

// 8 steps forward: the decays, the decayed states, y (of steps own_step and 4 + own_step) and dC. `pair` ends as the last two.
__device__ __forceinline__ void replay(const Place& at, Shared& s, const Carry& carry, const Operands& operands, int t0, u32 resets, Pair& pair,
                                       float (&a)[SUB][4], float (&w)[SUB][4], float (&y)[2]) {
    float h[4], dot[SUB];
    load<4>(entry(s, at.warp, at.lane, t0), h);
    pair.read(at, s, t0, 0);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < SUB; i += 2) {
        Pair next;
        if (i + 2 < SUB) next.read(at, s, t0, i + 2);
        Products<1> products;
        products.begin();
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            decays(a[i + j], carry.a, pair.delta[j], resets, t0 + i + j);
            dot[i + j] = 0.0f;
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                w[i + j][r] = a[i + j][r] * h[r];
                h[r] = w[i + j][r] + pair.input[j] * pair.b[j][r];
                dot[i + j] += h[r] * pair.c[j][r];
            }
            products.add(operands, j, h, pair.g[j]);
        }
        products.end(at, s, t0 + i);
        if (i + 2 < SUB) pair = next;
    }
    if (GATE) {
        y[0] = sum_states(at, operands, dot);
        y[1] = sum_states(at, operands, dot + 4);
    }
}

// The same 8 steps back: λ, dB, dA and the sums s and p (of steps own_step and 4 + own_step).
__device__ __forceinline__ void walk_back(const Place& at, Shared& s, Carry& carry, const Operands& operands, int t0, Pair& pair, const float (&a)[SUB][4],
                                          const float (&w)[SUB][4], float (&lambda_b)[2], float (&p)[2]) {
    float dot_b[SUB], dot_a[SUB];
#pragma unroll
    for (int i = SUB - 2; i >= 0; i -= 2) {
        Pair next;
        if (i > 0) next.read(at, s, t0, i - 2);
        Products<0> products;
        products.begin();
#pragma unroll
        for (int j = 1; j >= 0; --j) {
            float lambda[4];
            dot_b[i + j] = dot_a[i + j] = 0.0f;
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                lambda[r] = pair.g[j] * pair.c[j][r] + carry.carry[r];
                carry.carry[r] = a[i + j][r] * lambda[r];
                float q = lambda[r] * w[i + j][r];
                dot_b[i + j] += lambda[r] * pair.b[j][r];
                dot_a[i + j] += carry.a[r] * q;
                carry.da[r] += pair.delta[j] * q;
            }
            products.add(operands, j, lambda, pair.input[j]);
        }
        products.end(at, s, t0 + i);
        if (i > 0) pair = next;
        if (i % 4 == 0) {
            lambda_b[i / 4] = sum_states(at, operands, dot_b + i);
            p[i / 4] = sum_states(at, operands, dot_a + i);
        }
    }
}

// The rest of a chunk where states lie in several slices: their sums, of the steps that this slice finishes.
__device__ __forceinline__ void add_slices(const Place& at, Shared& s, Carry& carry, int buffer, float d) {
    __syncthreads();
    float sums[3][SHARE];
#pragma unroll
    for (int j = 0; j < 3; ++j) {
#pragma unroll
        for (int i = 0; i < SHARE; ++i) {
            sums[j][i] = 0.0f;
            for (int slice = 0; slice < SLICES; ++slice)
                sums[j][i] += slice_sum(s, slice, j, own_row(at, i), at.own_channel);
        }
    }
    finish<SHARE, SLICES>(s, at, buffer, own_step(at, 0), d, sums[0], sums[1], sums[2], carry.sums);
}

// The 32 steps of a chunk, with everything in shared memory.
__device__ __forceinline__ void walk_chunk(const Place& at, Shared& s, Carry& carry, const Operands& operands, int buffer, float d, float (&h)[4],
                                           u32 resets) {
    enter(at, s, carry, h, resets);
    for (int t0 = CHUNK - SUB; t0 >= 0; t0 -= SUB) {
        float a[SUB][4], w[SUB][4], y[2] = {0.0f, 0.0f}, lambda_b[2], p[2];
        Pair pair;
        replay(at, s, carry, operands, t0, resets, pair, a, w, y);
        walk_back(at, s, carry, operands, t0, pair, a, w, lambda_b, p);
        int t = t0 + at.own_step;
        if (SLICES == 1) {
            finish<2, 1>(s, at, buffer, t, d, y, lambda_b, p, carry.sums);
        } else {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                slice_sum(s, at.slice, 0, t + 4 * half, at.own_channel) = y[half];
                slice_sum(s, at.slice, 1, t + 4 * half, at.own_channel) = lambda_b[half];
                slice_sum(s, at.slice, 2, t + 4 * half, at.own_channel) = p[half];
            }
        }
    }
    if (SLICES > 1) add_slices(at, s, carry, buffer, d);
}

// ---- the kernel -------------------------------------------------------------------------------------------------------------

// The sums of dD and of the bias's gradient over the lanes and slices of a channel.
__device__ __forceinline__ void put_channel_sums(const BackwardParams& p, const Place& at, Shared& s, const ChannelSums& sums) {
    // The lanes of a channel differ in their own step: in bits 2 and 3, or 1 and 4.
    constexpr int STEPS[2] = {EXACT ? 4 : 2, EXACT ? 8 : 16};
    float d = sums.d, bias = sums.bias;
#pragma unroll
    for (int step : STEPS) {
        d += __shfl_xor_sync(0xffffffffu, d, step);
        bias += __shfl_xor_sync(0xffffffffu, bias, step);
    }
    float* shared = reinterpret_cast<float*>(s.steps);  // (slices, 2, channels)
    if (at.own_step == 0) {
        shared[at.slice * 2 * CHANNELS + at.own_channel] = d;
        shared[(at.slice * 2 + 1) * CHANNELS + at.own_channel] = bias;
    }
    __syncthreads();
    for (u32 i = at.tid; i < 2 * CHANNELS; i += THREADS) {
        float sum = 0.0f;
        for (int slice = 0; slice < SLICES; ++slice) sum += shared[slice * 2 * CHANNELS + i];
        float* parts = i < CHANNELS ? p.d_parts : p.bias_parts;
        if (parts && (int)(i % CHANNELS) < at.count)
            parts[(at.segment * p.batch + at.batch) * p.channels + at.first_channel + i % CHANNELS] = sum;
    }
}

// The own channel's value of D or of the bias of Δ.
__device__ __forceinline__ float of_channel(const BackwardParams& p, const Place& at, const float* values) {
    return values && at.own_channel < at.count ? values[at.first_channel + at.own_channel] : 0.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) selective_scan_backward(const __grid_constant__ BackwardParams p) {
    extern __shared__ __align__(16) u8 shared_bytes[];
    Shared& s = *reinterpret_cast<Shared*>(shared_bytes);
    const Place at = place(p);
    int first = at.segment * p.segment_chunks, last = min(first + p.segment_chunks, p.chunks) - 1;
    i64 plane = (i64)p.channels * p.state, slot = at.segment * p.batch + at.batch;

    Operands operands;
    if (!EXACT) fill_operands(at, &s.bc_sums[0][0][0][0], operands);
    Carry carry;
    carry.sums = {0.0f, 0.0f};
    load_states(p, at, p.a, carry.a);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        carry.a[r] *= LOG2_E;
        carry.carry[r] = carry.da[r] = 0.0f;
    }
    const float* into = p.segments > 1 ? p.carry + slot * plane : p.dlast ? p.dlast + at.batch * plane : nullptr;
    if (into) load_states(p, at, into, carry.carry);

    Chunk chunk = chunk_at(p, at, last), later = chunk;
    get_tile(p, at, s, chunk);
    copy_commit();
    for (int number = last; number >= first; --number) {
        float h[4];
        load_states(p, at, p.checkpoints + (at.batch * p.chunks + number) * plane, h);
        float bias = of_channel(p, at, p.bias);
        u32 resets = resets_of(p, at, chunk, number);
        copy_wait<0>();
        __syncthreads();
        if (number < last) {
            put_tile(p, at, s, later);
            put_bc_sums(p, s, at, later);
        }
        later = chunk;
        chunk = chunk_at(p, at, number - 1);
        widen_bc(p, at, s, later);
        prepare(p, at, s, later, bias);
        __syncthreads();
        if (number > first) get_tile(p, at, s, chunk);
        copy_commit();
        walk_chunk(at, s, carry, operands, later.buffer, of_channel(p, at, p.d), h, resets);
    }
    __syncthreads();
    put_tile(p, at, s, later);
    put_bc_sums(p, s, at, later);
    store_states(p, at, p.a_parts + slot * plane, carry.da);
    if (p.dinitial && at.segment == 0) store_states(p, at, p.dinitial + at.batch * plane, carry.carry);
    put_channel_sums(p, at, s, carry.sums);
}
