// Values and scales of blocks, and activations as integers of 8 bits with a scale for every 32.

constexpr float ROUND = 12582912.0f;  // 1.5 · 2^23: what is added to it becomes an integer in the lowest bits

__device__ __forceinline__ float half_to_f32(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// The last bytes of four words.
__device__ __forceinline__ u32 bytes_of(float a, float b, float c, float d) {
    u32 low = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0040);
    u32 high = __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0040);
    return __byte_perm(low, high, 0x5410);
}

__device__ __forceinline__ float larger_or_nan(float a, float b) {
    float x;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(x) : "f"(a), "f"(b));
    return x;
}

// The integers of a block, from its largest magnitude; NaN where a value is none.
struct BlockScale {
    float inverse, scale;

    __device__ __forceinline__ explicit BlockScale(float largest) {
        const float INFINITE = __uint_as_float(0x7f800000u);
        inverse = 127.0f * reciprocal(largest), scale = largest * (1.0f / 127.0f);
        if (!(inverse < INFINITE)) inverse = scale = 0.0f;  // all are too small to divide by
        if (!(largest < INFINITE)) scale = __uint_as_float(0x7fc00000u);
    }
    // The integer in the last byte.
    __device__ __forceinline__ float rounded(float x) const { return fmaf(x, inverse, ROUND); }
};
