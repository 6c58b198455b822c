// Causal depthwise convolution with silu: y_t = act(bias + Σ_k weight_k · x_(t - WIDTH + 1 + k)), as mod.rs defines it.
// After packet.cuh.
//
// A thread has VEC neighbouring channels and walks a segment of steps; steps count in the direction of the convolution,
// so that both directions differ in the sign of a stride alone. The last inputs stay in registers, those before the
// segment are read again; the inputs of the next steps are under way while those of the current ones are worked on. A
// block is `lanes` threads side by side over the channels times as many segments as fit.
//
// Macros: IO, VEC, WIDTH, SILU (0 or 1: whether silu follows the sum), STARTS (0 or 1: whether packed sequences start
// inside), STEPS (steps whose inputs are read together).

constexpr int THREADS = 128;
// Fewer blocks of a multiprocessor at a time leave more registers to each; the compiler's own choice spills.
constexpr int FORWARD_BLOCKS = WIDTH <= 4 ? 5 : 1;
constexpr int BACKWARD_BLOCKS = VEC == 1 ? 1 : 0; // 0 lets the compiler choose, which does not spill with more channels
constexpr int PAST = WIDTH - 1;
// A filter this wide does not fit in registers: its loops stay loops and its arrays lie in local memory.
constexpr int TAPS = WIDTH <= 16 ? WIDTH : 1;

// What a thread computes: VEC channels from `channel` on, the steps first..last.
struct ConvPlace {
    i64 sequence, channel;
    int first, last;
    bool valid;

    __device__ __forceinline__ ConvPlace(const ConvParams& p) {
        int lane = threadIdx.x % p.lanes, row = threadIdx.x / p.lanes, rows = THREADS / p.lanes;
        i64 item = (i64)blockIdx.x * rows + row;
        sequence = item / p.segments;
        channel = ((i64)blockIdx.y * p.lanes + lane) * VEC;
        first = (int)(item % p.segments) * p.segment;
        last = min(p.length, first + p.segment);
        valid = row < rows && sequence < p.batch && channel < p.channels;
    }
};

// The values of a matrix that a thread sees: those of `step` at first + step · stride.
template <class T> struct Column {
    T* first;
    i64 stride;

    __device__ __forceinline__ Column(const ConvParams& p, const ConvPlace& at, T* data, i64 row_stride) {
        i64 row = at.sequence * p.length + (p.reverse ? p.length - 1 : 0);
        first = data + row * row_stride + at.channel;
        stride = p.reverse ? -row_stride : row_stride;
    }
    __device__ __forceinline__ T* at(int step) const { return first + step * stride; }
};

// The values of N steps.
template <int N> struct Steps {
    Packet<VEC, IO> steps[N];

    __device__ __forceinline__ void read(const Column<const IO>& from, int step) {
#pragma unroll
        for (int i = 0; i < N; ++i) steps[i].read(from.at(step + i));
    }
    __device__ __forceinline__ const Packet<VEC, IO>& operator[](int i) const { return steps[i]; }
};

// Row `row` of a (batch, PAST, channels) state.
template <class T> __device__ __forceinline__ T* state_row(const ConvParams& p, const ConvPlace& at, T* state, int row) {
    return state + (at.sequence * PAST + row) * p.channels + at.channel;
}

// Whether a sequence ends between `step` - 1 and `step` of the row.
__device__ __forceinline__ bool boundary(const ConvParams& p, const ConvPlace& at, int step) {
    return STARTS && p.starts[at.sequence * p.length + (p.reverse ? p.length - 1 - step : step)] != 0;
}

struct Filter {
    float tap[WIDTH][VEC];
    float bias[VEC];

    __device__ __forceinline__ Filter(const ConvParams& p, const ConvPlace& at) {
        const float* weight = p.weight + at.channel * WIDTH;
#pragma unroll
        for (int v = 0; v < VEC; ++v) {
            float taps[WIDTH];
            if constexpr (WIDTH == 2 || WIDTH == 4)
                load(weight + v * WIDTH, taps);
            else
#pragma unroll TAPS
                for (int k = 0; k < WIDTH; ++k) taps[k] = weight[v * WIDTH + k];
#pragma unroll TAPS
            for (int k = 0; k < WIDTH; ++k) tap[k][v] = taps[k];
            bias[v] = p.bias ? p.bias[at.channel + v] : 0.0f;
        }
    }
};

// The inputs that one output sees, the oldest first; zero where they are hidden.
struct Window {
    float x[WIDTH][VEC];

    // The window of the step before `at.first`.
    __device__ __forceinline__ Window(const ConvParams& p, const ConvPlace& at, const Column<const IO>& input) {
#pragma unroll TAPS
        for (int k = 0; k < WIDTH; ++k)
#pragma unroll
            for (int v = 0; v < VEC; ++v) x[k][v] = 0.0f;
#pragma unroll TAPS
        for (int k = 0; k < PAST; ++k) {
            int step = at.first - PAST + k;
            float next[VEC] = {};
            if (step >= 0)
                load(input.at(step), next);
            else if (p.initial_state)
                load(state_row(p, at, p.initial_state, PAST + step), next);
            push(next, step >= 0 && boundary(p, at, step));
        }
    }
    __device__ __forceinline__ void push(const float (&next)[VEC], bool hide) {
#pragma unroll TAPS
        for (int k = 0; k < PAST; ++k)
#pragma unroll
            for (int v = 0; v < VEC; ++v) x[k][v] = STARTS && hide ? 0.0f : x[k + 1][v];
#pragma unroll
        for (int v = 0; v < VEC; ++v) x[PAST][v] = next[v];
    }
    __device__ __forceinline__ float sum(const Filter& filter, int v) const {
        float sum = filter.bias[v];
#pragma unroll TAPS
        for (int k = 0; k < WIDTH; ++k) sum = fmaf(filter.tap[k][v], x[k][v], sum);
        return sum;
    }
};

template <int N>
__device__ __forceinline__ void forward_steps(const ConvParams& p, const ConvPlace& at, int step, const Steps<N>& x,
                                              const Column<IO>& output, const Filter& filter, Window& window) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        float next[VEC], y[VEC];
#pragma unroll
        for (int v = 0; v < VEC; ++v) next[v] = x[i][v];
        window.push(next, boundary(p, at, step + i));
#pragma unroll
        for (int v = 0; v < VEC; ++v) {
            float sum = window.sum(filter, v);
            y[v] = SILU ? silu(sum) : sum;
        }
        store(output.at(step + i), y);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) causal_conv1d_forward(const __grid_constant__ ConvForwardParams q) {
    const ConvParams& p = q.conv;
    ConvPlace at(p);
    if (!at.valid) return;
    Column<const IO> input(p, at, p.x, p.x_stride);
    Column<IO> output(p, at, q.y, q.y_stride);
    int step = at.first;
    Steps<STEPS> ahead;
    if (step + STEPS <= at.last) ahead.read(input, step);
    Filter filter(p, at);
    Window window(p, at, input);
    for (; step + STEPS <= at.last; step += STEPS) {
        Steps<STEPS> x = ahead;
        if (step + 2 * STEPS <= at.last) ahead.read(input, step + STEPS);
        forward_steps(p, at, step, x, output, filter, window);
    }
    for (; step < at.last; ++step) {
        Steps<1> x;
        x.read(input, step);
        forward_steps(p, at, step, x, output, filter, window);
    }
    if (!q.final_state || step < p.length) return;
    float unused[VEC] = {};
    window.push(unused, false);
#pragma unroll TAPS
    for (int k = 0; k < PAST; ++k) store(state_row(p, at, q.final_state, k), window.x[k]);
}

// The gradients that a thread gathers.
struct Gathered {
    float tap[WIDTH][VEC];
    float bias[VEC];
    float x[WIDTH][VEC]; // of the inputs in the window, as far as the steps so far go
    int reach;           // how many earlier inputs the step sees

    // Adds what a step with gradient `g` of its sum gives; its segment counts it towards the parameters if it is `own`.
    __device__ __forceinline__ void add(const float (&g)[VEC], const Filter& filter, const Window& window, bool hide, bool own) {
        reach = STARTS && hide ? 0 : min(reach + 1, PAST);
#pragma unroll TAPS
        for (int k = 0; k < WIDTH; ++k) {
            bool sees = !STARTS || PAST - k <= reach;
#pragma unroll
            for (int v = 0; v < VEC; ++v) {
                float before = k < PAST ? x[(k + 1) % WIDTH][v] : 0.0f;
                x[k][v] = fmaf(filter.tap[k][v], sees ? g[v] : 0.0f, before);
            }
        }
        if (!own) return;
#pragma unroll
        for (int v = 0; v < VEC; ++v) {
            bias[v] += g[v];
#pragma unroll TAPS
            for (int k = 0; k < WIDTH; ++k) tap[k][v] = fmaf(g[v], window.x[k][v], tap[k][v]);
        }
    }
};

// The gradient of the sum before the activation.
__device__ __forceinline__ float slope(const Filter& filter, const Window& window, float dy, int v) {
    return SILU ? dy * silu_slope(window.sum(filter, v)) : dy;
}

// STEPS steps of the segment's own, at least PAST behind the start of the sequence.
__device__ __forceinline__ void backward_steps(const ConvParams& p, const ConvPlace& at, int step, const Steps<STEPS>& x,
                                               const Steps<STEPS>& dy, const Column<IO>& output, const Filter& filter,
                                               Window& window, Gathered& sums) {
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
        float next[VEC], g[VEC];
        bool hide = boundary(p, at, step + i);
#pragma unroll
        for (int v = 0; v < VEC; ++v) next[v] = x[i][v];
        window.push(next, hide);
#pragma unroll
        for (int v = 0; v < VEC; ++v) g[v] = slope(filter, window, dy[i][v], v);
        sums.add(g, filter, window, hide, true);
        if (step + i - PAST >= at.first) store(output.at(step + i - PAST), sums.x[0]);
    }
}

// One step of whatever kind: at the start of the sequence, in the next segment, where it matters for this segment's
// inputs alone, or behind the end.
__device__ __forceinline__ void backward_step(const ConvBackwardParams& q, const ConvPlace& at, int step, const Column<const IO>& input,
                                              const Column<const IO>& arriving, const Column<IO>& output,
                                              const Filter& filter, Window& window, Gathered& sums) {
    const ConvParams& p = q.conv;
    bool inside = step < p.length, hide = inside && boundary(p, at, step);
    float x[VEC] = {}, g[VEC] = {};
    if (inside) {
        load(input.at(step), x);
        load(arriving.at(step), g);
    }
    window.push(x, hide);
#pragma unroll
    for (int v = 0; v < VEC; ++v) g[v] = slope(filter, window, g[v], v);
    sums.add(g, filter, window, hide, step < at.last);
    // The oldest input of the window has its whole gradient now.
    int done = step - PAST;
    float gradient[VEC];
#pragma unroll
    for (int v = 0; v < VEC; ++v) gradient[v] = sums.x[0][v];
    if (q.dfinal_state && done >= p.length - PAST) {
        bool hidden = false;
        for (int later = max(done + 1, 0); later < p.length; ++later) hidden = hidden || boundary(p, at, later);
        float more[VEC];
        load(state_row(p, at, q.dfinal_state, done - (p.length - PAST)), more);
#pragma unroll
        for (int v = 0; v < VEC; ++v) gradient[v] += hidden ? 0.0f : more[v];
    }
    if (done >= at.first)
        store(output.at(done), gradient);
    else if (done < 0 && at.first == 0 && q.dinitial_state)
        store(state_row(p, at, q.dinitial_state, PAST + done), gradient);
}

// Adds the threads of each lane in the order of their segments and writes the sums to the block's row of `to`.
__device__ __forceinline__ void gather(const ConvParams& p, const ConvPlace& at, const float (&values)[VEC], float* to) {
    __shared__ float shared[VEC][THREADS];
    __syncthreads();
#pragma unroll
    for (int v = 0; v < VEC; ++v) shared[v][threadIdx.x] = values[v];
    __syncthreads();
    if (threadIdx.x >= p.lanes || at.channel >= p.channels) return;
    float sums[VEC] = {};
    for (int i = threadIdx.x; i < THREADS / p.lanes * p.lanes; i += p.lanes)
#pragma unroll
        for (int v = 0; v < VEC; ++v) sums[v] += shared[v][i];
#pragma unroll
    for (int v = 0; v < VEC; ++v) to[at.channel + v] = sums[v];
}

extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) causal_conv1d_backward(const __grid_constant__ ConvBackwardParams q) {
    const ConvParams& p = q.conv;
    ConvPlace at(p);
    Gathered sums = {};
    sums.reach = PAST;
    if (at.valid) {
        Column<const IO> input(p, at, p.x, p.x_stride), arriving(p, at, q.dy, q.dy_stride);
        Column<IO> output(p, at, q.dx, q.dx_stride);
        Filter filter(p, at);
        Window window(p, at, input);
        int step = at.first;
        for (; step < min(PAST, at.last); ++step)
            backward_step(q, at, step, input, arriving, output, filter, window, sums);
        Steps<STEPS> x_ahead, dy_ahead;
        if (step + STEPS <= at.last) {
            x_ahead.read(input, step);
            dy_ahead.read(arriving, step);
        }
        for (; step + STEPS <= at.last; step += STEPS) {
            Steps<STEPS> x = x_ahead, dy = dy_ahead;
            if (step + 2 * STEPS <= at.last) {
                x_ahead.read(input, step + STEPS);
                dy_ahead.read(arriving, step + STEPS);
            }
            backward_steps(p, at, step, x, dy, output, filter, window, sums);
        }
        for (; step < at.last + PAST; ++step)
            backward_step(q, at, step, input, arriving, output, filter, window, sums);
    }
    float* partials = q.partials + (i64)blockIdx.x * (WIDTH + 1) * p.channels;
#pragma unroll TAPS
    for (int k = 0; k < WIDTH; ++k) gather(p, at, sums.tap[k], partials + k * p.channels);
    gather(p, at, sums.bias, partials + WIDTH * p.channels);
}
