// One token of many sequences, as step.rs defines it. After packet.cuh and rope/angle.cuh.
//
// The tokens that a query sees are cut into parts, one for a block: (slots, heads of k and v, parts). A block has GROUP
// heads of q that share a head of k and v, and reads each token's row once for all of them. LANES lanes have a row, with
// what their tokens have brought so far: the largest dot product, the sum of exponentials and the sum of values by
// these. In the end all of a block are put together, in order; those of several parts by a kernel of its own.
//
// Exponents are of 2: the scale that queries are multiplied by has log₂ e in it.
//
// Macros: IO (float or bf16: q, k, v, o), CACHE (float or bf16), HEAD (columns of a head, at most 256), GROUP, WIDTH
// (values of an access to caches, which divide HEAD), ROPE (whether q and k are turned; 0 or 1).

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr int ACCESSES = HEAD / WIDTH;
constexpr int LANES = ACCESSES > 16 ? 32 : ACCESSES > 8 ? 16 : ACCESSES > 4 ? 8 : ACCESSES > 2 ? 4 : ACCESSES > 1 ? 2 : 1;
constexpr int OWN = (ACCESSES + LANES - 1) / LANES;         // accesses of a lane
constexpr int AHEAD = GROUP > 4 ? 2 : 4;                    // tokens whose rows a lane reads at once
constexpr int SHARERS = THREADS / LANES;                    // rows that a block reads at once
constexpr int STRIDE = AHEAD * SHARERS;
constexpr int HALF = HEAD / 2;

__device__ __forceinline__ float infinite() { return __int_as_float(0x7f800000); }

// Which tokens a slot's query sees: the last `count`, the oldest in place `first` of the ring; and how many a part has.
struct Seen {
    int count, first, of_part;

    __device__ __forceinline__ Seen(const AttentionStepParams& p, u32 read) {
        count = (int)min(read, (u32)p.window - 1) + 1;
        first = (int)((read - (u32)(count - 1)) % (u32)p.capacity);
        of_part = (count + p.parts - 1) / p.parts;
        of_part = (of_part + STRIDE - 1) / STRIDE * STRIDE;
    }
    __device__ __forceinline__ int place(const AttentionStepParams& p, int token) const {
        int place = first + token;  // no sum of two below 2^30
        return place >= p.capacity ? place - p.capacity : place;
    }
    __device__ __forceinline__ int parts() const { return (count + of_part - 1) / of_part; }
};

// What some tokens bring to a head: weights are relative to 2^top, values in lanes as their columns.
struct Found {
    float top, sum, values[OWN][WIDTH];

    __device__ __forceinline__ void clear() {
        top = -infinite(), sum = 0.0f;
#pragma unroll
        for (int i = 0; i < OWN * WIDTH; ++i) values[i / WIDTH][i % WIDTH] = 0.0f;
    }
    // Makes all relative to a larger 2^top, and gives what stands for it in differences: 0 while nothing is known.
    __device__ __forceinline__ float raise(float to) {
        float base = to == -infinite() ? 0.0f : to, factor = exp2f(top - base);
        top = to;
        sum *= factor;
#pragma unroll
        for (int i = 0; i < OWN * WIDTH; ++i) values[i / WIDTH][i % WIDTH] *= factor;
        return base;
    }
    // Adds what the lanes `step` away have: the same bits in both.
    __device__ __forceinline__ void add_from(int step) {
        float base = raise(fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step)));
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
#pragma unroll
        for (int i = 0; i < OWN * WIDTH; ++i) {
            float& value = values[i / WIDTH][i % WIDTH];
            value += __shfl_xor_sync(0xffffffffu, value, step);
        }
    }
};

// Column `c` of a head, turned.
__device__ __forceinline__ float turned(const IO* head, int c, const float2* turns) {
    float x = to_f32(head[c]);
    if constexpr (!ROPE) return x;
    float2 turn = turns[c % HALF];
    return c < HALF ? fmaf(x, turn.x, -(to_f32(head[c + HALF]) * turn.y)) : fmaf(x, turn.x, to_f32(head[c - HALF]) * turn.y);
}

// The column of a lane's i-th access.
__device__ __forceinline__ int column(int i) { return (i * LANES + (int)threadIdx.x % LANES) * WIDTH; }

struct Shared {
    union {
        float queries[GROUP][HEAD];
        float values[WARPS][GROUP][HEAD];
    };
    float2 ends[WARPS][GROUP];  // top and sum
    float2 turns[ROPE ? HALF : 1];  // cosine and sine
};

// The heads' columns of all warps together: what they find, and top and sum where that is of a part.
__device__ __forceinline__ void finish(const AttentionStepParams& p, const Shared& s, i64 slot, int head, int part) {
    for (int i = threadIdx.x; i < GROUP * HEAD; i += THREADS) {
        int g = i / HEAD, c = i % HEAD;
        float top = -infinite(), sum = 0.0f, value = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) top = fmaxf(top, s.ends[w][g].x);
        float base = top == -infinite() ? 0.0f : top;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            float factor = exp2f(s.ends[w][g].x - base);
            sum = fmaf(factor, s.ends[w][g].y, sum);
            value = fmaf(factor, s.values[w][g][c], value);
        }
        if (p.parts == 1) {
            p.o[slot * p.o_stride + (head + g) * HEAD + c] = from_f32<IO>(value / sum);
        } else {
            i64 row = (slot * p.heads + head + g) * p.parts + part;
            p.values[row * HEAD + c] = value;
            if (c == 0) p.ends[row] = make_float2(top, sum);
        }
    }
}

// The last of a slot's blocks, all of whose threads have read how many tokens there were, counts this one.
__device__ __forceinline__ void count_token(const AttentionStepParams& p, i64 slot, u32 blocks) {
    if (threadIdx.x) return;
    u32* read = p.read + slot * p.read_stride;
    if (atomicAdd(read + 1, 1) + 1 == blocks) read[0] += 1, read[1] = 0;
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_step(const __grid_constant__ AttentionStepParams p) {
    __shared__ Shared s;
    release_successor();
    i64 slot = blockIdx.x;
    int head = blockIdx.y * GROUP, part = blockIdx.z, kv_head = head / (p.heads / p.kv_heads);
    await_predecessors();
    u32 read = p.read[slot * p.read_stride];
    Seen seen(p, read);
    if (part >= seen.parts()) return;
    int from = part * seen.of_part, end = min(seen.count, from + seen.of_part);
    const IO* row = p.q + slot * p.q_stride;
    i64 width = (i64)p.kv_heads * HEAD;
    CACHE* k = p.keys + slot * p.keys_stride + kv_head * HEAD;
    CACHE* v = p.cached + slot * p.cached_stride + kv_head * HEAD;
    if constexpr (ROPE) {
        for (int i = threadIdx.x; i < HALF; i += THREADS) sin_cos_of_turns(turns_of_pair(p.step, i) * read, s.turns[i].y, s.turns[i].x);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < GROUP * HEAD; i += THREADS)
        s.queries[i / HEAD][i % HEAD] = turned(row + (head + i / HEAD) * HEAD, i % HEAD, s.turns) * p.scale;
    if (end == seen.count) {
        // The slot's own token; blocks that share its head of k and v write the same.
        i64 own = seen.place(p, end - 1) * width;
        const IO* of_k = p.k + slot * p.k_stride + kv_head * HEAD;
        const IO* of_v = p.v + slot * p.v_stride + kv_head * HEAD;
        for (int c = threadIdx.x; c < HEAD; c += THREADS) {
            k[own + c] = from_f32<CACHE>(turned(of_k, c, s.turns));
            v[own + c] = from_f32<CACHE>(to_f32(of_v[c]));
        }
    }
    __syncthreads();
    float q[GROUP][OWN][WIDTH];
    Found found[GROUP];
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
        found[g].clear();
#pragma unroll
        for (int i = 0; i < OWN * WIDTH; ++i) {
            int c = column(i / WIDTH) + i % WIDTH;
            q[g][i / WIDTH][i % WIDTH] = c < HEAD ? s.queries[g][c] : 0.0f;
        }
    }
    __syncthreads();
    for (int first = from; first < end; first += STRIDE) {
        Packet<WIDTH, CACHE> keys[AHEAD][OWN], values[AHEAD][OWN];
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) {
            int token = first + u * SHARERS + threadIdx.x / LANES;
            i64 place = seen.place(p, token) * width;
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                keys[u][i].clear(), values[u][i].clear();
                if (token < end && column(i) < HEAD) keys[u][i].read(k + place + column(i)), values[u][i].read(v + place + column(i));
            }
        }
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            float dots[AHEAD], top = found[g].top;
#pragma unroll
            for (int u = 0; u < AHEAD; ++u) {
                dots[u] = 0.0f;
#pragma unroll
                for (int i = 0; i < OWN * WIDTH; ++i) dots[u] = fmaf(q[g][i / WIDTH][i % WIDTH], keys[u][i / WIDTH][i % WIDTH], dots[u]);
                dots[u] = warp_sum<LANES>(dots[u]);
                if (first + u * SHARERS + (int)threadIdx.x / LANES >= end) dots[u] = -infinite();
                top = fmaxf(top, dots[u]);
            }
            float base = found[g].raise(top);
#pragma unroll
            for (int u = 0; u < AHEAD; ++u) {
                float weight = exp2f(dots[u] - base);
                found[g].sum += weight;
#pragma unroll
                for (int i = 0; i < OWN * WIDTH; ++i) {
                    float& value = found[g].values[i / WIDTH][i % WIDTH];
                    value = fmaf(weight, values[u][i / WIDTH][i % WIDTH], value);
                }
            }
        }
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
#pragma unroll
        for (int step = LANES; step < 32; step *= 2) found[g].add_from(step);
        if (lane == 0) s.ends[warp][g] = make_float2(found[g].top, found[g].sum);
#pragma unroll
        for (int i = 0; i < OWN * WIDTH; ++i) {
            int c = column(i / WIDTH) + i % WIDTH;
            if (lane < LANES && c < HEAD) s.values[warp][g][c] = found[g].values[i / WIDTH][i % WIDTH];
        }
    }
    __syncthreads();
    finish(p, s, slot, head, part);
    if (p.parts == 1) count_token(p, slot, gridDim.y);
}

// The parts of a head of a slot together, in order: a thread has a column.
extern "C" __global__ void __launch_bounds__(256) attention_step_parts(const __grid_constant__ AttentionStepParams p) {
    release_successor();
    await_predecessors();
    i64 slot = blockIdx.x;
    int head = blockIdx.y, column = threadIdx.x, parts = Seen(p, p.read[slot * p.read_stride]).parts();
    i64 row = (slot * p.heads + head) * p.parts;
    float top = -infinite(), sum = 0.0f, value = 0.0f;
    for (int i = 0; i < parts; ++i) top = fmaxf(top, p.ends[row + i].x);
    float base = top == -infinite() ? 0.0f : top;
    __syncthreads();
    count_token(p, slot, gridDim.y);
    if (column >= HEAD) return;
    for (int i = 0; i < parts; ++i) {
        float2 end = p.ends[row + i];
        float factor = exp2f(end.x - base);
        sum = fmaf(factor, end.y, sum);
        value = fmaf(factor, p.values[(row + i) * HEAD + column], value);
    }
    p.o[slot * p.o_stride + head * HEAD + column] = from_f32<IO>(value / sum);
}
