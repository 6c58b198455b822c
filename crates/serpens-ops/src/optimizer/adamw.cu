// See `AdamW`; the numbers are β1, β2, eps, 1 / (1 - β1^t) and 1 / √(1 - β2^t).
__device__ __forceinline__ float step(float g, float lr, const float (&numbers)[NUMBERS], float (&moments)[MOST_MOMENTS]) {
    float beta1 = numbers[0], beta2 = numbers[1], &m = moments[0], &v = moments[1];
    g = fminf(fmaxf(g, -1e19f), 1e19f);
    m = fmaf(beta1, m, (1.0f - beta1) * g);
    v = fmaf(beta2, v, (1.0f - beta2) * (g * g));
    float root = fmaf(sqrtf(v), numbers[4], numbers[2]);
    return lr * numbers[3] * (m / root);
}
