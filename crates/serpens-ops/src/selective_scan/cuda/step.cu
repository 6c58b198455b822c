// One position of a few sequences, as mod.rs defines it, or of many that step_many.cu is not for. After packet.cuh and
// decay.cuh. LANES lanes of a warp share a channel: each has a part of its states, of A and of the row of W_Δ, which
// stay in registers while the block takes slot after slot.
//
// Macros: IO (float or bf16: u, Δ, B, C, z, y), H (float or bf16: states), LOW (float or bf16: W_Δ), RANK (of W_Δ; 0
// where Δ is given), STATE (N), WIDTH (values of an access to states: 4, 2 or 1), VECTOR (whether rows of what is
// low-rank allow 8 values, of B and C WIDTH), HELD (whether the input is; 0 or 1).

constexpr int LANES = 4;
constexpr int THREADS = 128;
constexpr int CHANNELS = THREADS / LANES;
constexpr int ACCESSES = (STATE + LANES * WIDTH - 1) / (LANES * WIDTH);
constexpr int STATES = ACCESSES * WIDTH;  // of a lane
constexpr int CHUNK = 8;                   // values of an access to the row of W_Δ
constexpr int CHUNKS = (RANK + LANES * CHUNK - 1) / (LANES * CHUNK);
constexpr bool KEPT = CHUNKS <= 8;

// COUNT values of a row from `at` on; zeros behind its `length`. WHOLE: what is read is all there or nothing of it.
template <bool WHOLE, int COUNT, class T> __device__ __forceinline__ void read(Packet<COUNT, T>& to, const T* row, int at, int length) {
    to.clear();
    if (WHOLE) {
        if (at < length) to.read(row + at);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (at + i < length) to.values[i] = row[at + i];
    }
}

// A lane's states of a channel, or what goes with them.
template <bool WHOLE, class T> struct States {
    Packet<WIDTH, T> packets[ACCESSES];

    __device__ __forceinline__ static int state(int lane, int i) { return (i * LANES + lane) * WIDTH; }
    __device__ __forceinline__ void read_row(const T* row, int lane) {
#pragma unroll
        for (int i = 0; i < ACCESSES; ++i) read<WHOLE>(packets[i], row, state(lane, i), STATE);
    }
    __device__ __forceinline__ const Packet<WIDTH, T>& operator[](int i) const { return packets[i]; }
};

// A lane's part of a row of rank RANK: chunk after chunk.
template <class T> struct Low {
    Packet<CHUNK, T> packets[KEPT && RANK ? CHUNKS : 1];

    __device__ __forceinline__ void read_row(const T* row, int lane) {
#pragma unroll
        for (int i = 0; i < (KEPT ? CHUNKS : 0); ++i) read<VECTOR>(packets[i], row, (i * LANES + lane) * CHUNK, RANK);
    }
};

template <class T> __device__ __forceinline__ float dot(const Packet<CHUNK, T>& a, const Packet<CHUNK, LOW>& b, float sum) {
#pragma unroll
    for (int j = 0; j < CHUNK; ++j) sum = fmaf(a[j], b[j], sum);
    return sum;
}

// What a slot brings, read ahead.
struct Inputs {
    States<true, H> h;
    States<VECTOR, IO> b, c;
    Low<IO> low;
    IO u, z, delta;

    __device__ __forceinline__ void read_slot(const ScanStepParams& p, int slot, int channel, int lane) {
        const IO* row = p.delta + slot * p.delta_stride;
        h.read_row(p.state + slot * p.state_stride + channel * (i64)STATE, lane);
        u = p.u[slot * p.u_stride + channel];
        z = p.z ? p.z[slot * p.z_stride + channel] : IO();
        delta = RANK ? IO() : row[channel];
        low.read_row(row, lane);
        b.read_row(p.b + slot * p.b_stride, lane);
        c.read_row(p.c + slot * p.c_stride, lane);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) selective_scan_step(const __grid_constant__ ScanStepParams p) {
    release_successor();
    int lane = threadIdx.x % LANES, channel = blockIdx.x * CHANNELS + threadIdx.x / LANES;
    bool exists = channel < p.channels;
    if (!exists) channel = p.channels - 1;  // its lanes take part in sums
    States<true, float> a;
    Low<LOW> weight;
    a.read_row(p.a + channel * (i64)STATE, lane);
    const LOW* own_weight = p.weight + channel * p.weight_stride;
    weight.read_row(own_weight, lane);
    float bias = p.delta_bias ? p.delta_bias[channel] : 0.0f, d = p.d ? p.d[channel] : 0.0f;
    await_predecessors();
    int from = blockIdx.y * p.slots_of_block, to = min(p.slots, from + p.slots_of_block);
    Inputs next;
    next.read_slot(p, from, channel, lane);
    for (int slot = from; slot < to; ++slot) {
        Inputs own = next;
        if (slot + 1 < to) next.read_slot(p, slot + 1, channel, lane);
        float delta = 0.0f, u = to_f32(own.u);
        if constexpr (KEPT) {
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i) delta = dot(own.low.packets[i], weight.packets[i], delta);
        } else {
            const IO* row = p.delta + slot * p.delta_stride;
#pragma unroll 1
            for (int i = 0; i < CHUNKS; ++i) {
                read<VECTOR>(own.low.packets[0], row, (i * LANES + lane) * CHUNK, RANK);
                read<VECTOR>(weight.packets[0], own_weight, (i * LANES + lane) * CHUNK, RANK);
                delta = dot(own.low.packets[0], weight.packets[0], delta);
            }
        }
        delta = softplus((RANK ? warp_sum<LANES>(delta) : to_f32(own.delta)) + bias);
        float y = 0.0f, input = HELD ? u : delta * u;
        H* state = p.state + slot * p.state_stride + channel * (i64)STATE;
#pragma unroll
        for (int i = 0; i < ACCESSES; ++i) {
            float moved[WIDTH];
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                float decay = decay_of(delta, a[i][j] * LOG2_E), taken = input;
                if constexpr (HELD) taken *= hold_of(delta, a[i][j] * LOG2_E, reciprocal(a[i][j]), decay).weight;
                moved[j] = fmaf(decay, own.h[i][j], taken * own.b[i][j]);
                y = fmaf(own.c[i][j], moved[j], y);
            }
            int n = States<true, float>::state(lane, i);
            if (exists && n < STATE) store<WIDTH>(state + n, moved);
        }
        y = fmaf(d, u, warp_sum<LANES>(y));
        if (p.z) y *= silu(to_f32(own.z));
        if (exists && lane == 0) p.y[slot * p.y_stride + channel] = from_f32<IO>(y);
    }
}
