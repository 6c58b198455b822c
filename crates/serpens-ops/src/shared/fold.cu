// The gradients of parameters from the sums that blocks have left in a workspace, added in a fixed order.

constexpr int FOLD_COLUMNS = 32; // of a block
constexpr int FOLD_ROWS = 16;    // threads that share a column

extern "C" __global__ void __launch_bounds__(FOLD_COLUMNS * FOLD_ROWS) fold(const __grid_constant__ FoldParams p) {
    __shared__ float sums[FOLD_ROWS][FOLD_COLUMNS];
    int lane = threadIdx.x % FOLD_COLUMNS, row = threadIdx.x / FOLD_COLUMNS;
    i64 column = (i64)blockIdx.x * FOLD_COLUMNS + lane;
    float sum = 0.0f;
    if (column < p.columns) {
#pragma unroll 8
        for (i64 i = row; i < p.count; i += FOLD_ROWS) sum += p.partials[i * p.columns + column];
    }
    sums[row][lane] = sum;
    __syncthreads();
    if (row > 0 || column >= p.columns) return;
#pragma unroll
    for (int i = 1; i < FOLD_ROWS; ++i) sum += sums[i][lane];
    i64 k = column / p.channels, c = column % p.channels;
    if (k < p.width)
        p.first[c * p.width + k] = sum;
    else if (p.second)
        p.second[c] = sum;
}
