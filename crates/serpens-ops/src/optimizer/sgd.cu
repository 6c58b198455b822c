// See `Sgd`; the number is β.
__device__ __forceinline__ float step(float g, float lr, const float (&numbers)[NUMBERS], float (&moments)[MOST_MOMENTS]) {
    moments[0] = fmaf(numbers[0], moments[0], g);
    return lr * moments[0];
}
