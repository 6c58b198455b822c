// Sums of the parts that the blocks of a backward scan leave, in a fixed order.
//
// Macros: IO.

template <int K> __device__ __forceinline__ void fold_piece(const GradientFold& f, i64 piece) {
    i64 row = piece / f.row_pieces;
    int column = (int)(piece % f.row_pieces) * K;
    const float* from = f.from + row * f.row_stride + column;
    float sum[K];
#pragma unroll
    for (int r = 0; r < K; ++r) sum[r] = 0.0f;
#pragma unroll 8
    for (int part = 0; part < f.parts; ++part) {
        float more[K];
        load<K>(from + part * f.part_stride, more);
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
    i64 piece = (i64)(blockIdx.x - f.first_block) * FOLD_THREADS + threadIdx.x;
    if (piece >= f.pieces) return;
    if (f.width == 4)
        fold_piece<4>(f, piece);
    else
        fold_piece<1>(f, piece);
}
