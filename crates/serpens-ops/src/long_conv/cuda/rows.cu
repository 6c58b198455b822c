// The rows of the long convolution where a sequence does not fit one block, SIZE = ROW points each: see columns.cu.

constexpr int TILES = CHUNK / WIDTH;

// A thread's points of one row of every item.
struct Rows {
    typedef Complex Raw;
    Complex* start;
    i64 item;
    __device__ __forceinline__ Rows(const Transform<false>& fft, const Complex* row, i64 item)
        : start(const_cast<Complex*>(row) + fft.first_point(0) * CHUNK), item(item) {}
    __device__ __forceinline__ void fetch(i64 index, Raw (&raw)[16]) const {
#pragma unroll
        for (int i = 0; i < 16; ++i) raw[i] = start[index * item + i * (SIZE / 16 * CHUNK)];
    }
    __device__ __forceinline__ static void unpack(const Raw (&raw)[16], Complex (&v)[16]) {
#pragma unroll
        for (int i = 0; i < 16; ++i) v[i] = raw[i];
    }
    __device__ __forceinline__ void store(i64 index, const Complex (&v)[16]) const {
#pragma unroll
        for (int i = 0; i < 16; ++i) start[index * item + i * (SIZE / 16 * CHUNK)] = v[i];
    }
};

// A block's row: tile of channels, then position in the column, then chunk.
struct RowPlace {
    i64 of_kernel, of_items; // where the row begins in arrays without and with items, at this lane
    i64 item;                // from one item to the next
    __device__ __forceinline__ RowPlace(const RowsParams& p, int lane) {
        int channel = (int)(blockIdx.x % TILES) * WIDTH + lane, row = (int)(blockIdx.x / TILES % p.column);
        i64 chunk = blockIdx.x / TILES / p.column;
        item = (i64)p.column * SIZE * CHUNK;
        i64 within = (i64)row * SIZE * CHUNK + channel;
        of_kernel = chunk * item + within;
        of_items = chunk * p.items * item + within;
    }
};

// In place: from the rows of x to those of its convolution (or correlation) with k.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) long_conv_rows(const __grid_constant__ RowsParams p) {
    extern __shared__ Complex shared[];
    Transform<false> fft(shared);
    RowPlace at(p, fft.lane);
    Rows k(fft, p.k + at.of_kernel, 0), x(fft, p.x + at.of_items, at.item);
    convolve(fft, k, x, x, 0, p.items, p.correlate);
}

// sum (+)= the spectra of the correlations of dy with x, and in place from the rows of dy to those of dx.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) long_conv_rows_correlate(const __grid_constant__ RowsParams p) {
    extern __shared__ Complex shared[];
    Transform<false> fft(shared);
    RowPlace at(p, fft.lane);
    Rows k(fft, p.k + at.of_kernel, 0), x(fft, p.x + at.of_items, at.item), dy(fft, p.dy + at.of_items, at.item);
    Complex* total = p.sum + at.of_kernel + fft.last_point(0) * CHUNK;
    Complex sum[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) sum[i] = p.add ? total[i * CHUNK] : Complex{0.0f, 0.0f};
    correlate(fft, k, x, dy, dy, true, 0, p.items, sum);
#pragma unroll
    for (int i = 0; i < 16; ++i) total[i * CHUNK] = sum[i];
}

// In place: from the spectra of the rows back to the rows.
extern "C" __global__ void __launch_bounds__(THREADS) long_conv_rows_back(const __grid_constant__ RowsParams p) {
    extern __shared__ Complex shared[];
    Transform<false> fft(shared);
    RowPlace at(p, fft.lane);
    Complex* spectrum = p.sum + at.of_kernel;
    Complex v[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = spectrum[fft.last_point(i) * CHUNK];
    fft.inverse(v);
    Rows(fft, spectrum, 0).store(0, v);
}
