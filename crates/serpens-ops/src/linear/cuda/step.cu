// The products of step.cuh on the tensor cores: rows of x (slots) are the first operand, 8 rows of W the second. A
// thread reads 16 bytes of a row of W at a time, as they lie: which input comes first in a product is the same for both
// operands, so it may be any.

// d += a b for 16 slots, 8 outputs and 16 inputs.
__device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 32 inputs: a thread has 8 of a slot (of two slots) and of an output.
__device__ __forceinline__ void multiply_32(float (&d)[4], const uint4 (&x)[HALVES], uint4 w) {
    uint4 high = HALVES == 2 ? x[HALVES - 1] : make_uint4(0, 0, 0, 0);
    u32 first[4] = {x[0].x, high.x, x[0].y, high.y}, second[4] = {x[0].z, high.z, x[0].w, high.w};
    multiply(d, first, w.x, w.y);
    multiply(d, second, w.z, w.w);
}

struct Step {
    const LinearStepParams& p;
    const Staged* staged;
    int g, q, warp, first;
    float sums[PANELS][4];

    __device__ __forceinline__ Step(const LinearStepParams& p, const Staged* staged) : p(p), staged(staged) {
        int lane = threadIdx.x % 32;
        g = lane / 4, q = lane % 4, warp = threadIdx.x / 32, first = blockIdx.y * OUTPUTS;
#pragma unroll
        for (int t = 0; t < PANELS; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[t][i] = 0.0f;
    }
    // Of this warp's i-th access.
    __device__ __forceinline__ int input(int i) const { return (i * WARPS + warp) * INPUTS; }

    __device__ __forceinline__ void weights(int i, uint4 (&to)[PANELS]) const {
        int k = input(i);
#pragma unroll
        for (int t = 0; t < PANELS; ++t) {
            int output = first + 8 * t + g;
            to[t] = load_weights(p, output, k + 8 * q);
        }
    }
    __device__ __forceinline__ void inputs(int k, uint4 (&to)[HALVES]) const {
#pragma unroll
        for (int half = 0; half < HALVES; ++half) {
            int slot = 8 * half + g;
            to[half] = make_uint4(0, 0, 0, 0);
            if (slot >= p.slots || k >= p.inputs) continue;
            if (STAGED) {
                to[half] = *reinterpret_cast<const uint4*>(staged + slot * staged_row(p) + k);
            } else if (VECTOR) {
                to[half] = load_fresh(reinterpret_cast<const uint4*>(p.x + slot * p.x_stride + k));
            } else {
                float x[8];
#pragma unroll
                for (int j = 0; j < 8; ++j) x[j] = k + j < p.inputs ? to_f32(p.x[slot * p.x_stride + k + j]) : 0.0f;
                to[half] = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
            }
        }
    }
    __device__ __forceinline__ void add(const uint4 (&x)[HALVES], const uint4 (&w)[PANELS]) {
#pragma unroll
        for (int t = 0; t < PANELS; ++t) multiply_32(sums[t], x, w[t]);
    }
    __device__ __forceinline__ void put(float* to) const {
        float* own = to + warp * SLOTS * OUTPUTS;
#pragma unroll
        for (int t = 0; t < PANELS; ++t)
#pragma unroll
            for (int half = 0; half < HALVES; ++half)
                if (8 * half + g < SLOTS)
                    *reinterpret_cast<float2*>(own + (8 * half + g) * OUTPUTS + 8 * t + 2 * q) =
                        make_float2(sums[t][2 * half], sums[t][2 * half + 1]);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) linear_step(const __grid_constant__ LinearStepParams all) {
    extern __shared__ __align__(16) u8 memory[];
    __shared__ __align__(16) float sums[WARPS * SLOTS * OUTPUTS];
    __shared__ float squares[SLOTS * WARPS];
    Staged* staged = reinterpret_cast<Staged*>(memory);
    LinearStepParams p = rows_of_block(all);
    release_successor();
    Step step(p, staged);
    int accesses = (p.inputs + INPUTS - 1) / INPUTS;
    uint4 w[DEPTH][PANELS];
#pragma unroll
    for (int i = 0; i < DEPTH; ++i) step.weights(i, w[i]);
    Result result(p, threadIdx.x, step.first);
    if (NORM) prefetch_norm(p);
    await_predecessors();
    result.read();
    if (STAGED) {
        stage_x(p, staged, squares);
        __syncthreads();
    }
    for (int from = 0; from * WARPS < accesses; from += DEPTH) {
        uint4 x[STAGED ? 1 : DEPTH][HALVES];
        if (!STAGED) {
#pragma unroll
            for (int i = 0; i < DEPTH; ++i) step.inputs(step.input(from + i) + 8 * step.q, x[STAGED ? 0 : i]);
        }
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
            if (STAGED) step.inputs(step.input(from + i) + 8 * step.q, x[0]);
            step.add(x[STAGED ? 0 : i], w[i]);
            step.weights(from + DEPTH + i, w[i]);
        }
    }
    step.put(sums);
    __syncthreads();
    result.finish<WARPS>(sums, squares, threadIdx.x);
    finish_others<WARPS>(p, sums, squares, step.first);
}
