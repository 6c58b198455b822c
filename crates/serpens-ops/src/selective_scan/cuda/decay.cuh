// The decay of a state, exp(δ A): of a real A `decay_of`, of a complex one that of the real part, `turn`ed by the angle
// δ im A, which is kept in turns. `a2` is A, or its real part, times log2 e.

// What is added to δ a2. ex2.approx gives too little by 1.8e-8 on average for small exponents, which adds up where a
// state lasts; the lift makes up for it. With EXP2_NONE, where the state starts anew, the decay is 0.
constexpr float EXP2_LIFT = 2.6e-8f;
constexpr float EXP2_NONE = -1e30f;

__device__ __forceinline__ float decay_of(float delta, float a2, float lift = EXP2_LIFT) {
    return exp2_fast(fmaf(delta, a2, lift));
}

// Without the lift: for one factor in place of many (a whole segment's, where `delta` is Σ δ), and for the backward
// scan of a real A in bf16. That takes the states anew from the checkpoint of every chunk, so only their gradients
// could gather the 1.8e-8 of each step, and over 10^5 steps that is still less than one rounding to bf16, 2e-3. The
// forward scan has the lift in bf16 too: its states go through the whole sequence, and the checkpoints and the last
// are f32.
__device__ __forceinline__ float decay_unlifted(float delta, float a2) { return exp2_fast(delta * a2); }

// The weight of an input that is held, w = (exp(δ A) - 1) / A, and its derivative by A: in place of δ, with u in place
// of δ u. `inverse` is 1 / A, `decay` exp(δ A) even where the state starts anew.
struct Hold {
    float weight, slope;
};
__device__ __forceinline__ Hold hold_of(float delta, float a2, float inverse, float decay) {
    // Where |δ A| is at most 1 the differences lose digits, and A may be zero. There, with x = δ A and φ of a series,
    // w = δ (1 + x φ) and the derivative is δ (w - δ φ): φ = (e^x - 1 - x) / x², here times ln 2 by powers of δ a2.
    constexpr float PHI[8] = {0.34657359f,    0.0800755f,    0.013876051f,   0.0019236273f,
                              0.00022217010f, 2.2001532e-5f, 1.9494046e-6f, 1.4953220e-7f};
    float x = delta * a2, phi = PHI[7];
#pragma unroll
    for (int k = 6; k >= 0; --k) phi = fmaf(phi, x, PHI[k]);
    bool near = fabsf(x) <= LOG2_E;
    Hold hold;
    hold.weight = near ? fmaf(delta * x, phi, delta) : (decay - 1.0f) * inverse;
    hold.slope = near ? delta * fmaf(-LOG2_E * delta, phi, hold.weight) : fmaf(delta, decay, -hold.weight) * inverse;
    return hold;
}

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

// exp(i δ im) times `size`: with the decay of the real part exp(δ A).
__device__ __forceinline__ void turn(float delta, Turns im, float size, float& re_out, float& im_out) {
    float sine, cosine, product = delta * im.high;
    sin_cos(product, fmaf(delta, im.high, -product) + delta * im.low, sine, cosine);
    re_out = size * cosine;
    im_out = size * sine;
}
