// Heads turned by the angles of their positions, as mod.rs defines it. After packet.cuh and angle.cuh.
//
// A thread has VEC neighbouring pairs of a row, for whose angles it has sines and cosines once, of up to HEADS heads;
// neighbours have what lies beside them in memory.
//
// Macros: IO (float or bf16), HEAD (columns of a head), VEC (values of an access, which divide half a head).

constexpr int THREADS = 256;
constexpr int PAIRS = HEAD / 2;
constexpr int PACKETS = PAIRS / VEC;

extern "C" __global__ void __launch_bounds__(THREADS) rope(const __grid_constant__ RopeParams p) {
    release_successor();
    i64 i = (i64)blockIdx.x * THREADS + threadIdx.x;
    int pair = i % PACKETS * VEC;
    i /= PACKETS;
    int first = i % p.threads_of_head;
    i64 row = i / p.threads_of_head;
    if (row >= p.rows) return;
    double position = p.from + row % p.length, turns = turns_of_pair(p.step, pair);
    float sine[VEC], cosine[VEC];
#pragma unroll
    for (int v = 0; v < VEC; ++v, turns *= p.ratio) {
        sin_cos_of_turns(position * turns, sine[v], cosine[v]);
        if (p.back) sine[v] = -sine[v];
    }
    const IO* x = p.x + row * p.x_stride + pair;
    IO* y = p.y + row * p.y_stride + pair;
    await_predecessors();
    Packet<VEC, IO> low[HEADS], high[HEADS];
#pragma unroll
    for (int k = 0; k < HEADS; ++k) {
        int head = first + k * p.threads_of_head;
        if (head < p.heads) low[k].read(x + head * HEAD), high[k].read(x + head * HEAD + PAIRS);
    }
#pragma unroll
    for (int k = 0; k < HEADS; ++k) {
        int head = first + k * p.threads_of_head;
        if (head >= p.heads) return;
        float to_low[VEC], to_high[VEC];
#pragma unroll
        for (int v = 0; v < VEC; ++v) {
            to_low[v] = fmaf(low[k][v], cosine[v], -(high[k][v] * sine[v]));
            to_high[v] = fmaf(high[k][v], cosine[v], low[k][v] * sine[v]);
        }
        store<VEC>(y + head * HEAD, to_low);
        store<VEC>(y + head * HEAD + PAIRS, to_high);
    }
}
