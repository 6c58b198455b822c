// The products of step.cuh with weights in f32: multiply-adds. A warp has PANELS outputs, of all inputs.

extern "C" __global__ void __launch_bounds__(THREADS, 1) linear_step(const __grid_constant__ LinearStepParams all) {
    extern __shared__ __align__(16) u8 memory[];
    __shared__ float squares[SLOTS * WARPS], results[SLOTS * OUTPUTS];
    Staged* staged = reinterpret_cast<Staged*>(memory);
    LinearStepParams p = rows_of_block(all);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int first = blockIdx.y * OUTPUTS, output = first + warp * PANELS;
    auto weights = [&](int k, uint4 (&to)[PANELS]) {
#pragma unroll
        for (int t = 0; t < PANELS; ++t) to[t] = load_weights(p, output + t, k + 4 * lane);
    };
    release_successor();
    uint4 w[DEPTH][PANELS];
#pragma unroll
    for (int i = 0; i < DEPTH; ++i) weights(i * INPUTS, w[i]);
    Result result(p, threadIdx.x, first);
    if (NORM) prefetch_norm(p);
    await_predecessors();
    result.read();
    stage_x(p, staged, squares);
    __syncthreads();
    float sums[PANELS][SLOTS] = {};
    for (int from = 0; from < p.inputs; from += DEPTH * INPUTS) {
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
            int k = from + i * INPUTS + 4 * lane;
            if (k < p.inputs) {
#pragma unroll
                for (int slot = 0; slot < SLOTS; ++slot) {
                    if (slot >= p.slots) break;
                    float4 x = *reinterpret_cast<const float4*>(staged + slot * staged_row(p) + k);
#pragma unroll
                    for (int t = 0; t < PANELS; ++t) {
                        float sum = fmaf(x.x, __uint_as_float(w[i][t].x), sums[t][slot]);
                        sum = fmaf(x.y, __uint_as_float(w[i][t].y), sum);
                        sum = fmaf(x.z, __uint_as_float(w[i][t].z), sum);
                        sums[t][slot] = fmaf(x.w, __uint_as_float(w[i][t].w), sum);
                    }
                }
            }
            weights(from + (DEPTH + i) * INPUTS, w[i]);
        }
    }
#pragma unroll
    for (int t = 0; t < PANELS; ++t)
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            float sum = warp_sum(sums[t][slot]);
            if (lane == (t * SLOTS + slot) % 32) results[slot * OUTPUTS + warp * PANELS + t] = sum;
        }
    __syncthreads();
    result.finish<1>(results, squares, threadIdx.x);
    finish_others<1>(p, results, squares, first);
}
