// Sums of what the blocks of a backward scan leave, in a fixed order.
//
// Macros: IO.

template <int K> __device__ __forceinline__ void fold_item(const GradientFold& f, i64 item) {
    i64 row = item / f.row_items;
    int column = (int)(item % f.row_items) * K;
    const float* from = f.from + row * f.row_stride + column;
    float sum[K];
#pragma unroll
    for (int r = 0; r < K; ++r) sum[r] = 0.0f;
#pragma unroll 8
    for (int i = 0; i < f.count; ++i) {
        float more[K];
        load<K>(from + i * f.stride, more);
#pragma unroll
        for (int r = 0; r < K; ++r) sum[r] += more[r];
    }
    if (f.is_float)
        store<K>(reinterpret_cast<float*>(f.to) + row * f.to_stride + column, sum);
    else
        store<K>(reinterpret_cast<IO*>(f.to) + row * f.to_stride + column, sum);
}

extern "C" __global__ void __launch_bounds__(FOLD_THREADS) selective_scan_fold(const __grid_constant__ GradientFoldParams p) {
    int which = 0;
#pragma unroll
    for (int i = 1; i < FOLDS; ++i)
        if (blockIdx.x >= p.folds[i].first_block) which = i;
    const GradientFold& f = p.folds[which];
    i64 item = (i64)(blockIdx.x - f.first_block) * FOLD_THREADS + threadIdx.x;
    if (item >= f.items) return;
    if (f.width == 4)
        fold_item<4>(f, item);
    else
        fold_item<1>(f, item);
}
