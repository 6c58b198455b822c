// The products of step.cuh with W in blocks of 32 inputs that share a scale, as quantized_linear/cuda lays them. Every
// 32 inputs of x become integers of 8 bits and a scale too, as on the processor; the integers are multiplied on the
// tensor cores, whose sum of a block is exact: 16 outputs are the first operand, 8 rows of x (slots) the second. A warp
// makes integers of the inputs that it multiplies, so it waits for no other warp.

constexpr int COLUMNS = SLOTS == 1 ? 1 : 2;  // slots of a thread's sums of a panel and half
constexpr int AT_ONCE = SLOTS < 8 ? SLOTS : 8;

// The sums for 16 outputs, 8 slots and 32 inputs, as floats above ROUND: at most 32 · 127 · 128 they are exact there.
__device__ __forceinline__ void multiply(u32 (&d)[4], const u32 (&w)[4], uint2 x) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(x.x), "r"(x.y), "r"(__float_as_uint(ROUND)));
}

// Eight values of a row from `k` on, zeros behind the end.
template <bool FRESH, class T> __device__ __forceinline__ void read_eight(const T* row, int k, int inputs, float (&to)[8]) {
    if (!VECTOR || k >= inputs) {
#pragma unroll
        for (int i = 0; i < 8; ++i) to[i] = k + i < inputs ? to_f32(row[k + i]) : 0.0f;
        return;
    }
    union { uint4 words[sizeof(T) / 2]; T values[8]; } access;
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; ++i) {
        const uint4* from = reinterpret_cast<const uint4*>(row + k) + i;
        access.words[i] = FRESH ? load_fresh(from) : *from;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = to_f32(access.values[i]);
}

struct Step {
    const LinearStepParams& p;
    u8* integers;   // (blocks, SLOTS, 32)
    float* scales;  // (blocks, SLOTS)
    int lane, g, q, warp, accesses;
    float sums[PANELS][HALVES][2][COLUMNS];

    __device__ __forceinline__ Step(const LinearStepParams& p, u8* memory) : p(p) {
        lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, warp = threadIdx.x / 32;
        accesses = (p.inputs + INPUTS - 1) / INPUTS;
        integers = memory, scales = reinterpret_cast<float*>(memory + accesses * XS * SLOTS * 32);
#pragma unroll
        for (int t = 0; t < PANELS; ++t)
#pragma unroll
            for (int i = 0; i < 2 * COLUMNS * HALVES; ++i) sums[t][i / (2 * COLUMNS)][i / COLUMNS % 2][i % COLUMNS] = 0.0f;
    }
    // This warp's i-th access.
    __device__ __forceinline__ int access(int i) const { return i * WARPS + warp; }

    __device__ __forceinline__ void weights(int i, uint4 (&to)[PANELS][2], SCALES (&scales)[PANELS][2]) const {
        int group = access(i), panel = blockIdx.y * PANELS;
#pragma unroll
        for (int t = 0; t < PANELS; ++t) {
            bool exists = group < accesses && 16 * (panel + t) < p.outputs;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int place = (2 * (panel + t) + half) * accesses + group;
                to[t][half] = load_once(p.weight + (i64)place * 512 + lane * 16, exists);
                scales[t][half] = SCALES();
                if (exists) scales[t][half] = p.scales[place * 8 + g];
            }
        }
    }

    __device__ __forceinline__ void prefetch_norm() const {
        for (int i = 0; access(i) < accesses; ++i)
            if (lane < XS && access(i) * INPUTS + 32 * lane < p.inputs)
                asm volatile("prefetch.global.L1 [%0];" ::"l"(p.norm + access(i) * INPUTS + 32 * lane));
    }

    // Integers of this warp's inputs of every slot, of x ⊙ w where there is a norm with the weight w; its share of the
    // sum of a row's squares then in `squares`. Four lanes have a block of 32 inputs.
    __device__ __forceinline__ void quantize_x(float* squares) const {
        constexpr int READS = NORM ? 2 : 4;  // that are under way
        constexpr int STRIDE = 8 / AT_ONCE;
        int slot = g % AT_ONCE, blocks = (accesses - warp + WARPS - 1) / WARPS * XS;
#pragma unroll
        for (int half = 0; half < HALVES; ++half, slot += 8) {
            const X* row = p.x + slot * p.x_stride;
            int inputs = slot < p.slots ? p.inputs : 0;
            float sum = 0.0f;
            // The bounds are the warp's.
            for (int from = 0; from < blocks; from += READS * STRIDE) {
                float x[READS][8], norm[READS][8];
#pragma unroll
                for (int i = 0; i < READS; ++i) {
                    int block = from + i * STRIDE + g / AT_ONCE, k = access(block / XS) * INPUTS + block % XS * 32 + 8 * q;
                    read_eight<true>(row, k, inputs, x[i]);
                    if (NORM) read_eight<false>(p.norm, k, inputs, norm[i]);
                }
#pragma unroll
                for (int i = 0; i < READS; ++i) {
                    if (from + i * STRIDE >= blocks) break;
                    int block = from + i * STRIDE + g / AT_ONCE;
                    if (NORM) {
#pragma unroll
                        for (int j = 0; j < 8; ++j) sum = fmaf(x[i][j], x[i][j], sum), x[i][j] *= norm[i][j];
                    }
                    put_integers(x[i], access(block / XS) * XS + block % XS, slot, block < blocks);
                }
            }
            if (NORM) {
#pragma unroll
                for (int step = 1; step < 32; step *= 2)
                    if (step < 4 || step >= 4 * AT_ONCE) sum += __shfl_xor_sync(0xffffffffu, sum, step);
                squares[slot * WARPS + warp] = sum;
            }
        }
    }
    // 8 of the 32 values of a block, whose other values the neighbours have.
    __device__ __forceinline__ void put_integers(const float (&x)[8], int block, int slot, bool exists) const {
        float largest = fabsf(x[0]);
#pragma unroll
        for (int j = 1; j < 8; ++j) largest = larger_or_nan(largest, fabsf(x[j]));
        largest = larger_or_nan(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = larger_or_nan(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        BlockScale scale(largest);
        float rounded[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) rounded[j] = scale.rounded(x[j]);
        if (!exists) return;
        int place = block * SLOTS + slot;
        *reinterpret_cast<uint2*>(integers + place * 32 + 8 * q) =
            make_uint2(bytes_of(rounded[0], rounded[1], rounded[2], rounded[3]), bytes_of(rounded[4], rounded[5], rounded[6], rounded[7]));
        if (q == 0) scales[place] = XS == 4 ? scale.scale * 0.0625f : scale.scale;
    }

    // The products of this warp's i-th access.
    __device__ __forceinline__ void add(int i, const uint4 (&w)[PANELS][2], const SCALES (&w_scales)[PANELS][2]) {
        int first = access(i) * XS;
        if (first >= accesses * XS) return;
#pragma unroll
        for (int block = 0; block < XS; ++block)
#pragma unroll
            for (int half = 0; half < HALVES; ++half) {
                int place = (first + block) * SLOTS + 8 * half;
                uint2 x = *reinterpret_cast<const uint2*>(integers + (place + g % AT_ONCE) * 32 + 8 * q);
                float x_scales[COLUMNS];
                const float* from = scales + place + COLUMNS * q % AT_ONCE;
                if (COLUMNS == 2) {
                    float2 two = *reinterpret_cast<const float2*>(from);
                    x_scales[0] = two.x, x_scales[COLUMNS - 1] = two.y;
                } else {
                    x_scales[0] = *from;
                }
#pragma unroll
                for (int t = 0; t < PANELS; ++t) {
                    u32 d[4], low[4] = {w[t][0].x, w[t][0].y, w[t][0].z, w[t][0].w}, high[4] = {w[t][1].x, w[t][1].y, w[t][1].z, w[t][1].w};
                    if (XS == 2) {
                        u32 operand[4] = {low[2 * block % 4], high[2 * block % 4], low[(2 * block + 1) % 4], high[(2 * block + 1) % 4]};
                        multiply(d, operand, x);
                    } else {
                        // 16 times the values, by which the scale of x is less.
                        u32 a = low[block], b = high[block], mask = 0xf0f0f0f0u;
                        u32 operand[4] = {a << 4 & mask, b << 4 & mask, a & mask, b & mask};
                        multiply(d, operand, x);
                    }
#pragma unroll
                    for (int side = 0; side < 2; ++side) {
                        union { SCALES word; u16 halves[XS]; } own;
                        own.word = w_scales[t][side];
                        float scale = half_to_f32(own.halves[block]);
#pragma unroll
                        for (int column = 0; column < COLUMNS; ++column)
                            sums[t][half][side][column] =
                                fmaf(scale * x_scales[column], __uint_as_float(d[2 * side + column]) - ROUND, sums[t][half][side][column]);
                    }
                }
            }
    }
    __device__ __forceinline__ void put(float* to) const {
#pragma unroll
        for (int half = 0; half < HALVES; ++half)
#pragma unroll
            for (int column = 0; column < COLUMNS; ++column) {
                int slot = 8 * half + 2 * q + column;
                if (slot >= SLOTS) continue;
                float* own = to + (warp * SLOTS + slot) * OUTPUTS + g;
#pragma unroll
                for (int t = 0; t < PANELS; ++t) own[16 * t] = sums[t][half][0][column], own[16 * t + 8] = sums[t][half][1][column];
            }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) linear_step(const __grid_constant__ LinearStepParams all) {
    extern __shared__ __align__(16) u8 memory[];
    __shared__ __align__(16) float sums[WARPS * SLOTS * OUTPUTS];
    __shared__ float squares[SLOTS * WARPS];
    LinearStepParams p = rows_of_block(all);
    release_successor();
    Step step(p, memory);
    uint4 w[DEPTH][PANELS][2];
    SCALES scales[DEPTH][PANELS][2];
#pragma unroll
    for (int i = 0; i < DEPTH; ++i) step.weights(i, w[i], scales[i]);
    int first = blockIdx.y * OUTPUTS;
    Result result(p, threadIdx.x, first);
    if (NORM) step.prefetch_norm();
    await_predecessors();
    result.read();
    step.quantize_x(squares);
    __syncwarp();
    for (int from = 0; from * WARPS < step.accesses; from += DEPTH) {
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) {
            step.add(from + i, w[i], scales[i]);
            step.weights(from + DEPTH + i, w[i], scales[i]);
        }
    }
    step.put(sums);
    __syncthreads();
    result.finish<WARPS>(sums, squares, threadIdx.x);
    finish_others<WARPS>(p, sums, squares, first);
}
