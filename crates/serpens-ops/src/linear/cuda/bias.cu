// The bias of linear maps, added to every row.

constexpr int BLOCK = 128; // threads, each with one column

extern "C" __global__ void __launch_bounds__(BLOCK) add_bias(const __grid_constant__ BiasParams p) {
    i64 col = blockIdx.x * (i64)BLOCK + threadIdx.x;
    if (col >= p.cols) return;
    float bias = p.vector[col];
    for (i64 row = blockIdx.y; row < p.rows; row += gridDim.y) {
        IO* value = p.matrix + row * p.stride + col;
        *value = from_f32<IO>(to_f32(*value) + bias);
    }
}
