// The long convolution of short sequences, by its definition.
//
// y = a * b for every channel, where a or b may run backwards in time: a correlation is a convolution in reversed time.
// A thread has one channel and BLOCK consecutive results, which share every value that is loaded.

constexpr int BLOCK = 8;
constexpr int MAX_LENGTH = 64;
constexpr int CHANNELS = 32;

template <class T> struct Sequence {
    const T* values;
    i64 stride;
    int length;
    bool reversed;
    // Zero before and after the sequence.
    __device__ __forceinline__ float at(int t) const {
        if (t < 0 || t >= length) return 0.0f;
        return to_f32(values[(reversed ? length - 1 - t : t) * stride]);
    }
};

// sums[i] += Σ_s a[first + i - s] b[s]
template <class A, class B>
__device__ __forceinline__ void convolve(const Sequence<A>& a, const Sequence<B>& b, int first, float (&sums)[BLOCK]) {
    // window[i] = a[first - s - BLOCK + 1 + i] for the block of s at hand
    float window[2 * BLOCK - 1];
#pragma unroll
    for (int i = 0; i < BLOCK - 1; ++i) window[i] = a.at(first + 1 + i);
    for (int s = 0; s < first + BLOCK; s += BLOCK) {
#pragma unroll
        for (int i = BLOCK; i < 2 * BLOCK - 1; ++i) window[i] = window[i - BLOCK];
#pragma unroll
        for (int i = 0; i < BLOCK; ++i) window[i] = a.at(first - s - BLOCK + 1 + i);
#pragma unroll
        for (int j = 0; j < BLOCK; ++j) {
            float factor = b.at(s + j);
#pragma unroll
            for (int i = 0; i < BLOCK; ++i) sums[i] = fmaf(window[BLOCK - 1 + i - j], factor, sums[i]);
        }
    }
}

// Blocks of CHANNELS channels by the blocks of results; blockIdx.x counts tiles of channels, then items or groups.
struct DirectPlace {
    i64 item;
    int channel, first;
    __device__ __forceinline__ explicit DirectPlace(int channels) {
        int tiles = (channels + CHANNELS - 1) / CHANNELS;
        item = blockIdx.x / tiles;
        channel = (int)(blockIdx.x % tiles) * CHANNELS + (int)threadIdx.x % CHANNELS;
        first = (int)threadIdx.x / CHANNELS * BLOCK;
    }
};

extern "C" __global__ void __launch_bounds__(CHANNELS * MAX_LENGTH / BLOCK)
    long_conv_direct(const __grid_constant__ DirectConvolveParams p) {
    DirectPlace place(p.channels);
    if (place.channel >= p.channels) return;
    i64 row = place.item * p.length;
    Sequence<IO> x = {p.x + row * p.x_stride + place.channel, p.x_stride, p.length, p.reversed != 0};
    Sequence<float> k = {p.k + place.channel, p.k_stride, p.length, false};
    float sums[BLOCK] = {};
    convolve(k, x, place.first, sums);
    IO* y = p.y + row * p.y_stride + place.channel;
#pragma unroll
    for (int i = 0; i < BLOCK; ++i) {
        int t = place.first + i;
        if (t < p.length) y[(p.reversed ? p.length - 1 - t : t) * p.y_stride] = from_f32<IO>(sums[i]);
    }
}

extern "C" __global__ void __launch_bounds__(CHANNELS * MAX_LENGTH / BLOCK)
    long_conv_direct_correlate(const __grid_constant__ DirectCorrelateParams p) {
    DirectPlace place(p.channels);
    if (place.channel >= p.channels) return;
    i64 first = place.item * p.items, last = first + p.items < p.batch ? first + p.items : p.batch;
    float sums[BLOCK] = {};
    for (i64 item = first; item < last; ++item) {
        i64 row = item * p.length;
        Sequence<IO> x = {p.x + row * p.x_stride + place.channel, p.x_stride, p.length, false};
        Sequence<IO> dy = {p.dy + row * p.dy_stride + place.channel, p.dy_stride, p.length, true};
        convolve(x, dy, place.first, sums);
    }
    float* dk = p.dk + place.item * p.length * p.channels + place.channel;
#pragma unroll
    for (int i = 0; i < BLOCK; ++i) {
        int t = p.length - 1 - (place.first + i);
        if (t >= 0) dk[(i64)t * p.channels] = sums[i];
    }
}
