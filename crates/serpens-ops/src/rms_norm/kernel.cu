// Root mean square normalisation of rows, with the residual added first, as mod.rs defines it. After packet.cuh.
//
// A block takes a row: its values are read once, stay in the registers of the threads, and are written once. Longer
// rows than that go to the kernels named wide, which read them twice.
//
// Macros: IN (float or bf16: x), OUT (y and its gradient), SUM (h as the backward pass reads it: float, or IN where
// there is no residual), VEC (values of an access).

constexpr int VALUES = 8; // of a thread
constexpr int PACKETS = VALUES / VEC;

// The column of the first value of packet `i` of this thread.
__device__ __forceinline__ int column(int i) { return (i * (int)blockDim.x + (int)threadIdx.x) * VEC; }

// The values of a row that this thread has; zeros behind its end.
template <class T> struct RowPackets {
    Packet<VEC, T> packets[PACKETS];

    __device__ __forceinline__ void read(const T* row, int cols) {
#pragma unroll
        for (int i = 0; i < PACKETS; ++i) {
            packets[i].clear();
            if (row && column(i) < cols) packets[i].read(row + column(i));
        }
    }
    __device__ __forceinline__ const Packet<VEC, T>& operator[](int i) const { return packets[i]; }
};

// Row `row`, or null where the matrix is missing.
template <class T> __device__ __forceinline__ const T* row_of(const T* matrix, i64 row, i64 stride) {
    return matrix ? matrix + row * stride : nullptr;
}

// The sum of `x` over the block, the same bits in each thread. `turn` alternates from one sum to the next.
__device__ __forceinline__ float block_sum(float x, int turn) {
    x = warp_sum(x);
    if (blockDim.x == 32) return x;
    __shared__ float sums[2][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) sums[turn][warp] = x;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? sums[turn][lane] : 0.0f);
}

// What a row is multiplied by before and after its squares are summed: their product is rstd. The first, `scale`, is 1
// but for the few rows whose squares f32 cannot hold.
struct Norm {
    float scale, rstd;
};

// `squares` gives this thread's share of the sum of the squares, of values times a scale.
template <class Squares> __device__ __forceinline__ Norm forward_norm(const RmsNormParams& p, i64 row, Squares squares) {
    float scale = 1.0f, mean = block_sum(squares(1.0f), 0) / (float)p.cols + p.eps;
    if (!(mean >= 1e-36f && mean <= 3.402823466e38f)) {
        scale = mean < 1.0f ? 0x1p100f : 0x1p-80f;
        mean = block_sum(squares(scale), 1) / (float)p.cols + p.eps * scale * scale;
    }
    float rstd = 1.0f / sqrtf(mean);
    if (p.rstd && threadIdx.x == 0) p.rstd[row] = rstd * scale;
    return {scale, rstd};
}

extern "C" __global__ void __launch_bounds__(1024) rms_norm_forward(const __grid_constant__ RmsNormParams p) {
    release_successor();
    await_predecessors();
    i64 row = blockIdx.x;
    RowPackets<IN> x;
    RowPackets<float> residual;
    x.read(p.x + row * p.x_stride, p.cols);
    residual.read(row_of(p.residual, row, p.residual_stride), p.cols);
    float h[PACKETS][VEC];
#pragma unroll
    for (int i = 0; i < PACKETS; ++i) {
#pragma unroll
        for (int v = 0; v < VEC; ++v) h[i][v] = x[i][v] + residual[i][v];
        if (p.h && column(i) < p.cols) store(p.h + row * p.cols + column(i), h[i]);
    }
    Norm norm = forward_norm(p, row, [&](float scale) {
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PACKETS; ++i)
#pragma unroll
            for (int v = 0; v < VEC; ++v) squares = fmaf(h[i][v] * scale, h[i][v] * scale, squares);
        return squares;
    });
#pragma unroll
    for (int i = 0; i < PACKETS; ++i) {
        if (column(i) >= p.cols) continue;
        float weight[VEC], y[VEC];
        load(p.weight + column(i), weight);
#pragma unroll
        for (int v = 0; v < VEC; ++v) y[v] = h[i][v] * norm.scale * norm.rstd * weight[v];
        store(p.y + row * p.cols + column(i), y);
    }
}

extern "C" __global__ void __launch_bounds__(1024) rms_norm_forward_wide(const __grid_constant__ RmsNormParams p) {
    release_successor();
    await_predecessors();
    i64 row = blockIdx.x;
    const float* residual = row_of(p.residual, row, p.residual_stride);
    auto sum = [&](int c) { return to_f32(p.x[row * p.x_stride + c]) + (residual ? residual[c] : 0.0f); };
    Norm norm = forward_norm(p, row, [&](float scale) {
        float squares = 0.0f;
        for (int c = threadIdx.x; c < p.cols; c += blockDim.x) {
            float h = sum(c);
            if (p.h) p.h[row * p.cols + c] = h;
            squares = fmaf(h * scale, h * scale, squares);
        }
        return squares;
    });
    for (int c = threadIdx.x; c < p.cols; c += blockDim.x)
        p.y[row * p.cols + c] = from_f32<OUT>(sum(c) * norm.scale * norm.rstd * p.weight[c]);
}

// rstd as `scale` · `rest`. The scale is 1, or for the few rows that are too large or small for the rest to be cubed in
// f32, the power of two that brings their h near 1.
struct Scaled {
    float scale, rest;
    __device__ __forceinline__ explicit Scaled(float rstd) : scale(1.0f), rest(rstd) {
        if (rstd >= 1e-8f && rstd <= 1e8f) return;
        scale = fmaxf(__uint_as_float(__float_as_uint(rstd) & 0x7f800000u), 0x1p-126f);
        rest = rstd / scale;
    }
};

// With s the scale of rstd: dh = dh_extra + s · (rest · (w ⊙ dy) + along · (s · h)), where `dot` has s · h too.
__device__ __forceinline__ float along_h(const RmsNormBackwardParams& p, float dot, float rest, int turn) {
    return -block_sum(dot, turn) * rest * rest * rest / (float)p.cols;
}

// Each block takes every gridDim.x-th row.
extern "C" __global__ void __launch_bounds__(1024) rms_norm_backward(const __grid_constant__ RmsNormBackwardParams p) {
    float dweight[PACKETS][VEC] = {};
    int turn = 0;
    for (i64 row = blockIdx.x; row < p.rows; row += gridDim.x, turn ^= 1) {
        RowPackets<OUT> dy;
        RowPackets<SUM> h;
        RowPackets<float> extra;
        dy.read(p.dy + row * p.cols, p.cols);
        h.read(p.h + row * p.h_stride, p.cols);
        extra.read(row_of(p.dh_extra, row, p.cols), p.cols);
        float rstd = p.rstd[row], dot = 0.0f;
        Scaled r(rstd);
        float scaled[PACKETS][VEC];
#pragma unroll
        for (int i = 0; i < PACKETS; ++i) {
            float weight[VEC] = {};
            if (column(i) < p.cols) load(p.weight + column(i), weight);
#pragma unroll
            for (int v = 0; v < VEC; ++v) {
                scaled[i][v] = dy[i][v] * weight[v];
                dot = fmaf(scaled[i][v], h[i][v] * r.scale, dot);
                dweight[i][v] = fmaf(dy[i][v], h[i][v] * rstd, dweight[i][v]);
            }
        }
        float along = along_h(p, dot, r.rest, turn);
#pragma unroll
        for (int i = 0; i < PACKETS; ++i) {
            if (column(i) >= p.cols) continue;
            float gradient[VEC];
#pragma unroll
            for (int v = 0; v < VEC; ++v)
                gradient[v] = extra[i][v] + r.scale * fmaf(along, h[i][v] * r.scale, r.rest * scaled[i][v]);
            if (p.dh) store(p.dh + row * p.cols + column(i), gradient);
            if (p.dx) store(p.dx + row * p.cols + column(i), gradient);
        }
    }
#pragma unroll
    for (int i = 0; i < PACKETS; ++i)
        if (column(i) < p.cols) store(p.partials + (i64)blockIdx.x * p.cols + column(i), dweight[i]);
}

// The gradient of the weight gathers in the workspace.
extern "C" __global__ void __launch_bounds__(1024) rms_norm_backward_wide(const __grid_constant__ RmsNormBackwardParams p) {
    float* dweight = p.partials + (i64)blockIdx.x * p.cols;
    for (int c = threadIdx.x; c < p.cols; c += blockDim.x) dweight[c] = 0.0f;
    int turn = 0;
    for (i64 row = blockIdx.x; row < p.rows; row += gridDim.x, turn ^= 1) {
        auto dy = [&](int c) { return to_f32(p.dy[row * p.cols + c]); };
        auto h = [&](int c) { return to_f32(p.h[row * p.h_stride + c]); };
        float rstd = p.rstd[row], dot = 0.0f;
        Scaled r(rstd);
        for (int c = threadIdx.x; c < p.cols; c += blockDim.x) {
            dot = fmaf(dy(c) * p.weight[c], h(c) * r.scale, dot);
            dweight[c] = fmaf(dy(c), h(c) * rstd, dweight[c]);
        }
        float along = along_h(p, dot, r.rest, turn);
        for (int c = threadIdx.x; c < p.cols; c += blockDim.x) {
            i64 at = row * p.cols + c;
            float scaled = r.rest * dy(c) * p.weight[c];
            float gradient = (p.dh_extra ? p.dh_extra[at] : 0.0f) + r.scale * fmaf(along, h(c) * r.scale, scaled);
            if (p.dh) p.dh[at] = gradient;
            if (p.dx) p.dx[at] = from_f32<bf16>(gradient);
        }
    }
}
