// One position of many sequences, as mod.rs defines it: a thread has VEC neighbouring channels of a slot.
//
// Macros: IO (float or bf16: x, y), WIDTH (W), SILU, VEC.

constexpr int THREADS = 128;
constexpr int PAST = WIDTH - 1;

extern "C" __global__ void __launch_bounds__(THREADS) causal_conv1d_step(const __grid_constant__ ConvStepParams p) {
    release_successor();
    int e = (blockIdx.x * THREADS + threadIdx.x) * VEC;
    bool exists = e < p.channels;
    float taps[VEC][WIDTH], y[VEC];
#pragma unroll
    for (int j = 0; j < VEC; ++j) {
        y[j] = exists && p.bias ? p.bias[e + j] : 0.0f;
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) taps[j][k] = exists ? p.weight[(i64)(e + j) * WIDTH + k] : 0.0f;
    }
    await_predecessors();
    if (!exists) return;
    for (int slot = blockIdx.y; slot < p.slots; slot += gridDim.y) {
        float inputs[WIDTH][VEC], sum[VEC];
        float* state = p.state + slot * p.state_stride + e;
#pragma unroll
        for (int k = 0; k < PAST; ++k) load<VEC>(state + (i64)k * p.channels, inputs[k]);
        load<VEC>(p.x + slot * p.x_stride + e, inputs[PAST]);
#pragma unroll
        for (int k = 0; k < PAST; ++k) store<VEC>(state + (i64)k * p.channels, inputs[k + 1]);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            sum[j] = y[j];
#pragma unroll
            for (int k = 0; k < WIDTH; ++k) sum[j] = fmaf(taps[j][k], inputs[k][j], sum[j]);
            if (SILU) sum[j] = silu(sum[j]);
        }
        store<VEC>(p.y + slot * p.y_stride + e, sum);
    }
}
