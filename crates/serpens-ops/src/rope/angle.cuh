// The angles of a rotation by positions.

// Turns, of 2 π each, of a pair from a position to the next: `step` is log₂ of the ratio of neighbouring pairs.
__device__ __forceinline__ double turns_of_pair(double step, int pair) { return exp2(step * pair) * 0.15915494309189535; }

// The sine and cosine of so many turns. What is left of them within a quarter fits into f32: the rest is exact.
__device__ __forceinline__ void sin_cos_of_turns(double turns, float& sine, float& cosine) {
    double quarters = rint(4.0 * turns);
    int quarter = (int)(i64)quarters & 3;
    float s, c;
    sincospif(0.5f * (float)(4.0 * turns - quarters), &s, &c);
    sine = quarter & 1 ? c : s;
    cosine = quarter & 1 ? s : c;
    if (quarter & 2) sine = -sine;
    if (quarter == 1 || quarter == 2) cosine = -cosine;
}
