// What goes before the walk: the gradients that flow back into the segments of time.

struct SegmentShared {
    IO tiles[2][3][CHUNK][CHANNELS];  // Δ, z, dy
    IO c_raw[2][BC_AHEAD ? CHUNK : 1][PADDED];
    float c[CHUNK][PADDED];
    float2 steps[CHUNK][CHANNELS + 8];  // δ, g
};

__device__ __forceinline__ void get_segment_tile(const BackwardParams& p, const Place& at, SegmentShared& s, const Chunk& chunk) {
    auto& tile = s.tiles[chunk.buffer];
    share_out<CHUNK * PIECES>(at, [&](u32 i) {
        u32 t = i / PIECES, c = i % PIECES * VEC, column = at.first_channel + c, to = swizzled<IO>(t, c);
        u32 row = row_of(p, chunk, min((int)t, chunk.steps - 1));
        bool exists = (int)t < chunk.steps && (int)c < at.count;
        fetch<VEC>(&tile[0][t][to], address(p.delta, row, column), exists);
        if (GATE) fetch<VEC>(&tile[1][t][to], address(p.z, row, column), exists);
        fetch<VEC>(&tile[2][t][to], address(p.dy, row, column), exists);
    });
    constexpr u32 C_PIECES = PADDED / BC_VEC;
    share_out<BC_AHEAD ? CHUNK * C_PIECES : 0>(at, [&](u32 i) {
        u32 t = i / C_PIECES, n = i % C_PIECES * BC_VEC;
        bool exists = (int)t < chunk.steps && (int)n < p.state;
        u32 row = row_of(p, chunk, min((int)t, chunk.steps - 1));
        fetch<BC_VEC>(&s.c_raw[chunk.buffer][t][n], address(p.c, row, at.group * p.state + n), exists);
    });
}

__device__ __forceinline__ void widen_c(const BackwardParams& p, const Place& at, SegmentShared& s, const Chunk& chunk) {
    share_out<CHUNK * PADDED / 4>(at, [&](u32 i) {
        u32 t = i / (PADDED / 4), n = i % (PADDED / 4) * 4;
        float values[4];
        if (BC_AHEAD) {
            load<4>(&s.c_raw[chunk.buffer][t][n], values);
        } else {
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                bool exists = (int)t < chunk.steps && (int)(n + j) < p.state;
                values[j] = exists ? to_f32(*address(p.c, row_of(p, chunk, t), at.group * p.state + n + j)) : 0.0f;
            }
        }
        store<4>(&s.c[t][n], values);
    });
}

__device__ __forceinline__ void prepare_segment(const BackwardParams& p, const Place& at, SegmentShared& s, const Chunk& chunk,
                                                const float (&bias)[2]) {
    auto& tile = s.tiles[chunk.buffer];
    int channel = prepared_channel(at);
    float x[Prepared::COUNT][2], g[Prepared::COUNT][2], slope;
#pragma unroll
    for (int i = 0; i < Prepared::COUNT; ++i) {
        int t = Prepared::row(at, i);
        u32 c = swizzled<IO>(t, channel);
        float z[2];
        load<2>(&tile[0][t][c], x[i]);
        load<2>(&tile[2][t][c], g[i]);
        if (GATE) load<2>(&tile[1][t][c], z);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            x[i][j] += bias[j];
            if (p.softplus) x[i][j] = softplus_and_slope(x[i][j], slope);
            if (GATE) g[i][j] *= silu(z[j]);
        }
    }
#pragma unroll
    for (int i = 0; i < Prepared::COUNT; ++i) {
        int t = Prepared::step(at, i);
        if (!Prepared::EVEN && t >= CHUNK) break;
        bool exists = t < chunk.steps;
        float steps[4] = {exists ? x[i][0] : 0.0f, g[i][0], exists ? x[i][1] : 0.0f, g[i][1]};
        store<4>(&s.steps[t][channel].x, steps);
    }
}

// For every segment but the first, what flows back out of it where nothing flows in, into the carry of the one before, and Σ δ.
extern "C" __global__ void __launch_bounds__(THREADS) selective_scan_backward_segments(const __grid_constant__ BackwardParams p) {
    extern __shared__ __align__(16) u8 shared_bytes[];
    SegmentShared& s = *reinterpret_cast<SegmentShared*>(shared_bytes);
    const Place at = place(p);
    int first = (at.segment + 1) * p.segment_chunks, last = min(first + p.segment_chunks, p.chunks) - 1;
    i64 slot = at.segment * p.batch + at.batch;
    float bias[2];
    of_prepared(p, at, p.bias, bias);
    float a2[4], carry[4] = {0.0f, 0.0f, 0.0f, 0.0f}, sum = 0.0f;
    load_states(p, at, p.a, a2);
#pragma unroll
    for (int r = 0; r < 4; ++r) a2[r] *= LOG2_E;
    bool reset = false;

    Chunk chunk = chunk_at(p, at, last);
    get_segment_tile(p, at, s, chunk);
    copy_commit();
    for (int number = last; number >= first; --number) {
        u32 resets = resets_of(p, at, chunk, number);
        reset |= resets != 0;
        copy_wait<0>();
        __syncthreads();
        widen_c(p, at, s, chunk);
        prepare_segment(p, at, s, chunk, bias);
        chunk = chunk_at(p, at, number - 1);
        if (number > first) get_segment_tile(p, at, s, chunk);
        copy_commit();
        __syncthreads();
#pragma unroll 8
        for (int t = CHUNK - 1; t >= 0; --t) {
            float2 step = s.steps[t][at.channel];
            float a[4], c[4];
            decays(a, a2, step.x, resets, t);
            load<4>(&s.c[t][at.slice * 16 + at.state_lane * 4], c);
#pragma unroll
            for (int r = 0; r < 4; ++r) carry[r] = a[r] * (step.y * c[r] + carry[r]);
            sum += step.x;
        }
    }
    store_states(p, at, p.carry + slot * p.channels * p.state, carry);
    if (at.slice == 0 && at.state_lane == 0 && at.channel < at.count)
        p.delta_sums[slot * p.channels + at.first_channel + at.channel] = reset ? __int_as_float(0x7f800000) : sum;
}

constexpr int COMBINE_THREADS = 128;

// From the last segment to the first, what truly flows into each: one thread for each state.
extern "C" __global__ void __launch_bounds__(COMBINE_THREADS) selective_scan_backward_combine(const __grid_constant__ BackwardParams p) {
    i64 plane = (i64)p.channels * p.state, states = p.batch * plane;
    i64 i = (i64)blockIdx.x * COMBINE_THREADS + threadIdx.x;
    if (i >= states) return;
    float a2 = p.a[i % plane] * LOG2_E, carry = p.dlast ? p.dlast[i] : 0.0f;
    p.carry[(p.segments - 1) * states + i] = carry;
    for (int segment = p.segments - 2; segment >= 0; --segment) {
        float sum = p.delta_sums[segment * p.batch * p.channels + i / p.state];
        float decay = sum == __int_as_float(0x7f800000) ? 0.0f : exp2_fast(a2 * sum);
        carry = p.carry[segment * states + i] + decay * carry;
        p.carry[segment * states + i] = carry;
    }
}
