// Rows of a table by id, as f32: a block a row. NaN for an id outside the table.
//
// Macros: WEIGHT (BF16_WEIGHT, F32_WEIGHT, Q8_0_WEIGHT, Q4_0_WEIGHT), W (the type of its values).

// Value `k` of row `id`; of blocks as quantized_linear/cuda lays them.
__device__ __forceinline__ float value(const EmbeddingStepParams& p, i64 id, int k) {
    if (WEIGHT == BF16_WEIGHT || WEIGHT == F32_WEIGHT) return to_f32(p.table[id * p.stride + k]);
    constexpr int BLOCKS = WEIGHT == Q8_0_WEIGHT ? 2 : 4;  // of a group
    int group = k / (32 * BLOCKS), block = k / 32 % BLOCKS, place = k % 8;
    i64 access = (id / 8 * (p.stride / 64) + group) * 8 + id % 8;
    const u8* part = reinterpret_cast<const u8*>(p.table) + access * 64 + k % 32 / 8 * 16 + block * (16 / BLOCKS);
    float q;
    if (BLOCKS == 2) {
        q = (float)(signed char)part[place];
    } else {
        q = (float)(((part[place % 4] >> 4 * (place / 4) & 15) ^ 8) - 8);
    }
    u16 bits = p.scales[access * BLOCKS + block];
    float scale;
    asm("cvt.f32.f16 %0, %1;" : "=f"(scale) : "h"(bits));
    return scale * q;
}

extern "C" __global__ void __launch_bounds__(256) embedding_step(const __grid_constant__ EmbeddingStepParams p) {
    release_successor();
    await_predecessors();
    u32 id = p.ids[blockIdx.x];
    float* y = p.y + blockIdx.x * p.y_stride;
    for (int k = threadIdx.x; k < p.width; k += blockDim.x) y[k] = id < p.vocabulary ? value(p, id, k) : __uint_as_float(0x7fc00000u);
}
