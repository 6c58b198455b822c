// Sums of the parts that the blocks of a backward scan leave, in a fixed order.
//
// Macros: IO.

// A sum over parts in their order: to[row][column] = Σ from[part][row][column].
struct Fold {
    const float* from;
    void* to;
    i64 part_stride, row_stride, to_stride;
    i64 pieces;       // of `width` values
    int row_pieces;   // in a row
    int parts, width; // width: 4 where all is aligned to it, or 1
    int is_float;     // the type of `to`: f32, or IO
    int first_block;
};

constexpr int FOLDS = 6;
constexpr int FOLD_THREADS = 256;

struct FoldParams {
    Fold folds[FOLDS];
};

template <int K> __device__ __forceinline__ void fold_piece(const Fold& f, i64 piece) {
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

extern "C" __global__ void __launch_bounds__(FOLD_THREADS) selective_scan_fold(const __grid_constant__ FoldParams p) {
    int which = 0;
#pragma unroll
    for (int i = 1; i < FOLDS; ++i)
        if (blockIdx.x >= p.folds[i].first_block) which = i;
    const Fold& f = p.folds[which];
    i64 piece = (i64)(blockIdx.x - f.first_block) * FOLD_THREADS + threadIdx.x;
    if (piece >= f.pieces) return;
    if (f.width == 4)
        fold_piece<4>(f, piece);
    else
        fold_piece<1>(f, piece);
}
