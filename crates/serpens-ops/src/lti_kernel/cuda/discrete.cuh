// Zero-order hold of one state in f64, and how gradients pass through it: zero_order_hold.rs, for the device.

struct C64 {
    double re, im;
};
__device__ __forceinline__ C64 operator+(C64 a, C64 b) { return {a.re + b.re, a.im + b.im}; }
__device__ __forceinline__ C64 operator*(C64 a, C64 b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
__device__ __forceinline__ C64 operator*(C64 a, double f) { return {a.re * f, a.im * f}; }
__device__ __forceinline__ C64 exp(C64 x) {
    double sine, cosine, magnitude = exp(x.re);
    sincos(x.im, &sine, &cosine);
    return {magnitude * cosine, magnitude * sine};
}
__device__ __forceinline__ C64 over(C64 a, C64 b) {
    double inverse = 1.0 / (b.re * b.re + b.im * b.im);
    return {(a.re * b.re + a.im * b.im) * inverse, (a.im * b.re - a.re * b.im) * inverse};
}

struct Complex {
    float re, im;
};
__device__ __forceinline__ Complex rounded(C64 x) { return {(float)x.re, (float)x.im}; }

__device__ __forceinline__ C64 value_at(const float* re, const float* im, i64 i) {
    return {re[i], im == nullptr ? 0.0f : im[i]};
}

// Complex states stand for conjugate pairs.
__device__ __forceinline__ double scale(const SystemParams& system) { return system.a_im == nullptr ? 1.0 : 2.0; }

// Below this |x| the functions of x = ΔA are taken from their series.
constexpr double SMALL = 0.05;

// Σ_k c_k x^k
__device__ __forceinline__ C64 series(C64 x, const double (&c)[7]) {
    C64 sum = {c[6], 0.0};
#pragma unroll
    for (int k = 5; k >= 0; --k) sum = sum * x + C64{c[k], 0.0};
    return sum;
}

// One state: x = ΔA, Ā = e^x, B̄ = φ B with φ = (Ā - 1)/A.
struct Discrete {
    double dt;
    C64 a, b, c, x, a_bar, phi_by_dt; // φ/Δ = (e^x - 1)/x
    bool small;

    __device__ __forceinline__ Discrete(const SystemParams& system, int channel, int n) {
        i64 i = (i64)channel * system.states + n;
        dt = system.dt[channel];
        a = value_at(system.a, system.a_im, i);
        b = value_at(system.b, system.b_im, i);
        c = value_at(system.c, system.c_im, i);
        x = a * dt;
        a_bar = exp(x);
        small = x.re * x.re + x.im * x.im < SMALL * SMALL;
        phi_by_dt = small ? series(x, {1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040})
                          : over(a_bar + C64{-1.0, 0.0}, x);
    }
    // The derivative of (e^x - 1)/x.
    __device__ __forceinline__ C64 slope() const {
        return small ? series(x, {1.0 / 2, 1.0 / 3, 1.0 / 8, 1.0 / 30, 1.0 / 144, 1.0 / 840, 1.0 / 5760})
                     : over(a_bar + phi_by_dt * -1.0, x);
    }
    __device__ __forceinline__ C64 phi() const { return phi_by_dt * dt; }
    __device__ __forceinline__ C64 b_bar() const { return phi() * b; }
    // The weight of Ā^t in the kernel, C B̄.
    __device__ __forceinline__ C64 weight() const { return c * b_bar(); }
    // Ā^t, accurate at any t.
    __device__ __forceinline__ C64 power(double t) const { return exp(x * t); }
};
