// The transform of the long convolution: SIZE complex points of WIDTH neighbouring channels, by one block.
//
// A causal convolution of real sequences of at most M steps needs M complex points, not 2 M with zeros: taken at the
// frequencies k + 1/4,
//
//   X_k = Σ_t x_t e^(-2πi t (k + 1/4) / M),
//
// the product of two spectra stands for the product of polynomials modulo z^M = -i, where the terms of degree M and
// above come back multiplied by -i: the convolution is the real part, what would have wrapped around is the imaginary
// part. The product with a conjugate spectrum is the correlation in the same way. Only products of spectra in one and
// the same order are formed, so the order of frequencies does not matter, and no pass permutes anything.
//
// A thread holds 16 points of one channel. A pass of radix 16 (the last one of what is left) reads points that lie
// POINTS/16 apart, transforms and twists them, and writes them back to where they came from, in shared memory; the
// inverse runs the same passes backwards. Lanes run over channels, as they lie in memory.

struct __align__(8) Complex {
    float re, im;
};

__device__ __forceinline__ Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
__device__ __forceinline__ Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
__device__ __forceinline__ Complex operator*(Complex a, Complex b) {
    return {fmaf(a.re, b.re, -a.im * b.im), fmaf(a.re, b.im, a.im * b.re)};
}
__device__ __forceinline__ Complex conjugate(Complex a) { return {a.re, -a.im}; }
template <bool INVERSE> __device__ __forceinline__ Complex conjugate_if(Complex a) { return {a.re, INVERSE ? -a.im : a.im}; }
// a e^(-iπ/2), or its inverse.
template <bool INVERSE> __device__ __forceinline__ Complex quarter_turn(Complex a) {
    return INVERSE ? Complex{-a.im, a.re} : Complex{a.im, -a.re};
}

// e^(-2πi turns)
__device__ __forceinline__ Complex root(float turns) {
    Complex w;
    sincospif(-2.0f * turns, &w.im, &w.re);
    return w;
}

// cos(2π m / 64) and sin, known when loops are unrolled.
__device__ __forceinline__ constexpr float cos64(int m) {
    constexpr float FIRST[17] = {1.0f,         0.995184727f, 0.98078528f,  0.956940336f, 0.923879533f,  0.881921264f,
                                 0.831469612f, 0.773010453f, 0.707106781f, 0.634393284f, 0.555570233f,  0.471396737f,
                                 0.382683432f, 0.290284677f, 0.195090322f, 0.0980171403f, 0.0f};
    m &= 63;
    return m <= 16 ? FIRST[m] : m <= 32 ? -FIRST[32 - m] : m <= 48 ? -FIRST[m - 32] : FIRST[64 - m];
}
__device__ __forceinline__ constexpr float sin64(int m) { return cos64(m - 16); }

// The Fourier transform of R = 2, 4, 8 or 16 values in registers, in natural order.
template <int R, bool INVERSE> __device__ __forceinline__ void dft(Complex* v) {
    if constexpr (R == 2) {
        Complex difference = v[0] - v[1];
        v[0] = v[0] + v[1];
        v[1] = difference;
    } else if constexpr (R == 4) {
        Complex even = v[0] + v[2], odd = v[1] + v[3];
        Complex even_difference = v[0] - v[2], odd_difference = quarter_turn<INVERSE>(v[1] - v[3]);
        v[0] = even + odd;
        v[1] = even_difference + odd_difference;
        v[2] = even - odd;
        v[3] = even_difference - odd_difference;
    } else {
        constexpr int Q = R / 4;
        Complex t[R];
#pragma unroll
        for (int j = 0; j < Q; ++j) {
            Complex f[4] = {v[j], v[j + Q], v[j + 2 * Q], v[j + 3 * Q]};
            dft<4, INVERSE>(f);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int m = j * k * (64 / R);
                Complex w = {cos64(m), INVERSE ? sin64(m) : -sin64(m)};
                t[k * Q + j] = m == 0 ? f[k] : m == 16 ? quarter_turn<INVERSE>(f[k]) : f[k] * w;
            }
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            dft<Q, INVERSE>(t + k * Q);
#pragma unroll
            for (int m = 0; m < Q; ++m) v[k + 4 * m] = t[k * Q + m];
        }
    }
}

// Keeps the compiler from issuing every load of an unrolled loop at once, whose results would not fit the registers.
__device__ __forceinline__ void in_fours(int i) {
    if (i % 4 == 3) asm volatile("" ::: "memory");
}

// A value that the compiler takes for a new one: what follows from it is computed again, not kept in registers
// meanwhile.
__device__ __forceinline__ int anew(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

// Multiplies v[k], k < 16, by e^(-2πi (k + φ) x), or by its conjugate, from seven factors: factor(k % 4) with the
// offset φ in it, times factor(3 + k / 4). WHOLE says that φ = 0.
template <bool INVERSE, bool WHOLE, class Factor> __device__ __forceinline__ void twist(Complex* v, Factor factor) {
    Complex low[4];
#pragma unroll
    for (int k = WHOLE ? 1 : 0; k < 4; ++k) {
        low[k] = factor(k);
        v[k] = v[k] * conjugate_if<INVERSE>(low[k]);
    }
#pragma unroll
    for (int k = 4; k < 16; k += 4) {
        Complex high = factor(3 + k / 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            Complex w = WHOLE && j == 0 ? high : low[j] * high;
            v[k + j] = v[k + j] * conjugate_if<INVERSE>(w);
        }
        in_fours(3);
    }
}

// The factors of a pass, one column for every distance from the first point, in shared memory.
constexpr int FACTORS = 7;
constexpr int TILE_VALUES = (SIZE + SIZE / 16) * WIDTH;
constexpr int THREADS_A_CHANNEL = SIZE / 16;
constexpr int THREADS = THREADS_A_CHANNEL * WIDTH;

// Values of the tables of the passes over POINTS points and fewer.
__device__ __host__ constexpr int table_values(int points) { return points <= 16 ? 0 : FACTORS * (points / 16) + table_values(points / 16); }
constexpr int SHARED_VALUES = TILE_VALUES + table_values(SIZE);

// What a thread needs to take part: QUARTER for frequencies k + 1/4 rather than k.
template <bool QUARTER> struct Transform {
    Complex* shared; // the tile, then the tables
    int lane;        // channel within the tile
    int thread;      // among those of the channel

    __device__ __forceinline__ explicit Transform(Complex* shared)
        : shared(shared), lane((int)threadIdx.x % WIDTH), thread((int)threadIdx.x / WIDTH) {
        fill<SIZE>(shared + TILE_VALUES);
        __syncthreads();
    }

    // Register i holds point first<POINTS>() + i * step<POINTS>() in the pass over POINTS points.
    template <int POINTS> __device__ __forceinline__ static constexpr int step() { return POINTS < 16 ? 1 : POINTS / 16; }
    template <int POINTS> __device__ __forceinline__ int first() const {
        constexpr int STEP = step<POINTS>();
        int thread = anew(this->thread);
        return thread / STEP * (16 * STEP) + thread % STEP;
    }

    // From the points first_point(i) to the spectrum at last_point(i).
    __device__ __forceinline__ void forward(Complex (&v)[16]) const { forward_pass<SIZE>(v, shared + TILE_VALUES); }
    // Back, times SIZE.
    __device__ __forceinline__ void inverse(Complex (&v)[16]) const { inverse_pass<SIZE>(v, shared + TILE_VALUES); }
    __device__ __forceinline__ int first_point(int i) const { return first<SIZE>() + i * step<SIZE>(); }
    __device__ __forceinline__ int last_point(int i) const { return thread * 16 + i; }

  private:
    // A row of padding after every 16 keeps the threads of a warp on different banks in every pass.
    template <int POINTS> __device__ __forceinline__ Complex* tile() const {
        int point = first<POINTS>();
        return shared + (point + point / 16) * WIDTH + lane;
    }
    template <int POINTS> __device__ __forceinline__ static constexpr int offset(int i) {
        return (i * step<POINTS>() + i * step<POINTS>() / 16) * WIDTH;
    }

    template <int POINTS> __device__ __forceinline__ void fill(Complex* table) const {
        if constexpr (POINTS > 16) {
            constexpr int STRIDE = POINTS / 16;
            constexpr int OFFSET = QUARTER && POINTS == SIZE ? 1 : 0; // in quarters
            for (int i = threadIdx.x; i < FACTORS * STRIDE; i += THREADS) {
                int factor = i / STRIDE, quarters = factor < 4 ? 4 * factor + OFFSET : 16 * (factor - 3);
                table[i] = root((float)(quarters * (i % STRIDE)) * (0.25f / POINTS));
            }
            fill<STRIDE>(table + FACTORS * STRIDE);
        }
    }

    template <int POINTS, bool INVERSE> __device__ __forceinline__ void twist(Complex (&v)[16], const Complex* table) const {
        constexpr int STRIDE = POINTS / 16;
        constexpr bool WHOLE = !(QUARTER && POINTS == SIZE);
        const Complex* column = table + thread % STRIDE;
        ::twist<INVERSE, WHOLE>(v, [column](int factor) { return column[factor * STRIDE]; });
    }

    template <int POINTS> __device__ __forceinline__ void scatter(const Complex (&v)[16]) const {
        Complex* to = tile<POINTS>();
#pragma unroll
        for (int i = 0; i < 16; ++i) to[offset<POINTS>(i)] = v[i];
    }
    template <int POINTS> __device__ __forceinline__ void gather(Complex (&v)[16]) const {
        const Complex* from = tile<POINTS>();
#pragma unroll
        for (int i = 0; i < 16; ++i) v[i] = from[offset<POINTS>(i)];
    }
    // Passes over POINTS points share them among POINTS/16 threads of each channel.
    template <int POINTS> __device__ __forceinline__ static void wait() {
        if constexpr (POINTS / 16 * WIDTH <= 32) __syncwarp();
        else __syncthreads();
    }

    template <int POINTS> __device__ __forceinline__ void forward_pass(Complex (&v)[16], const Complex* table) const {
        constexpr int RADIX = POINTS < 16 ? POINTS : 16;
#pragma unroll
        for (int i = 0; i < 16; i += RADIX) dft<RADIX, false>(v + i);
        if constexpr (POINTS > 16) {
            twist<POINTS, false>(v, table);
            scatter<POINTS>(v);
            wait<POINTS>();
            gather<POINTS / 16>(v);
            forward_pass<POINTS / 16>(v, table + FACTORS * (POINTS / 16));
        }
    }
    template <int POINTS> __device__ __forceinline__ void inverse_pass(Complex (&v)[16], const Complex* table) const {
        constexpr int RADIX = POINTS < 16 ? POINTS : 16;
        if constexpr (POINTS > 16) {
            inverse_pass<POINTS / 16>(v, table + FACTORS * (POINTS / 16));
            scatter<POINTS / 16>(v);
            wait<POINTS>();
            gather<POINTS>(v);
            twist<POINTS, true>(v, table);
        }
#pragma unroll
        for (int i = 0; i < 16; i += RADIX) dft<RADIX, true>(v + i);
    }
};

// ---- what a block reads and writes: sequences of SIZE points of its channels, one after the other ----

// A thread's points of real sequences, with the weights that frequencies k + 1/4 ask for.
template <class T> struct Reals {
    typedef T Raw;
    T* start;        // of the first sequence, at this thread's lane
    i64 row, item;   // from one point to the next, from one sequence to the next
    int first, rows; // this thread's first point; how many points there are, the others being zero
    float scale;     // of what is written

    __device__ __forceinline__ Reals(
        const Transform<true>& fft, const T* start, i64 row, i64 item, int rows, float scale = 1.0f
    ) : start(const_cast<T*>(start)), row(row), item(item), first(fft.first_point(0)), rows(rows), scale(scale) {}

    __device__ __forceinline__ void fetch(i64 index, Raw (&raw)[16]) const {
        int first = anew(this->first);
        const T* from = start + index * item + first * row;
        const i64 step = (SIZE / 16) * row;
#pragma unroll
        for (int i = 0; i < 16; ++i, from += step) raw[i] = first + i * (SIZE / 16) < rows ? *from : from_f32<T>(0.0f);
    }
    __device__ __forceinline__ static void unpack(const Raw (&raw)[16], Complex (&v)[16]) {
#pragma unroll
        for (int i = 0; i < 16; ++i) v[i] = {to_f32(raw[i]) * cos64(i), -to_f32(raw[i]) * sin64(i)};
    }
    __device__ __forceinline__ void store(i64 index, const Complex (&v)[16]) const {
        int first = anew(this->first);
        T* to = start + index * item + first * row;
        const i64 step = (SIZE / 16) * row;
#pragma unroll
        for (int i = 0; i < 16; ++i, to += step) {
            float x = fmaf(v[i].re, cos64(i), -v[i].im * sin64(i)) * scale;
            if (first + i * (SIZE / 16) < rows) *to = from_f32<T>(x);
        }
    }
};

template <class Sequences> __device__ __forceinline__ void load(const Sequences& from, i64 index, Complex (&v)[16]) {
    typename Sequences::Raw raw[16];
    from.fetch(index, raw);
    Sequences::unpack(raw, v);
}
