// Residual add fused with RMSNorm: residual += x; out = residual / rms(residual) * weight. One block per token.
#include "common.cuh"

const u32 MOST_VECTORS = 4;

// `out`, `residual`, `x`: [tokens, hidden]; `weight`: [hidden]. `hidden` is a multiple of 8 up to 32 x blockDim.
extern "C" __global__ void __launch_bounds__(1024)
add_rms_norm(uint4* out, uint4* residual, const uint4* x, const uint4* weight, u32 hidden, float epsilon) {
    __shared__ float scratch[33];
    u32 vectors = hidden / 8;
    u64 row = (u64)blockIdx.x * vectors;
    float values[MOST_VECTORS][8];
    float squares = 0.0f;
#pragma unroll
    for (u32 i = 0; i < MOST_VECTORS; i++) {
        u32 at = threadIdx.x + i * blockDim.x;
        if (at >= vectors) continue;
        float added[8];
        unpack_8(values[i], residual[row + at]);
        unpack_8(added, x[row + at]);
        for (int j = 0; j < 8; j++) values[i][j] += added[j];
        uint4 sum = pack_8(values[i]);
        residual[row + at] = sum;
        unpack_8(values[i], sum);
        for (int j = 0; j < 8; j++) squares += values[i][j] * values[i][j];
    }
    float scale = rsqrtf(block_reduce(squares, scratch, false) / (float)hidden + epsilon);
#pragma unroll
    for (u32 i = 0; i < MOST_VECTORS; i++) {
        u32 at = threadIdx.x + i * blockDim.x;
        if (at >= vectors) continue;
        float factors[8];
        unpack_8(factors, weight[at]);
        for (int j = 0; j < 8; j++) values[i][j] *= scale * factors[j];
        out[row + at] = pack_8(values[i]);
    }
}

KERNEL_ENTRY(add_rms_norm)
