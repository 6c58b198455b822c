// The long convolution where a whole sequence fits one block: see fft.cuh for the transform.

// Every block has one tile of WIDTH channels and one group of items; blockIdx.x counts the tiles of a group, then the
// groups.
struct BlockPlace {
    int channel, rows; // of this lane; 0 rows for lanes beyond the last channel
    i64 group, first, last;
    __device__ __forceinline__ BlockPlace(int lane, int length, int channels, i64 batch, i64 items) {
        int tiles = (channels + WIDTH - 1) / WIDTH;
        channel = (int)(blockIdx.x % tiles) * WIDTH + lane;
        rows = channel < channels ? length : 0;
        group = blockIdx.x / tiles;
        first = group * items;
        last = first + items < batch ? first + items : batch;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) long_conv_convolve(const __grid_constant__ ConvolveParams p) {
    extern __shared__ Complex shared[];
    Transform<true> fft(shared);
    BlockPlace at(fft.lane, p.length, p.channels, p.batch, p.items);
    Reals<float> k(fft, p.k + at.channel, p.k_stride, 0, at.rows);
    Reals<IO> x(fft, p.x + at.channel, p.x_stride, p.length * p.x_stride, at.rows);
    Reals<IO> y(fft, p.y + at.channel, p.y_stride, p.length * p.y_stride, at.rows, 1.0f / SIZE);
    convolve(fft, k, x, y, at.first, at.last, p.correlate);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) long_conv_correlate(const __grid_constant__ CorrelateParams p) {
    extern __shared__ Complex shared[];
    Transform<true> fft(shared);
    BlockPlace at(fft.lane, p.length, p.channels, p.batch, p.items);
    Reals<float> k(fft, p.k + at.channel, p.k_stride, 0, at.rows);
    Reals<IO> x(fft, p.x + at.channel, p.x_stride, p.length * p.x_stride, at.rows);
    Reals<IO> dy(fft, p.dy + at.channel, p.dy_stride, p.length * p.dy_stride, at.rows);
    Reals<IO> dx(fft, p.dx + at.channel, p.dx_stride, p.length * p.dx_stride, at.rows, 1.0f / SIZE);
    Complex sum[16] = {};
    correlate(fft, k, x, dy, dx, p.dx != nullptr, at.first, at.last, sum);
    __syncthreads();
    fft.inverse(sum);
    Reals<float> dk(fft, p.dk + at.channel, p.channels, (i64)p.length * p.channels, at.rows, 1.0f / SIZE);
    dk.store(at.group, sum);
}
