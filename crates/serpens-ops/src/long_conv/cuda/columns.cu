// The long convolution where a sequence does not fit one block: M = COLUMN × ROW points, as columns of stride ROW, a
// twist, and rows of ROW contiguous points. The transform of the columns is that at frequencies k + 1/4, and so is the
// twist; the rows are plain. Spectra lie in the order (position in the column, position in the row, channel of the
// chunk).
//
// Work arrays hold slots of (COLUMN, ROW, CHUNK) complex values: a slot is one item of one chunk of CHUNK channels.
// Here: the columns, SIZE = COLUMN points each. A block's lanes run over channels and, where it has more, over the next
// columns.

// A lane's column: channel, then offset in the row, then item, then chunk.
struct Column {
    i64 slot, item;
    int offset;  // in the row: the column's first point
    int channel; // within the chunk
    int rows;    // points of the column that the sequence has
    const ColumnsParams& p;

    __device__ __forceinline__ Column(const ColumnsParams& p, int lane) : p(p) {
        i64 index = blockIdx.x * (i64)WIDTH + lane;
        channel = (int)(index % CHUNK);
        offset = (int)(index / CHUNK % p.row);
        slot = index / CHUNK / p.row;
        item = p.first_item + slot % p.items;
        bool active = in_all() < p.channels && offset < p.length;
        rows = active ? (p.length - offset + p.row - 1) / p.row : 0;
    }
    __device__ __forceinline__ int in_all() const { return p.first_channel + (int)(slot / p.items) * CHUNK + channel; }
    __device__ __forceinline__ i64 element() const { return (item * p.length + offset) * p.stride + in_all(); }
    __device__ __forceinline__ Complex* work(int position) const {
        return p.work + ((slot * SIZE + position) * p.row + offset) * CHUNK + channel;
    }
    // Factor number i for `twist`, of the frequencies k at the positions 16 thread + j, j < 16: with all of them the
    // point j is multiplied by e^(-2πi offset (k + 1/4) / M).
    __device__ __forceinline__ Complex factor(int thread, int i) const {
        // Positions are frequencies with their digits, one of each pass, in reverse order.
        constexpr bool FOURS = SIZE == 64 || SIZE == 1024; // the last pass is of radix 4, else 16
        constexpr int LOW = FOURS ? SIZE / 4 : SIZE / 16, HIGH = FOURS ? SIZE / 64 : SIZE / 4;
        int first = SIZE == 64     ? thread * 4
                    : SIZE == 1024 ? thread / 4 + thread % 4 * 64
                    : SIZE == 4096 ? thread / 16 + thread % 16 * 16
                                   : thread;
        return turns(offset * (i < 4 ? 4ll * (first + LOW * i) + 1 : 4ll * HIGH * (i - 3)));
    }
    // e^(-2πi quarters / (4 M)), whole turns taken off first: M is a power of two.
    __device__ __forceinline__ Complex turns(i64 quarters) const {
        i64 whole = 4ll * SIZE * p.row;
        return root((float)(quarters & (whole - 1)) * p.quarter);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) long_conv_columns(const __grid_constant__ ColumnsParams p) {
    extern __shared__ Complex shared[];
    Transform<true> fft(shared);
    Column column(p, fft.lane);
    Complex v[16];
    load(Reals<IO>(fft, p.sequences + column.element(), p.row * p.stride, 0, column.rows), 0, v);
    fft.forward(v);
    twist<false, false>(v, [&](int i) { return column.factor(fft.thread, i); });
#pragma unroll
    for (int i = 0; i < 16; ++i) *column.work(fft.last_point(i)) = v[i];
}

extern "C" __global__ void __launch_bounds__(THREADS) long_conv_columns_back(const __grid_constant__ ColumnsParams p) {
    extern __shared__ Complex shared[];
    Transform<true> fft(shared);
    Column column(p, fft.lane);
    Complex v[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = *column.work(fft.last_point(i));
    twist<true, false>(v, [&](int i) { return column.factor(fft.thread, i); });
    fft.inverse(v);
    Reals<IO>(fft, p.sequences + column.element(), p.row * p.stride, 0, column.rows, p.scale).store(0, v);
}
