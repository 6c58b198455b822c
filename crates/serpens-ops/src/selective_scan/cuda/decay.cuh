// exp(δ A), for a real A by ex2.approx, for a complex one with an angle kept in turns.

// ex2.approx gives too little by 1.8e-8 on average for small exponents, which adds up where a state lasts; this raises
// them by it.
constexpr float EXP2_LIFT = 2.6e-8f;

// sin and cos of 2π (turns + low).
__device__ __forceinline__ void sin_cos(float turns, float low, float& sine, float& cosine) {
    float r = turns - rintf(turns) + low;
    if constexpr (sizeof(IO) == 2) {
        r *= 6.283185307f;
        asm("sin.approx.ftz.f32 %0, %1;" : "=f"(sine) : "f"(r));
        asm("cos.approx.ftz.f32 %0, %1;" : "=f"(cosine) : "f"(r));
    } else {
        sincospif(2.0f * r, &sine, &cosine);
    }
}

// An imaginary part of A in turns, as a float and what that lacks to the exact quotient.
struct Turns {
    float high, low;
};
__device__ __forceinline__ Turns turns(float im) {
    constexpr float TURN = 0.15915494f, TURN_LOW = 4.4650282e-9f;  // 1 / 2π
    float high = im * TURN;
    return {high, fmaf(im, TURN, -high) + im * TURN_LOW};
}

// exp(i δ im) times `size`.
__device__ __forceinline__ void turn(float delta, Turns im, float size, float& re_out, float& im_out) {
    float sine, cosine, product = delta * im.high;
    sin_cos(product, fmaf(delta, im.high, -product) + delta * im.low, sine, cosine);
    re_out = size * cosine;
    im_out = size * sine;
}
