// What every kernel of Serpens is compiled after: types, conversions, arithmetic, warp sums. No header is included,
// because NVRTC comes without any on a machine that has no CUDA toolkit.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// Bytes before a struct's field: offsetof, which comes with a header, by what the compiler has for it.
#define OFFSET_OF(STRUCT, FIELD) ((size_t)__INTADDR__(&((STRUCT*)0)->FIELD))

// bfloat16: the upper half of a float.
struct __align__(2) bf16 {
    u16 bits;
};

// ---- conversions
// ----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// Two floats as bfloat16, rounded to nearest even: `low` in the lower half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
__device__ __forceinline__ float low_f32(u32 packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float high_f32(u32 packed) { return __uint_as_float(packed & 0xffff0000u); }

template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// ---- vector access: K values from an address aligned to their size, at most 16 bytes an access
// ------------------------------

template <int BYTES> struct Words;
template <> struct Words<2> { typedef u16 type; };
template <> struct Words<4> { typedef u32 type; };
template <> struct Words<8> { typedef uint2 type; };
template <> struct Words<16> { typedef uint4 type; };

template <int K, class T> __device__ __forceinline__ void load(const T* from, float (&to)[K]) {
    constexpr int STEP = K * (int)sizeof(T) > 16 ? 16 / (int)sizeof(T) : K;
    typedef typename Words<STEP * sizeof(T)>::type Word;
#pragma unroll
    for (int i = 0; i < K; i += STEP) {
        union { Word word; T values[STEP]; } piece;
        piece.word = *reinterpret_cast<const Word*>(from + i);
#pragma unroll
        for (int j = 0; j < STEP; ++j) to[i + j] = to_f32(piece.values[j]);
    }
}

template <int K> __device__ __forceinline__ void store(float* to, const float (&from)[K]) {
#pragma unroll
    for (int i = 0; i + 4 <= K; i += 4)
        *reinterpret_cast<float4*>(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    if constexpr (K == 2) *reinterpret_cast<float2*>(to) = make_float2(from[0], from[1]);
    if constexpr (K == 1) *to = from[0];
}

// To global memory only, in assembly: a plain store of four packed words the compiler takes apart into four.
template <int K> __device__ __forceinline__ void store(bf16* to, const float (&from)[K]) {
    if constexpr (K == 1) {
        *to = from_f32<bf16>(from[0]);
    } else {
        size_t address = __cvta_generic_to_global(to);
        u32 words[K / 2];
#pragma unroll
        for (int i = 0; i < K / 2; ++i) words[i] = pack_bf16(from[2 * i], from[2 * i + 1]);
#pragma unroll
        for (int i = 0; i + 4 <= K / 2; i += 4)
            asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address + 4 * i), "r"(words[i]),
                         "r"(words[i + 1]), "r"(words[i + 2]), "r"(words[i + 3])
                         : "memory");
        if constexpr (K == 4)
            asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(address), "r"(words[0]), "r"(words[1]) : "memory");
        if constexpr (K == 2) *reinterpret_cast<u32*>(to) = words[0];
    }
}

// ---- arithmetic
// -----------------------------------------------------------------------------------------------------------

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// 2^x on the special-function unit: relative error 2^-22, subnormal results are zero.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// e^x; one rounded product, so the relative error grows with |x|, to 5e-6 at the ends of the range. Where f32 is to be
// exact everywhere expf stands instead.
__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * LOG2_E); }
__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Far below 0 its relative error is that of exp_fast(-x).
__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + exp_fast(-x)); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
// d silu / dx
__device__ __forceinline__ float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
// log(1 + e^x), exact to a few ulp for every x; its derivative is sigmoid(x).
__device__ __forceinline__ float softplus(float x) {
    return x > 20.0f ? x : log1pf(expf(x));
}

// ---- sums over the lanes of a warp, in a fixed order
// --------------------------------------------------------------------------

// Of two values, the sum over two lanes of the one that this lane keeps: the second where `second` is set.
__device__ __forceinline__ float exchange(float x0, float x1, int step, bool second) {
    float kept = second ? x1 : x0, sent = second ? x0 : x1;
    return kept + __shfl_xor_sync(0xffffffffu, sent, step);
}

template <int LANES = 32> __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
template <int LANES = 32> __device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// ---- asynchronous copies from global to shared memory
// -------------------------------------------------------------------------

template <int BYTES> __device__ __forceinline__ void copy_async(void* shared, const void* global) {
    u32 to = (u32)__cvta_generic_to_shared(shared);
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(BYTES) : "memory");
}
// The same, or as many zeros.
template <int BYTES> __device__ __forceinline__ void copy_async_or_zero(void* shared, const void* global, bool exists) {
    u32 to = (u32)__cvta_generic_to_shared(shared), bytes = exists ? BYTES : 0;
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most LEFT of the committed groups are under way.
template <int LEFT> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// ---- programmatic dependent launch (kernels that are launched early)
// -----------------------------------------------------------------------------------------------------------

// Waits until all kernels queued before have ended and what they wrote is seen. A kernel that was not launched early
// need not wait, and does not.
__device__ __forceinline__ void await_predecessors() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel start, if it is one that is launched early, as soon as every block has said so.
__device__ __forceinline__ void release_successor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Reads through the second-level cache only: what another kernel has just written.
__device__ __forceinline__ uint4 load_fresh(const uint4* from) {
    uint4 x;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from));
    return x;
}
