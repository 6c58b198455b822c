// The gradients of the selective scan with a complex A.
//
// SPLIT lanes share a channel and hold PER_LANE numbers of its state each. A block has CHANNELS channels of one
// sequence and walks from the last chunk of 32 steps to the first. From the checkpoint of a chunk the states before
// every 8 steps are computed, then 8 steps at a time, from the last to the first, the decays and the decayed states
// w = a h, and with those the walk back:
//
//     forward   h_t = w_t + δ_t u_t B_t              y_t = 2 Re <C_t, h_t>
//     back      λ_t = 2 g_t conj(C_t) + conj(a_(t+1)) λ_(t+1)
//
// where λ holds the gradients of the real and of the imaginary part of h, and g that of y before the gate.
//
// Macros: IO, STATE (N), SPLIT, PER_LANE, WARPS; GATED, SOFTPLUS, STARTS: 0 or 1. From the host too: SUB, the steps of
// which all is in registers and in shared memory.

constexpr int WARP_CHANNELS = 32 / SPLIT;
constexpr int CHANNELS = WARPS * WARP_CHANNELS;
constexpr int THREADS = 32 * WARPS;
constexpr int BC = 4 * STATE;  // B and C of a step: real parts, imaginary parts

// A step of a channel.
struct Step {
    float delta, slope;  // dδ/dΔ
    float u, g, dz;      // dz: the gradient of z over y
};

struct Shared {
    Step steps[SUB][CHANNELS];
    float bc[SUB][BC];
    float sums[WARPS][SUB][BC];  // the gradients of B and C
};

struct Walk {
    const ScanBackwardParams& p;
    Shared& s;
    int lane, warp, part, channel;
    int group, block, first_channel, channels;  // of the block; channels that exist
    i64 batch;
    bool exists;
    i64 states;  // where this channel's numbers begin in (batch, channels, 2N)
    float a_re[PER_LANE], a_im[PER_LANE];
    Turns turns_im[PER_LANE];
    float h[2][PER_LANE], carry[2][PER_LANE], da[2][PER_LANE];
    float d, dd, dbias;

    __device__ __forceinline__ Walk(const ScanBackwardParams& p, Shared& s) : p(p), s(s), lane(threadIdx.x % 32), warp(threadIdx.x / 32) {
        part = lane % SPLIT;
        channel = warp * WARP_CHANNELS + lane / SPLIT;
        block = blockIdx.x % p.group_blocks;
        group = blockIdx.x / p.group_blocks % p.groups;
        batch = blockIdx.x / p.group_blocks / p.groups;
        int of_group = p.channels / p.groups;
        first_channel = group * of_group + block * CHANNELS;
        channels = min(CHANNELS, of_group - block * CHANNELS);
        exists = channel < channels;
        int global = first_channel + (exists ? channel : 0);
        states = (batch * p.channels + global) * 2 * STATE;
        d = p.d ? p.d[global] : 0.0f;
        dd = dbias = 0.0f;
#pragma unroll
        for (int j = 0; j < PER_LANE; ++j) {
            bool state = number(j) < STATE;
            a_re[j] = state ? p.a[(i64)global * STATE + number(j)] : 0.0f;
            a_im[j] = state ? p.a_im[(i64)global * STATE + number(j)] : 0.0f;
            turns_im[j] = turns(a_im[j]);
            da[0][j] = da[1][j] = carry[0][j] = carry[1][j] = 0.0f;
        }
        if (p.dlast) load_states(p.dlast + states, carry);
    }

    __device__ __forceinline__ int number(int j) const { return part + SPLIT * j; }
    __device__ __forceinline__ void load_states(const float* from, float (&to)[2][PER_LANE]) const {
#pragma unroll
        for (int j = 0; j < PER_LANE; ++j) {
            bool state = number(j) < STATE;
            to[0][j] = state ? from[number(j)] : 0.0f;
            to[1][j] = state ? from[STATE + number(j)] : 0.0f;
        }
    }
    // The position of a step.
    __device__ __forceinline__ i64 row(i64 t) const { return batch * p.length + (p.reverse ? p.length - 1 - t : t); }
    __device__ __forceinline__ bool resets(i64 t) const {
        return STARTS && t < p.length && p.starts[row(t)];
    }
    __device__ __forceinline__ static IO& value(const Rows& rows, i64 row, int column) {
        return *reinterpret_cast<IO*>(static_cast<u8*>(rows.at) + (row * rows.stride + column * (int)sizeof(IO)));
    }
    // Number n of B or of C, which may be a padded one.
    __device__ __forceinline__ float bc(int i, int first, int n) const { return n < STATE ? s.bc[i][first + n] : 0.0f; }

    // Puts SUB steps from t on into shared memory. Steps past the end have δ = g = 0, which changes nothing.
    __device__ __forceinline__ void stage(i64 t) {
        __syncthreads();
        for (int i = threadIdx.x; i < SUB * CHANNELS; i += THREADS) {
            int step = i / CHANNELS, channel = i % CHANNELS;
            Step to = {};
            if (t + step < p.length && channel < channels) to = step_of(row(t + step), first_channel + channel);
            s.steps[step][channel] = to;
        }
        for (int i = threadIdx.x; i < SUB * BC; i += THREADS) {
            int step = i / BC, n = i % BC;
            bool is_c = n >= 2 * STATE;
            float x = 0.0f;
            if (t + step < p.length)
                x = to_f32(value(is_c ? p.c : p.b, row(t + step), group * 2 * STATE + n - is_c * 2 * STATE));
            s.bc[step][n] = x;
        }
        __syncthreads();
    }
    __device__ __forceinline__ Step step_of(i64 row, int channel) const {
        Step to;
        float x = to_f32(value(p.delta, row, channel)) + (p.bias ? p.bias[channel] : 0.0f);
        to.delta = SOFTPLUS ? softplus(x) : x;
        to.slope = SOFTPLUS ? sigmoid(x) : 1.0f;
        to.u = to_f32(value(p.u, row, channel));
        to.g = to_f32(value(p.dy, row, channel));
        to.dz = 0.0f;
        if (GATED) {
            float z = to_f32(value(p.z, row, channel));
            to.dz = to.g * silu_slope(z);
            to.g *= silu(z);
        }
        return to;
    }

    // exp(δ A), or 0 where the state starts anew, and with it w = exp(δ A) h and the next h.
    __device__ __forceinline__ void advance(int i, bool reset, int j, float (&decay)[2], float (&w)[2]) {
        const Step& step = s.steps[i][channel];
        float size = reset ? 0.0f : decay_of(step.delta, a_re[j] * LOG2_E);
        turn(step.delta, turns_im[j], size, decay[0], decay[1]);
        float input = step.delta * step.u;
        w[0] = decay[0] * h[0][j] - decay[1] * h[1][j];
        w[1] = decay[0] * h[1][j] + decay[1] * h[0][j];
        h[0][j] = w[0] + input * bc(i, 0, number(j));
        h[1][j] = w[1] + input * bc(i, STATE, number(j));
    }

    // The sum over the lanes of one channel, and over the channels of the warp, for all of them.
    __device__ __forceinline__ static float over_numbers(float x) {
#pragma unroll
        for (int mask = 1; mask < SPLIT; mask *= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
        return x;
    }
    __device__ __forceinline__ static float over_channels(float x) {
#pragma unroll
        for (int mask = SPLIT; mask < 32; mask *= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
        return x;
    }

    // Adds up what the channels of the warp give to number `n` of a quarter of B and C, for the block's sum.
    __device__ __forceinline__ void add_bc(int i, int first, int n, float x) {
        x = over_channels(exists ? x : 0.0f);
        if (lane < SPLIT && n < STATE) s.sums[warp][i][first + n] = x;
    }

    // SUB steps from t on, forward from h and back again.
    __device__ __forceinline__ void walk(i64 t) {
        float decays[SUB][PER_LANE][2], w[SUB][PER_LANE][2];
#pragma unroll
        for (int i = 0; i < SUB; ++i) {
            float g = 2.0f * s.steps[i][channel].g, y = 0.0f;
            bool reset = resets(t + i);
#pragma unroll
            for (int j = 0; j < PER_LANE; ++j) {
                int n = number(j);
                advance(i, reset, j, decays[i][j], w[i][j]);
                y += bc(i, 2 * STATE, n) * h[0][j] - bc(i, 3 * STATE, n) * h[1][j];
                add_bc(i, 2 * STATE, n, g * h[0][j]);
                add_bc(i, 3 * STATE, n, -g * h[1][j]);
            }
            y = over_numbers(y);
            if (GATED && part == 0 && exists && t + i < p.length) {
                const Step& step = s.steps[i][channel];
                value(p.dz, row(t + i), first_channel + channel) = from_f32<IO>(step.dz * (2.0f * y + d * step.u));
            }
        }
#pragma unroll
        for (int i = SUB - 1; i >= 0; --i) step_back(t + i, i, decays[i], w[i]);
    }

    __device__ __forceinline__ void step_back(i64 t, int i, const float (&decay)[PER_LANE][2], const float (&w)[PER_LANE][2]) {
        const Step step = s.steps[i][channel];
        float g = 2.0f * step.g, to_input = 0.0f, to_delta = 0.0f;
#pragma unroll
        for (int j = 0; j < PER_LANE; ++j) {
            int n = number(j);
            float re = carry[0][j] + g * bc(i, 2 * STATE, n), im = carry[1][j] - g * bc(i, 3 * STATE, n);
            to_input += re * bc(i, 0, n) + im * bc(i, STATE, n);
            float along = re * w[j][0] + im * w[j][1], across = im * w[j][0] - re * w[j][1];
            to_delta += a_re[j] * along + a_im[j] * across;
            da[0][j] += step.delta * along;
            da[1][j] += step.delta * across;
            add_bc(i, 0, n, step.delta * step.u * re);
            add_bc(i, STATE, n, step.delta * step.u * im);
            carry[0][j] = decay[j][0] * re + decay[j][1] * im;
            carry[1][j] = decay[j][0] * im - decay[j][1] * re;
        }
        to_input = over_numbers(to_input);
        float ddelta = (over_numbers(to_delta) + to_input * step.u) * step.slope;
        dd += step.g * step.u;
        dbias += ddelta;
        if (part == 0 && exists && t < p.length) {
            value(p.du, row(t), first_channel + channel) = from_f32<IO>(d * step.g + step.delta * to_input);
            value(p.ddelta, row(t), first_channel + channel) = from_f32<IO>(ddelta);
        }
    }

    // The block's part of the gradients of B and C for SUB steps from t on.
    __device__ __forceinline__ void store_bc(i64 t) {
        __syncthreads();
        i64 rows = p.batch * p.length, width = (i64)p.groups * 2 * STATE;
        for (int i = threadIdx.x; i < SUB * BC; i += THREADS) {
            int step = i / BC, n = i % BC;
            if (t + step >= p.length) break;
            float sum = 0.0f;
            for (int from = 0; from < WARPS; ++from) sum += s.sums[from][step][n];
            bool is_c = n >= 2 * STATE;
            i64 to = (block * rows + row(t + step)) * 2 * width + is_c * (width - 2 * STATE) + group * 2 * STATE + n;
            p.bc_partials[to] = sum;
        }
    }

    __device__ __forceinline__ void chunk(i64 number) {
        i64 first = number * CHUNK;
        load_states(p.checkpoints + (batch * (p.chunks - 1) + number) * p.channels * 2 * STATE + states, h);
        float entry[CHUNK / SUB][2][PER_LANE];
#pragma unroll
        for (int sub = 0; sub < CHUNK / SUB; ++sub) {
#pragma unroll
            for (int j = 0; j < PER_LANE; ++j) entry[sub][0][j] = h[0][j], entry[sub][1][j] = h[1][j];
            if (sub + 1 == CHUNK / SUB) break;
            stage(first + sub * SUB);
#pragma unroll
            for (int i = 0; i < SUB; ++i) {
                bool reset = resets(first + sub * SUB + i);
                float decay[2], w[2];
#pragma unroll
                for (int j = 0; j < PER_LANE; ++j) advance(i, reset, j, decay, w);
            }
        }
#pragma unroll
        for (int sub = CHUNK / SUB - 1; sub >= 0; --sub) {
#pragma unroll
            for (int j = 0; j < PER_LANE; ++j) h[0][j] = entry[sub][0][j], h[1][j] = entry[sub][1][j];
            stage(first + sub * SUB);
            walk(first + sub * SUB);
            store_bc(first + sub * SUB);
        }
    }

    __device__ __forceinline__ void run() {
        for (i64 at = p.chunks - 1; at >= 0; --at) chunk(at);
        if (!exists) return;
        i64 at = states / 2;
#pragma unroll
        for (int j = 0; j < PER_LANE; ++j) {
            int n = number(j);
            if (n >= STATE) break;
            p.a_partials[at + n] = da[0][j];
            p.a_im_partials[at + n] = da[1][j];
            if (p.dinitial) p.dinitial[states + n] = carry[0][j], p.dinitial[states + STATE + n] = carry[1][j];
        }
        if (part == 0 && p.d_partials) p.d_partials[at / STATE] = dd;
        if (part == 0 && p.bias_partials) p.bias_partials[at / STATE] = dbias;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) selective_scan_backward_complex(const __grid_constant__ ScanBackwardParams p) {
    extern __shared__ __align__(16) u8 memory[];
    Walk(p, *reinterpret_cast<Shared*>(memory)).run();
}
