// Embedding: rows of a table by id, and the sums of their gradients in the order of the positions.
//
// Macros: DY, the type of the gradient, or of the table whose rows are read (float | bf16); VEC, values an access moves
// (4 | 1).
//
// The backward pass sorts the positions by id, stably, in digits of eight bits: two kernels a digit. The sorted
// positions are cut in segments; one block sums the rows of a segment run by run. A run that lies in one segment goes
// to the table at once; the sums of a run that passes through several are added up, in order, by a last kernel.

constexpr u32 ALL = 0xffffffffu;

// ---- forward ----

// y[i] = table[ids[i]], a warp a row. An id outside the table gives a row of NaN: nothing is read there.
extern "C" __global__ void __launch_bounds__(256) embedding_gather(const __grid_constant__ GatherParams p) {
    i64 row = (i64)blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= p.rows) return;
    u32 id = p.ids[row];
    bool valid = id < p.vocabulary;
    const DY* from = p.table + (valid ? id : 0) * p.width;
    float* to = p.y + row * p.width;
#pragma unroll 4
    for (i64 c = threadIdx.x % 32 * VEC; c < p.width; c += 32 * VEC) {
        float x[VEC];
        load<VEC>(from + c, x);
#pragma unroll
        for (int k = 0; k < VEC; ++k) x[k] = valid ? x[k] : __uint_as_float(0x7fc00000u);
        store<VEC>(to + c, x);
    }
}

// ---- sorting positions by id ----

constexpr int WARPS = 8;
constexpr int DIGITS = 256;          // one thread each
constexpr int STEPS = 8;             // ids of a thread
constexpr int TILE = DIGITS * STEPS; // ids of a block, in order: those of a warp lie together, in it those of a step

// The number of ids of each digit in each tile.
extern "C" __global__ void __launch_bounds__(256) embedding_count(const __grid_constant__ SortParams p) {
    __shared__ u32 counts[DIGITS];
    counts[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        u32 i = blockIdx.x * TILE + step * DIGITS + threadIdx.x;
        if (i < p.count) atomicAdd(&counts[min(p.keys[i], p.vocabulary) >> p.shift & (DIGITS - 1)], 1u);
    }
    __syncthreads();
    p.counts[blockIdx.x * DIGITS + threadIdx.x] = counts[threadIdx.x];
}

// Sum of `x` over the threads before this one.
__device__ __forceinline__ u32 sum_before(u32 x) {
    __shared__ u32 sums[WARPS];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, sum = x;
#pragma unroll
    for (u32 step = 1; step < 32; step *= 2) {
        u32 other = __shfl_up_sync(ALL, sum, step);
        if (lane >= step) sum += other;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    for (u32 w = 0; w < warp; ++w) sum += sums[w];
    return sum - x;
}

// Moves ids and positions to where the digit puts them; equal digits keep their order.
extern "C" __global__ void __launch_bounds__(256) embedding_place(const __grid_constant__ SortParams p) {
    __shared__ u32 counts[WARPS][DIGITS]; // of the warp's ids so far; then where its first id of the digit goes
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 keys[STEPS], ranks[STEPS];
#pragma unroll
    for (int w = 0; w < WARPS; ++w) counts[w][threadIdx.x] = 0;
    u32 first = blockIdx.x * TILE + warp * (32 * STEPS) + lane;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        u32 i = first + step * 32;
        keys[step] = i < p.count ? min(p.keys[i], p.vocabulary) : 0;
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        bool there = first + step * 32 < p.count;
        u32 digit = keys[step] >> p.shift & (DIGITS - 1);
        u32 same = __match_any_sync(ALL, there ? digit : DIGITS);
        u32 before = __popc(same & ((1u << lane) - 1));
        ranks[step] = counts[warp][digit] + before;
        __syncwarp();
        if (there && before == 0) counts[warp][digit] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
    // This thread's digit: how many there are in all, and how many in the tiles before.
    u32 total = 0, place = 0;
#pragma unroll 8
    for (u32 tile = 0; tile < gridDim.x; ++tile) {
        u32 count = p.counts[tile * DIGITS + threadIdx.x];
        total += count;
        place += tile < blockIdx.x ? count : 0;
    }
    place += sum_before(total);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        u32 count = counts[w][threadIdx.x];
        counts[w][threadIdx.x] = place;
        place += count;
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        u32 i = first + step * 32;
        if (i >= p.count) break;
        u32 to = counts[warp][keys[step] >> p.shift & (DIGITS - 1)] + ranks[step];
        p.sorted_keys[to] = keys[step];
        p.sorted_positions[to] = p.positions ? p.positions[i] : i;
    }
}

// ---- sums over the runs of equal ids ----

constexpr int BATCH = 8; // rows under way at once

template <class T> __device__ __forceinline__ void load_or_zero(bool there, const T* from, float (&to)[VEC]) {
#pragma unroll
    for (int k = 0; k < VEC; ++k) to[k] = 0.0f;
    if (there) load<VEC>(from, to);
}

// One segment (grid x) and the columns of a block (grid y).
extern "C" __global__ void __launch_bounds__(256) embedding_sum(const __grid_constant__ RunSumParams p) {
    i64 c = ((i64)blockIdx.y * blockDim.x + threadIdx.x) * VEC;
    if (c >= p.width) return;
    u32 from = blockIdx.x * p.segment, to = min(from + p.segment, p.count);
    float* head = p.sums + (i64)blockIdx.x * 2 * p.width + c;
    float* tail = head + p.width;
    float sum[VEC] = {};
    float* destination = head; // of the run at hand
    u32 previous = from > 0 ? p.keys[from - 1] : ALL;
    for (u32 i = from; i < to; i += BATCH) {
        u32 keys[BATCH + 1];
        float x[BATCH][VEC], old[BATCH][VEC];
#pragma unroll
        for (int k = 0; k <= BATCH; ++k) keys[k] = i + k < p.count ? p.keys[i + k] : ALL;
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            bool there = i + k < to && keys[k] < p.vocabulary;
            bool begins = keys[k] != (k == 0 ? previous : keys[k > 0 ? k - 1 : 0]);
            u32 position = there ? p.positions[i + k] : 0;
            load_or_zero(there, p.dy + position * p.width + c, x[k]);
            load_or_zero(there && begins && p.accumulate, p.dtable + keys[k] * p.width + c, old[k]);
        }
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            if (i + k >= to || keys[k] >= p.vocabulary) break;
            if (keys[k] != previous) {
                destination = p.dtable + keys[k] * p.width + c;
#pragma unroll
                for (int j = 0; j < VEC; ++j) sum[j] = old[k][j];
            }
            previous = keys[k];
#pragma unroll
            for (int j = 0; j < VEC; ++j) sum[j] += x[k][j];
            bool ends = keys[k] != keys[k + 1];
            if (!ends && i + k + 1 == to && destination != head) destination = tail;
            if (ends || i + k + 1 == to) store<VEC>(destination, sum);
        }
    }
}

// Adds up the run that begins in one segment (grid x) and goes on in the next ones.
extern "C" __global__ void __launch_bounds__(256) embedding_fold(const __grid_constant__ RunSumParams p) {
    i64 c = ((i64)blockIdx.y * blockDim.x + threadIdx.x) * VEC;
    i64 from = (i64)blockIdx.x * p.segment, next = from + p.segment;
    if (c >= p.width || next >= p.count) return;
    u32 key = p.keys[next - 1];
    bool goes_on = key == p.keys[next], begins_here = from == 0 || p.keys[from - 1] != key;
    if (!goes_on || !begins_here || key >= p.vocabulary) return;
    const float* head = p.sums + (i64)blockIdx.x * 2 * p.width + c;
    float sum[VEC];
    load<VEC>(head + p.width, sum);
    for (bool going = true; going; next += BATCH * p.segment) {
        float x[BATCH][VEC];
        bool there[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            i64 begin = next + (i64)k * p.segment;
            there[k] = begin < p.count && p.keys[begin] == key;
            head += 2 * p.width;
            load_or_zero(there[k], head, x[k]);
        }
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            going = there[k];
            if (!going) break;
#pragma unroll
            for (int j = 0; j < VEC; ++j) sum[j] += x[k][j];
        }
    }
    store<VEC>(p.dtable + key * p.width + c, sum);
}

// Zeros, where there is nothing to add to.
extern "C" __global__ void __launch_bounds__(256) embedding_clear(const __grid_constant__ ClearParams p) {
    const float zeros[VEC] = {};
    i64 i = ((i64)blockIdx.x * 256 + threadIdx.x) * VEC;
    if (i < p.count) store<VEC>(p.values + i, zeros);
}
