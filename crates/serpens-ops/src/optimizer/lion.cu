// See `Lion`; the numbers are β1 and β2.
__device__ __forceinline__ float step(float g, float lr, const float (&numbers)[NUMBERS], float (&moments)[MOST_MOMENTS]) {
    float beta1 = numbers[0], beta2 = numbers[1], &m = moments[0];
    float way = fmaf(beta1, m, (1.0f - beta1) * g);
    m = fmaf(beta2, m, (1.0f - beta2) * g);
    return way == 0.0f ? 0.0f : copysignf(lr, way);
}
