// Grids read along their columns, as mod.rs defines it: a copy of rows.
//
// Macro: WORD, what an access moves: uint4, or one value as u32 or u16.

extern "C" __global__ void __launch_bounds__(BLOCK) swap_axes(const __grid_constant__ SwapAxesParams p) {
    u32 row = blockIdx.x * (BLOCK / p.lanes) + threadIdx.x / p.lanes;
    if (row >= p.count) return;
    u32 place = row % (p.rows * p.columns);
    i64 from = row - place + place % p.rows * p.columns + place / p.rows;
    for (i64 c = threadIdx.x % p.lanes; c < p.width; c += p.lanes) p.y[row * p.y_stride + c] = p.x[from * p.x_stride + c];
}
