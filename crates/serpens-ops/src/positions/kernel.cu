// Learnt positions, as mod.rs defines them.
//
// Macros: TABLE (the type of the table: float or bf16), VEC (values of an access: 4 or 1).

// to += from.
__device__ __forceinline__ void add(float (&to)[VEC], const float (&from)[VEC]) {
#pragma unroll
    for (int k = 0; k < VEC; ++k) to[k] += from[k];
}

// The first of this thread's columns.
__device__ __forceinline__ i64 column() { return ((i64)blockIdx.y * blockDim.x + threadIdx.x) * VEC; }

// y = x + the table's row of its position, for one row (grid x).
extern "C" __global__ void __launch_bounds__(256) positions(const __grid_constant__ PositionsParams p) {
    i64 c = column();
    if (c >= p.width) return;
    u32 row = blockIdx.x, place = p.places ? p.places[row] : p.from + row % p.length;
    float x[VEC], learnt[VEC];
    load<VEC>(p.x + row * p.x_stride + c, x);
    load<VEC>(p.table + place * p.table_stride + c, learnt);
    add(x, learnt);
    store<VEC>(p.y + row * p.y_stride + c, x);
}

// The gradient of one position (grid x): the sum over the sequences, in order; none has it twice.
extern "C" __global__ void __launch_bounds__(256) positions_gradient(const __grid_constant__ PositionsGradientParams p) {
    i64 c = column();
    u32 place = blockIdx.x, row = place - p.from;
    bool met = place >= p.from && row < p.length;
    if (c >= p.width || (p.accumulate && !met)) return;
    float* to = p.dtable + place * p.dtable_stride + c;
    float sum[VEC] = {};
    if (p.accumulate) load<VEC>(to, sum);
    if (met) {
        const float* from = p.dy + row * p.dy_stride + c;
#pragma unroll 8
        for (u32 b = 0; b < p.batch; ++b, from += p.length * p.dy_stride) {
            float dy[VEC];
            load<VEC>(from, dy);
            add(sum, dy);
        }
    }
    store<VEC>(to, sum);
}

// The next position of one slot (a block), which is counted when every thread has read it.
extern "C" __global__ void __launch_bounds__(256) positions_step(const __grid_constant__ PositionsStepParams p) {
    release_successor();
    await_predecessors();
    u32* read = p.read + blockIdx.x;
    u32 place = *read;
    __syncthreads();
    if (threadIdx.x == 0) *read = max(place + 1, place);
    if (place >= p.positions) return;
    float* h = p.h + blockIdx.x * p.h_stride;
    const TABLE* row = p.table + place * p.table_stride;
    for (i64 c = threadIdx.x * VEC; c < p.width; c += blockDim.x * VEC) {
        float sum[VEC], learnt[VEC];
        load<VEC>(h + c, sum);
        load<VEC>(row + c, learnt);
        add(sum, learnt);
        store<VEC>(h + c, sum);
    }
}
