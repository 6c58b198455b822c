// Heads by factors and offsets of each, as mod.rs defines them.
//
// Macros: IO (float or bf16: x, y and their gradients), VEC (values of an access: 4 or 1).

// A block has BLOCK / lanes rows, the same columns of each.
struct Place {
    i64 row, column;

    __device__ __forceinline__ explicit Place(int lanes)
        : row((i64)blockIdx.x * (BLOCK / lanes) + threadIdx.x / lanes),
          column(((i64)blockIdx.y * lanes + threadIdx.x % lanes) * VEC) {}
};

// y = x · scale + offset, head by head.
extern "C" __global__ void __launch_bounds__(BLOCK) offset_scale(const __grid_constant__ OffsetScaleParams p) {
    Place at(p.lanes);
    if (at.row >= p.rows || at.column >= p.cols) return;
    float x[VEC];
    load<VEC>(p.x + at.row * p.x_stride + at.column, x);
    for (i64 j = at.column; j < p.width; j += p.cols) {
        float scale[VEC], y[VEC];
        load<VEC>(p.scale + j, scale);
        load<VEC>(p.offset + j, y);
#pragma unroll
        for (int k = 0; k < VEC; ++k) y[k] = fmaf(x[k], scale[k], y[k]);
        store<VEC>(p.y + at.row * p.width + j, y);
    }
}

// dx: the sum over the heads, in order.
extern "C" __global__ void __launch_bounds__(BLOCK) offset_scale_rows(const __grid_constant__ OffsetScaleBackwardParams p) {
    Place at(p.lanes);
    if (at.row >= p.rows || at.column >= p.cols) return;
    float sum[VEC] = {};
#pragma unroll 4
    for (i64 j = at.column; j < p.width; j += p.cols) {
        float scale[VEC], dy[VEC];
        load<VEC>(p.scale + j, scale);
        load<VEC>(p.dy + at.row * p.width + j, dy);
#pragma unroll
        for (int k = 0; k < VEC; ++k) sum[k] = fmaf(scale[k], dy[k], sum[k]);
    }
    store<VEC>(p.dx + at.row * p.dx_stride + at.column, sum);
}

constexpr int LANES = 32;           // threads that share a row
constexpr int TURNS = BLOCK / LANES; // rows at work

// The sums over rows of dy · x and of dy, for 32 · VEC columns of dy (grid x), over every gridDim.y-th group of rows.
extern "C" __global__ void __launch_bounds__(BLOCK) offset_scale_sums(const __grid_constant__ OffsetScaleBackwardParams p) {
    __shared__ __align__(16) float sums[2][TURNS][LANES * VEC];
    int lane = threadIdx.x % LANES, turn = threadIdx.x / LANES;
    i64 j = ((i64)blockIdx.x * LANES + lane) * VEC;
    float dscale[VEC] = {}, doffset[VEC] = {};
    if (j < p.width) {
        const IO *x = p.x + j % p.cols, *dy = p.dy + j;
#pragma unroll 4
        for (i64 row = (i64)blockIdx.y * TURNS + turn; row < p.rows; row += (i64)gridDim.y * TURNS) {
            float value[VEC], slope[VEC];
            load<VEC>(x + row * p.x_stride, value);
            load<VEC>(dy + row * p.width, slope);
#pragma unroll
            for (int k = 0; k < VEC; ++k) {
                dscale[k] = fmaf(slope[k], value[k], dscale[k]);
                doffset[k] += slope[k];
            }
        }
    }
    store<VEC>(&sums[0][turn][lane * VEC], dscale);
    store<VEC>(&sums[1][turn][lane * VEC], doffset);
    __syncthreads();
    // One warp adds up the former, another the latter.
    if (turn >= 2 || j >= p.width) return;
    float sum[VEC] = {};
#pragma unroll
    for (int i = 0; i < TURNS; ++i)
#pragma unroll
        for (int k = 0; k < VEC; ++k) sum[k] += sums[turn][i][lane * VEC + k];
    store<VEC>(p.partials + ((i64)blockIdx.y * 2 + turn) * p.width + j, sum);
}
