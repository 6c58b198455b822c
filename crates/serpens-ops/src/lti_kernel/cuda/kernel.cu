// The convolution kernel of a diagonal system and its gradients. Time goes in blocks of STEPS: Ā^(t0+j) = Ā^t0 Ā^j,
// with both factors rounded once from f64, so no rounding accumulates along the kernel.

constexpr int CHANNELS = 32; // a block's, one a lane
constexpr int WARPS = 8;
constexpr int STEPS = 16;
constexpr int FRONTS = 32; // blocks of STEPS in a block's segment of the kernel
constexpr int FRONTS_A_WARP = FRONTS / WARPS;
constexpr int SLICE = 4; // states whose factors are in shared memory at a time

// A block's tile of channels and its segment of the time; lanes beyond the last channel repeat it.
struct KernelPlace {
    int lane, warp, channel;
    i64 segment;
    bool active;
    __device__ __forceinline__ explicit KernelPlace(int channels) {
        int tiles = (channels + CHANNELS - 1) / CHANNELS;
        lane = (int)threadIdx.x % CHANNELS;
        warp = (int)threadIdx.x / CHANNELS;
        channel = (int)(blockIdx.x % tiles) * CHANNELS + lane;
        segment = blockIdx.x / tiles;
        active = channel < channels;
        channel = active ? channel : channels - 1;
    }
};

// Ā^STEPS
__device__ __forceinline__ C64 stride(C64 a_bar) {
#pragma unroll
    for (int i = 1; i < STEPS; i *= 2) a_bar = a_bar * a_bar;
    return a_bar;
}

// The factors of a state, by half of a block's warps each: Ā^j, and s C B̄ Ā^t0.
__device__ __forceinline__ void factors(
    const SystemParams& system, const KernelPlace& place, int n, i64 start, Complex (*steps)[CHANNELS], Complex (*fronts)[CHANNELS]
) {
    bool of_fronts = place.warp >= WARPS / 2;
    if (n >= system.states) {
        if (of_fronts)
            for (int i = 0; i < FRONTS; ++i) fronts[i][place.lane] = {0.0f, 0.0f};
        return;
    }
    Discrete state(system, place.channel, n);
    if (of_fronts) {
        C64 front = state.weight() * state.power((double)start) * scale(system), by = stride(state.a_bar);
        for (int i = 0; i < FRONTS; ++i, front = front * by) fronts[i][place.lane] = rounded(front);
    } else {
        C64 power = {1.0, 0.0};
        for (int j = 0; j < STEPS; ++j, power = power * state.a_bar) steps[j][place.lane] = rounded(power);
    }
}

extern "C" __global__ void __launch_bounds__(CHANNELS * WARPS) lti_kernel_forward(const __grid_constant__ LtiKernelParams p) {
    __shared__ Complex steps[SLICE][STEPS][CHANNELS], fronts[SLICE][FRONTS][CHANNELS];
    KernelPlace place(p.system.channels);
    i64 start = place.segment * (FRONTS * STEPS);
    float sums[FRONTS_A_WARP][STEPS] = {};
    for (int slice = 0; slice < p.system.states; slice += SLICE) {
        int n = place.warp % SLICE;
        factors(p.system, place, slice + n, start, steps[n], fronts[n]);
        __syncthreads();
        for (int n = 0; n < SLICE && slice + n < p.system.states; ++n) {
            Complex front[FRONTS_A_WARP];
#pragma unroll
            for (int i = 0; i < FRONTS_A_WARP; ++i) front[i] = fronts[n][place.warp * FRONTS_A_WARP + i][place.lane];
#pragma unroll
            for (int j = 0; j < STEPS; ++j) {
                Complex step = steps[n][j][place.lane];
#pragma unroll
                for (int i = 0; i < FRONTS_A_WARP; ++i) {
                    sums[i][j] = fmaf(front[i].re, step.re, sums[i][j]);
                    sums[i][j] = fmaf(-front[i].im, step.im, sums[i][j]);
                }
            }
        }
        __syncthreads();
    }
    if (!place.active) return;
    if (start == 0 && place.warp == 0 && p.system.d != nullptr) sums[0][0] += p.system.d[place.channel];
    i64 first = start + place.warp * (FRONTS_A_WARP * STEPS);
#pragma unroll
    for (int i = 0; i < FRONTS_A_WARP; ++i)
#pragma unroll
        for (int j = 0; j < STEPS; ++j) {
            i64 t = first + i * STEPS + j;
            if (t < p.length) p.k[t * p.system.channels + place.channel] = sums[i][j];
        }
}

// S0 = Σ_t dK_t Ā^t and S1 = Σ_t t dK_t Ā^t.
struct Sums {
    C64 zeroth, first;
};

// dK from t on, zeros from `end` on.
__device__ __forceinline__ void load(const LtiGradientsParams& p, const KernelPlace& place, i64 t, i64 end, float (&values)[STEPS]) {
    const float* from = p.dk + t * p.system.channels + place.channel;
    int left = end - t < STEPS ? (int)(end - t) : STEPS;
#pragma unroll
    for (int j = 0; j < STEPS; ++j) values[j] = j < left ? from[(i64)j * p.system.channels] : 0.0f;
}

// One segment's sums for one state.
__device__ __forceinline__ Sums sums_of(const LtiGradientsParams& p, const KernelPlace& place, int n) {
    Discrete state(p.system, place.channel, n);
    i64 start = place.segment * p.segment;
    Complex steps[STEPS];
    C64 power = {1.0, 0.0};
#pragma unroll
    for (int j = 0; j < STEPS; ++j, power = power * state.a_bar) steps[j] = rounded(power);
    C64 front = state.power((double)start);
    Sums sums = {};
    i64 end = start + p.segment < p.length ? start + p.segment : p.length;
    float values[STEPS];
    load(p, place, start, end, values);
    for (i64 t = start; t < end; t += STEPS, front = front * power) {
        Complex zeroth = {}, first = {}; // Σ_j dK Ā^j and Σ_j j dK Ā^j
        float now[STEPS];
#pragma unroll
        for (int j = 0; j < STEPS; ++j) now[j] = values[j];
        load(p, place, t + STEPS, end, values); // ahead
#pragma unroll
        for (int j = 0; j < STEPS; ++j) {
            zeroth.re = fmaf(now[j], steps[j].re, zeroth.re);
            zeroth.im = fmaf(now[j], steps[j].im, zeroth.im);
            float weighted = now[j] * (float)j;
            first.re = fmaf(weighted, steps[j].re, first.re);
            first.im = fmaf(weighted, steps[j].im, first.im);
        }
        C64 of_block = front * C64{zeroth.re, zeroth.im};
        sums.zeroth = sums.zeroth + of_block;
        sums.first = sums.first + of_block * (double)t + front * C64{first.re, first.im};
    }
    return sums;
}

extern "C" __global__ void __launch_bounds__(CHANNELS * WARPS) lti_kernel_sums(const __grid_constant__ LtiGradientsParams p) {
    KernelPlace place(p.system.channels);
    for (int n = place.warp; n < p.system.states; n += WARPS) {
        Sums sums = sums_of(p, place, n);
        if (place.active) p.sums[(place.segment * p.system.states + n) * p.system.channels + place.channel] = sums;
    }
}

__device__ __forceinline__ void put(float* re, float* im, i64 i, C64 derivative) {
    re[i] = (float)derivative.re;
    // A change dx of the operand changes the loss by Re(derivative dx).
    if (im != nullptr) im[i] = (float)-derivative.im;
}

// Folds the segments in order and takes the gradients from the sums: a warp for each channel, its lanes over the
// states.
extern "C" __global__ void __launch_bounds__(CHANNELS * WARPS) lti_kernel_gradients(const __grid_constant__ LtiGradientsParams p) {
    int lane = (int)threadIdx.x % 32;
    i64 channel = (i64)blockIdx.x * WARPS + threadIdx.x / 32;
    if (channel >= p.system.channels) return;
    double dt = 0.0;
    for (int n = lane; n < p.system.states; n += 32) {
        C64 zeroth = {}, first = {};
        for (i64 segment = 0; segment < p.segments; ++segment) {
            Sums sums = p.sums[(segment * p.system.states + n) * p.system.channels + channel];
            zeroth = zeroth + sums.zeroth;
            first = first + sums.first;
        }
        Discrete state(p.system, (int)channel, n);
        C64 of_weight = zeroth * scale(p.system), of_b_bar = of_weight * state.c, of_phi = of_b_bar * state.b;
        C64 of_x = state.weight() * first * scale(p.system); // through Ā^t = exp(t x), x = ΔA
        dt += (of_x * state.a + of_phi * state.a_bar).re;
        i64 i = channel * p.system.states + n;
        put(p.gradients.a, p.gradients.a_im, i, of_x * state.dt + of_phi * state.slope() * (state.dt * state.dt));
        put(p.gradients.b, p.gradients.b_im, i, of_b_bar * state.phi());
        put(p.gradients.c, p.gradients.c_im, i, of_weight * state.b_bar());
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) dt += __shfl_xor_sync(0xffffffffu, dt, step);
    if (lane == 0) {
        p.gradients.dt[channel] = (float)dt;
        if (p.gradients.d != nullptr) p.gradients.d[channel] = p.length > 0 ? p.dk[channel] : 0.0f;
    }
}
