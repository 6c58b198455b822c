// The sum of what groups of items gave to the gradient of the kernels, in order. The groups are few, the values many.

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) long_conv_fold(const __grid_constant__ LongConvFoldParams p) {
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.count) return;
    float sum = 0.0f;
    for (i64 group = 0; group < p.groups; ++group) sum += p.sums[group * p.count + i];
    p.sum[i] = sum;
}
