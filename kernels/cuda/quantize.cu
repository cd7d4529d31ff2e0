// bfloat16 to 8-bit floats (e4m3): one scale per tensor, per token, or per 128 values of a token.
// A scale is the largest absolute value over 448; quantised = value / scale.
#include "common.cuh"

const float LARGEST = 448.0f;
const float SMALLEST_SCALE = 1.0f / (448.0f * 512.0f);

DEVICE float largest_of_8(const float (&values)[8]) {
    float most = 0.0f;
    for (int j = 0; j < 8; j++) most = fmaxf(most, fabsf(values[j]));
    return most;
}
DEVICE uint2 quantize_8(const float (&values)[8], float inverse) {
    uint2 bytes;
    bytes.x = floats_to_e4m3x2(values[0] * inverse, values[1] * inverse) |
              (floats_to_e4m3x2(values[2] * inverse, values[3] * inverse) << 16);
    bytes.y = floats_to_e4m3x2(values[4] * inverse, values[5] * inverse) |
              (floats_to_e4m3x2(values[6] * inverse, values[7] * inverse) << 16);
    return bytes;
}

// One block per token; `in`: [tokens, width], `width` a multiple of 8 up to 32 x blockDim.
extern "C" __global__ void __launch_bounds__(1024) quantize_token(uint2* out, float* scales, const uint4* in, u32 width) {
    __shared__ float scratch[33];
    const u32 MOST_VECTORS = 4;
    u32 vectors = width / 8;
    u64 row = (u64)blockIdx.x * vectors;
    float values[MOST_VECTORS][8];
    float most = 0.0f;
#pragma unroll
    for (u32 i = 0; i < MOST_VECTORS; i++) {
        u32 at = threadIdx.x + i * blockDim.x;
        if (at >= vectors) continue;
        unpack_8(values[i], in[row + at]);
        most = fmaxf(most, largest_of_8(values[i]));
    }
    float scale = fmaxf(block_reduce(most, scratch, true) / LARGEST, SMALLEST_SCALE), inverse = 1.0f / scale;
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
#pragma unroll
    for (u32 i = 0; i < MOST_VECTORS; i++) {
        u32 at = threadIdx.x + i * blockDim.x;
        if (at < vectors) out[row + at] = quantize_8(values[i], inverse);
    }
}

// Sixteen lanes per 128 values; `groups` = tokens x width / 128. scales: [tokens, width / 128].
extern "C" __global__ void __launch_bounds__(256) quantize_group(uint2* out, float* scales, const uint4* in, u64 groups) {
    u64 group = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 16;
    u32 lane = threadIdx.x % 16;
    bool inside = group < groups;
    u64 at = (inside ? group : 0) * 16 + lane;
    float values[8];
    unpack_8(values, load_streaming(in + at));
    float most = largest_of_8(values);
    for (int step = 8; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, step));
    float scale = fmaxf(most / LARGEST, SMALLEST_SCALE);
    if (!inside) return;
    if (lane == 0) scales[group] = scale;
    out[at] = quantize_8(values, 1.0f / scale);
}

// The largest absolute value of the tensor as the bits of a float, which order as integers do; `most` starts as 0.
extern "C" __global__ void __launch_bounds__(256) largest_value(u32* most, const uint4* in, u64 vectors) {
    __shared__ float scratch[33];
    float largest = 0.0f;
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < vectors; at += stride) {
        float values[8];
        unpack_8(values, in[at]);
        largest = fmaxf(largest, largest_of_8(values));
    }
    largest = block_reduce(largest, scratch, true);
    if (threadIdx.x == 0) atomicMax(most, float_to_bits(largest));
}

// Quantises by the scale that `most` gives; leaves it in `scale`.
extern "C" __global__ void __launch_bounds__(256)
quantize_tensor(uint2* out, float* scale, const u32* most, const uint4* in, u64 vectors) {
    float by = fmaxf(bits_to_float(*most) / LARGEST, SMALLEST_SCALE);
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at == 0) *scale = by;
    if (at >= vectors) return;
    float values[8];
    unpack_8(values, load_streaming(in + at));
    out[at] = quantize_8(values, 1.0f / by);
}

KERNEL_ENTRY(quantize_token)
KERNEL_ENTRY(quantize_group)
KERNEL_ENTRY(largest_value)
KERNEL_ENTRY(quantize_tensor)
