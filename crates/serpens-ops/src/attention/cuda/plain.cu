// Causal attention and its gradients for any type, card and size of heads up to 256, in f32 throughout: what is not for
// Hopper's tensor cores, or is to be exact.
//
// A block has ROWS queries or keys of a head and walks the tiles of ROWS keys or queries that belong to them. 256
// threads have four times four products each: of dot products, whose operands pass through shared memory 32 columns at
// a time, and, with these in shared memory, of sums weighted by them, 64 columns at a time. dk and dv are summed by
// blocks of keys over the heads of q that share them, dq by blocks of queries, which computes the dot products twice,
// but in order.
//
// Macros: DOCUMENTS, IO (the operands' type), HEAD (columns of a head, at most 256).

constexpr int THREADS = 256;
constexpr int SLICE = 32, PITCH = ROWS + 4;
constexpr int PARTS = (HEAD + 63) / 64;

struct Shared {
    union {
        float slices[2][SLICE][PITCH];  // of the operands of dot products, by columns
        float values[ROWS][ROWS];       // 64 columns of what is weighted
    };
    float weights[ROWS][PITCH];  // (rows that are walked, rows of the block)
};

// Some rows of a head.
struct Rows {
    const IO* from;
    i64 stride;
    int count;

    __device__ __forceinline__ float at(int row, int column) const {
        return row < count && column < HEAD ? to_f32(from[row * stride + column]) : 0.0f;
    }
};

// d[i][j] = <a row 4 (thread / 16) + i, b row 4 (thread % 16) + j>
__device__ void dots(float (&d)[4][4], Shared& s, const Rows& a, const Rows& b) {
    int of_a = threadIdx.x / 16 * 4, of_b = threadIdx.x % 16 * 4;
#pragma unroll
    for (int i = 0; i < 16; ++i) d[i / 4][i % 4] = 0.0f;
    for (int first = 0; first < HEAD; first += SLICE) {
        __syncthreads();
        for (int i = threadIdx.x; i < SLICE * ROWS; i += THREADS) {
            int column = i % SLICE, row = i / SLICE;
            s.slices[0][column][row] = a.at(row, first + column);
            s.slices[1][column][row] = b.at(row, first + column);
        }
        __syncthreads();
#pragma unroll 8
        for (int column = 0; column < SLICE; ++column) {
            float x[4], y[4];
            load(&s.slices[0][column][of_a], x);
            load(&s.slices[1][column][of_b], y);
#pragma unroll
            for (int i = 0; i < 16; ++i) d[i / 4][i % 4] = fmaf(x[i / 4], y[i % 4], d[i / 4][i % 4]);
        }
    }
}

// sums[part][i][j], of the block's row 4 (thread / 16) + i and column 64 part + 4 (thread % 16) + j, += weights × rows.
__device__ void weigh(float (&sums)[PARTS][4][4], Shared& s, const float (&weights)[4][4], const Rows& rows) {
    int of_block = threadIdx.x / 16 * 4, other = threadIdx.x % 16 * 4;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        float column[4] = {weights[0][j], weights[1][j], weights[2][j], weights[3][j]};
        store(&s.weights[other + j][of_block], column);
    }
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        if (part) __syncthreads();
        for (int i = threadIdx.x; i < ROWS * 64; i += THREADS) s.values[i / 64][i % 64] = rows.at(i / 64, part * 64 + i % 64);
        __syncthreads();
#pragma unroll 8
        for (int row = 0; row < ROWS; ++row) {
            float x[4], y[4];
            load(&s.weights[row][of_block], x);
            load(&s.values[row][other], y);
#pragma unroll
            for (int i = 0; i < 16; ++i) sums[part][i / 4][i % 4] = fmaf(x[i / 4], y[i % 4], sums[part][i / 4][i % 4]);
        }
    }
}

__device__ void put(IO* to, i64 stride, const float (&sums)[PARTS][4][4], const float (&factor)[4], int count) {
    int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            int own = part * 64 + column + i % 4;
            if (row + i / 4 < count && own < HEAD) to[(row + i / 4) * stride + own] = from_f32<IO>(sums[part][i / 4][i % 4] * factor[i / 4]);
        }
}

__device__ __forceinline__ void clear(float (&sums)[PARTS][4][4]) {
#pragma unroll
    for (int i = 0; i < PARTS * 16; ++i) sums[i / 16][i / 4 % 4][i % 4] = 0.0f;
}

// Rows of a head from `first` on, of those before `end`.
__device__ __forceinline__ Rows rows(const IO* all, i64 stride, int head, int first, int end) {
    return {all + first * stride + head * HEAD, stride, end - first};
}

// The block's tile of queries or keys of a head: blocks with most to walk first.
__device__ __forceinline__ Tile<ROWS> own_tile(const AttentionParams& p, bool last_first) {
    int stretches = p.queries / p.stretch, number = blockIdx.x / stretches;
    return Tile<ROWS>(p, blockIdx.x % stretches, last_first ? Tile<ROWS>::of_stretch(p) - 1 - number : number);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_forward_plain(const __grid_constant__ AttentionParams p) {
    __shared__ Shared s;
    int head = blockIdx.y, kv_head = head / p.group;
    Tile<ROWS> tile = own_tile(p, true);
    int row = tile.first + threadIdx.x / 16 * 4, end = keys_of(p, tile.end - 1).last + 1;
    Span spans[4];
    float o[PARTS][4][4], top[4], sum[4], factor[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) spans[i] = keys_of(p, min(row + i, tile.end - 1)), top[i] = -infinite(), sum[i] = 0.0f;
    clear(o);
    for (int key = keys_of(p, tile.first).first; key < end; key += ROWS) {
        float weights[4][4];
        dots(weights, s, rows(p.q, p.q_stride, head, tile.first, tile.end), rows(p.k, p.k_stride, kv_head, key, end));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float most = top[i];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                weights[i][j] = spans[i].has(key + threadIdx.x % 16 * 4 + j) ? weights[i][j] * p.scale : -infinite();
                most = fmaxf(most, weights[i][j]);
            }
            most = warp_max<16>(most);
            float base = most == -infinite() ? 0.0f : most, own = 0.0f;
            factor[i] = expf(top[i] - base);
#pragma unroll
            for (int j = 0; j < 4; ++j) weights[i][j] = expf(weights[i][j] - base), own += weights[i][j];
            sum[i] = fmaf(sum[i], factor[i], own);
            top[i] = most;
        }
#pragma unroll
        for (int i = 0; i < PARTS * 16; ++i) o[i / 16][i / 4 % 4][i % 4] *= factor[i / 4 % 4];
        weigh(o, s, weights, rows(p.v, p.v_stride, kv_head, key, end));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        sum[i] = warp_sum<16>(sum[i]);
        factor[i] = 1.0f / sum[i];
        if (threadIdx.x % 16 == 0 && row + i < tile.end) p.lse[(i64)head * p.queries + row + i] = top[i] + logf(sum[i]);
    }
    put(p.o + tile.first * p.o_stride + head * HEAD, p.o_stride, o, factor, tile.end - tile.first);
}

// ---- gradients -----------------------------------------------------------------------------------------------------

// δ of every query and head, a warp each, to `rows`: (heads, queries).
extern "C" __global__ void __launch_bounds__(THREADS) attention_prepare_plain(const __grid_constant__ AttentionParams p) {
    i64 i = (i64)blockIdx.x * (THREADS / 32) + threadIdx.x / 32, query = i / p.heads;
    if (query >= p.queries) return;
    int head = i % p.heads;
    float sum = 0.0f;
    for (int column = threadIdx.x % 32; column < HEAD; column += 32)
        sum = fmaf(to_f32(p.o[query * p.o_stride + head * HEAD + column]), to_f32(p.grad[query * p.grad_stride + head * HEAD + column]), sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) p.rows[(i64)head * p.queries + query] = sum;
}

// Of a dot product of q and k and of do and v: the weight P, and dS.
__device__ __forceinline__ void slope_of(const AttentionParams& p, int head, int query, bool sees, float& s, float& dp) {
    i64 row = (i64)head * p.queries + query;
    s = sees ? expf(fmaf(s, p.scale, -p.lse[row])) : 0.0f;
    dp = sees ? s * (dp - p.rows[row]) : 0.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_keys_plain(const __grid_constant__ AttentionParams p) {
    __shared__ Shared s;
    int kv_head = blockIdx.y;
    Tile<ROWS> tile = own_tile(p, false);
    int row = threadIdx.x / 16 * 4, end = queries_of(p, tile.end - 1).last + 1;
    Span spans[4];
    float dk[PARTS][4][4], dv[PARTS][4][4], dk_factor[4], dv_factor[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) spans[i] = queries_of(p, min(tile.first + row + i, tile.end - 1)), dk_factor[i] = p.scale, dv_factor[i] = 1.0f;
    clear(dk), clear(dv);
    for (int head = kv_head * p.group; head < (kv_head + 1) * p.group; ++head)
        for (int query = tile.first; query < end; query += ROWS) {
            float weights[4][4], slopes[4][4];
            Rows q = rows(p.q, p.q_stride, head, query, end), grad = rows(p.grad, p.grad_stride, head, query, end);
            dots(weights, s, rows(p.k, p.k_stride, kv_head, tile.first, tile.end), q);
            dots(slopes, s, rows(p.v, p.v_stride, kv_head, tile.first, tile.end), grad);
#pragma unroll
            for (int i = 0; i < 16; ++i) {
                int own = query + threadIdx.x % 16 * 4 + i % 4;
                slope_of(p, head, own, spans[i / 4].has(own), weights[i / 4][i % 4], slopes[i / 4][i % 4]);
            }
            weigh(dv, s, weights, grad);
            weigh(dk, s, slopes, q);
        }
    put(p.dk + tile.first * p.dk_stride + kv_head * HEAD, p.dk_stride, dk, dk_factor, tile.end - tile.first);
    put(p.dv + tile.first * p.dv_stride + kv_head * HEAD, p.dv_stride, dv, dv_factor, tile.end - tile.first);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_queries_plain(const __grid_constant__ AttentionParams p) {
    __shared__ Shared s;
    int head = blockIdx.y, kv_head = head / p.group;
    Tile<ROWS> tile = own_tile(p, true);
    int row = tile.first + threadIdx.x / 16 * 4;
    Span spans[4];
    float dq[PARTS][4][4], factor[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) spans[i] = keys_of(p, min(row + i, tile.end - 1)), factor[i] = p.scale;
    clear(dq);
    for (int key = keys_of(p, tile.first).first; key < tile.end; key += ROWS) {
        float weights[4][4], slopes[4][4];
        Rows k = rows(p.k, p.k_stride, kv_head, key, tile.end);
        dots(weights, s, rows(p.q, p.q_stride, head, tile.first, tile.end), k);
        dots(slopes, s, rows(p.grad, p.grad_stride, head, tile.first, tile.end), rows(p.v, p.v_stride, kv_head, key, tile.end));
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            int query = min(row + i / 4, tile.end - 1);
            slope_of(p, head, query, spans[i / 4].has(key + threadIdx.x % 16 * 4 + i % 4), weights[i / 4][i % 4], slopes[i / 4][i % 4]);
        }
        weigh(dq, s, slopes, k);
    }
    put(p.dq + tile.first * p.dq_stride + head * HEAD, p.dq_stride, dq, factor, tile.end - tile.first);
}
