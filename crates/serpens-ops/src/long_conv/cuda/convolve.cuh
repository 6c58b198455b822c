// Convolutions and correlations of the sequences of a block's channels with their kernels, by way of spectra in
// registers and in shared memory.

// Blocks of a multiprocessor that leave a thread 128 registers.
constexpr int BLOCKS = THREADS < 512 ? 512 / THREADS : 1;

// Spectra that a block puts by in shared memory, behind the tile and the tables: every thread its own values.
__device__ __forceinline__ Complex* parked(Complex* shared, int spectrum) {
    return shared + SHARED_VALUES + spectrum * (SIZE * WIDTH) + (int)threadIdx.x;
}
__device__ __forceinline__ void park(Complex* to, const Complex (&v)[16]) {
#pragma unroll
    for (int i = 0; i < 16; ++i) to[i * THREADS] = v[i];
}

// The items from first to last: y = k * x, or the correlation of x with k. Every item is read while the one before is
// worked on.
template <bool QUARTER, class Kernel, class In, class Out>
__device__ __forceinline__ void convolve(
    const Transform<QUARTER>& fft, const Kernel& kernel, const In& in, const Out& out, i64 first, i64 last, bool correlate
) {
    Complex* k = parked(fft.shared, 0);
    Complex v[16];
    load(kernel, 0, v);
    fft.forward(v);
#pragma unroll
    for (int i = 0; i < 16; ++i) k[i * THREADS] = {v[i].re, correlate ? -v[i].im : v[i].im};
    __syncthreads(); // the tile is read before it is written from the other end
    typename In::Raw raw[16];
    in.fetch(first, raw);
    for (i64 item = first; item < last; ++item) {
        In::unpack(raw, v);
        if (item + 1 < last) in.fetch(item + 1, raw);
        fft.forward(v);
#pragma unroll
        for (int i = 0; i < 16; ++i) v[i] = v[i] * k[i * THREADS];
        fft.inverse(v);
        out.store(item, v);
    }
}

// The items from first to last: sum += the correlations of dy with x, as a spectrum; dx = the correlation of dy with
// the kernel.
template <bool QUARTER, class Kernel, class X, class Dy, class Dx>
__device__ __forceinline__ void correlate(
    const Transform<QUARTER>& fft, const Kernel& kernel, const X& x, const Dy& dy, const Dx& dx, bool wants_dx, i64 first,
    i64 last, Complex (&sum)[16]
) {
    Complex *k = parked(fft.shared, 0), *of_x = parked(fft.shared, 1);
    Complex v[16];
    load(kernel, 0, v);
    fft.forward(v);
    park(k, v);
    for (i64 item = first; item < last; ++item) {
        __syncthreads(); // as in `convolve`
        load(x, item, v);
        fft.forward(v);
        park(of_x, v);
        __syncthreads();
        load(dy, item, v);
        fft.forward(v);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            sum[i] = sum[i] + v[i] * conjugate(of_x[i * THREADS]);
            v[i] = v[i] * conjugate(k[i * THREADS]);
            in_fours(i);
        }
        if (!wants_dx) continue;
        fft.inverse(v);
        dx.store(item, v);
    }
}
