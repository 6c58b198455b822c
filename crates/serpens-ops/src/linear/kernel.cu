// The bias of linear maps: added to every row, and its gradient summed over rows.

constexpr int BLOCK = 128; // threads, each with one column
constexpr int ROWS = 128;  // rows that a block of `sum_bias` sums

struct Params {
    IO* matrix;
    float* vector;
    float* parts; // (blocks, cols)
    i64 stride, rows, cols;
    int accumulate;
};

extern "C" __global__ void __launch_bounds__(BLOCK) add_bias(const __grid_constant__ Params p) {
    i64 col = blockIdx.x * (i64)BLOCK + threadIdx.x;
    if (col >= p.cols) return;
    float bias = p.vector[col];
    for (i64 row = blockIdx.y; row < p.rows; row += gridDim.y) {
        IO* value = p.matrix + row * p.stride + col;
        *value = from_f32<IO>(to_f32(*value) + bias);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK) sum_bias(const __grid_constant__ Params p) {
    i64 col = blockIdx.x * (i64)BLOCK + threadIdx.x;
    if (col >= p.cols) return;
    i64 end = min(p.rows, (blockIdx.y + 1ll) * ROWS);
    float sum = 0.0f;
    for (i64 row = blockIdx.y * (i64)ROWS; row < end; ++row) sum += to_f32(p.matrix[row * p.stride + col]);
    p.parts[blockIdx.y * p.cols + col] = sum;
}

extern "C" __global__ void __launch_bounds__(BLOCK) fold_bias(const __grid_constant__ Params p) {
    i64 col = blockIdx.x * (i64)BLOCK + threadIdx.x;
    if (col >= p.cols) return;
    i64 blocks = (p.rows + ROWS - 1) / ROWS;
    float sum = p.accumulate ? p.vector[col] : 0.0f;
    for (i64 block = 0; block < blocks; ++block) sum += p.parts[block * p.cols + col];
    p.vector[col] = sum;
}
