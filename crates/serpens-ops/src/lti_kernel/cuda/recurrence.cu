// A diagonal system step by step, from a carried state. GROUP neighbouring lanes have one channel, and each of them
// PER_LANE of its states, for several sequences of the batch one after the other; u comes and y goes GROUP steps at a
// time.

constexpr int THREADS = 128;

// Ā, B̄ and s C of a lane's states.
struct Lane {
    Complex a[PER_LANE], b[PER_LANE], c[PER_LANE];
    int first; // state
    __device__ __forceinline__ Lane(const SystemParams& system, int channel, int lane) : first(lane) {
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            a[i] = b[i] = c[i] = {0.0f, 0.0f};
            int n = first + i * GROUP;
            if (n >= system.states) continue;
            Discrete state(system, channel, n);
            a[i] = rounded(state.a_bar);
            b[i] = rounded(state.b_bar());
            c[i] = rounded(state.c * scale(system));
        }
    }
    // h = Ā h + B̄ u; this lane's part of Re(s C h).
    __device__ __forceinline__ float step(float u, Complex (&h)[PER_LANE]) const {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            float re = fmaf(a[i].re, h[i].re, fmaf(-a[i].im, h[i].im, b[i].re * u));
            h[i].im = fmaf(a[i].re, h[i].im, fmaf(a[i].im, h[i].re, b[i].im * u));
            h[i].re = re;
            sum = fmaf(c[i].re, re, fmaf(-c[i].im, h[i].im, sum));
        }
        return sum;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) lti_recurrence(const __grid_constant__ RecurrenceParams p) {
    const SystemParams& system = p.system;
    int groups = (system.channels + THREADS / GROUP - 1) / (THREADS / GROUP); // of blocks, for all channels
    int lane = (int)threadIdx.x % GROUP;
    int channel = (int)(blockIdx.x % groups) * (THREADS / GROUP) + (int)threadIdx.x / GROUP;
    bool active = channel < system.channels; // idle lanes take part in the shuffles
    channel = active ? channel : 0;
    Lane states(system, channel, lane);
    float d = system.d == nullptr ? 0.0f : system.d[channel];
    bool paired = system.a_im != nullptr;
    i64 first = blockIdx.x / groups * p.items, last = first + p.items < p.batch ? first + p.items : p.batch;
    for (i64 item = first; item < last; ++item) {
        float* values = p.state + (item * system.channels + channel) * (paired ? 2 : 1) * system.states;
        Complex h[PER_LANE];
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            int n = lane + i * GROUP;
            h[i].re = n < system.states ? values[n] : 0.0f;
            h[i].im = paired && n < system.states ? values[system.states + n] : 0.0f;
        }
        for (i64 start = 0; start < p.length; start += GROUP) {
            i64 t = item * p.length + start + lane;
            bool mine = active && start + lane < p.length;
            float us = mine ? to_f32(p.u[t * p.u_stride + channel]) : 0.0f, ys = 0.0f;
            int steps = p.length - start < GROUP ? (int)(p.length - start) : GROUP;
            for (int step = 0; step < steps; ++step) {
                float u = __shfl_sync(0xffffffffu, us, step, GROUP);
                float y = fmaf(d, u, warp_sum<GROUP>(states.step(u, h)));
                ys = lane == step ? y : ys;
            }
            if (mine) p.y[t * p.y_stride + channel] = from_f32<IO>(ys);
        }
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i) {
            int n = lane + i * GROUP;
            if (!active || n >= system.states) continue;
            values[n] = h[i].re;
            if (paired) values[system.states + n] = h[i].im;
        }
    }
}
