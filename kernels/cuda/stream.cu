// Ceilings of the memory: copy, read only, fill with a reproducible pattern.
#include "common.cuh"

const u32 VECTORS = 4;

// Copies `count` 16-byte words; each thread has four loads under way before its first store.
extern "C" __global__ void __launch_bounds__(512) copy_words(uint4* to, const uint4* from, u64 count) {
    u64 first = (u64)blockIdx.x * blockDim.x * VECTORS + threadIdx.x;
    uint4 words[VECTORS];
    for (u32 i = 0; i < VECTORS; i++) {
        u64 at = first + i * blockDim.x;
        if (at < count) words[i] = load_streaming(from + at);
    }
    for (u32 i = 0; i < VECTORS; i++) {
        u64 at = first + i * blockDim.x;
        if (at < count) store_streaming(to + at, words[i]);
    }
}

// Reads `count` 16-byte words; each block leaves the exclusive or of all its 32-bit words.
extern "C" __global__ void __launch_bounds__(512) read_words(u32* result, const uint4* from, u64 count) {
    __shared__ u32 partial[32];
    u32 bits = 0;
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 base = (u64)blockIdx.x * blockDim.x + threadIdx.x; base < count; base += VECTORS * stride) {
        uint4 words[VECTORS];
        for (u32 i = 0; i < VECTORS; i++) {
            u64 at = base + i * stride;
            words[i] = at < count ? load_streaming(from + at) : uint4{0, 0, 0, 0};
        }
        for (u32 i = 0; i < VECTORS; i++) bits ^= words[i].x ^ words[i].y ^ words[i].z ^ words[i].w;
    }
    for (int step = 16; step > 0; step /= 2) bits ^= __shfl_xor_sync(FULL_WARP, bits, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = bits;
    __syncthreads();
    if (threadIdx.x < 32) {
        bits = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0;
        for (int step = 16; step > 0; step /= 2) bits ^= __shfl_xor_sync(FULL_WARP, bits, step);
        if (threadIdx.x == 0) result[blockIdx.x] = bits;
    }
}

DEVICE u32 mix(u32 x) {
    x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

// Random bytes: `count` 32-bit words.
extern "C" __global__ void __launch_bounds__(256) fill_words(u32* to, u64 count, u32 seed) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += stride)
        to[at] = mix((u32)at * 0x9e3779b9u ^ mix(seed ^ (u32)(at >> 32)));
}

// Random bfloat16 values, uniform in [-scale, scale): `count` pairs.
extern "C" __global__ void __launch_bounds__(256) fill_bf16(u32* to, u64 count, u32 seed, float scale) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += stride) {
        u32 bits = mix((u32)at * 0x9e3779b9u ^ mix(seed ^ (u32)(at >> 32)));
        float low = (float)(bits & 0xffffu) / 32768.0f - 1.0f, high = (float)(bits >> 16) / 32768.0f - 1.0f;
        to[at] = pack_bf16(low * scale, high * scale);
    }
}

// Random 8-bit floats (e4m3), finite: `count` groups of four.
extern "C" __global__ void __launch_bounds__(256) fill_e4m3(u32* to, u64 count, u32 seed) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += stride) {
        u32 bits = mix((u32)at * 0x9e3779b9u ^ mix(seed ^ (u32)(at >> 32)));
        // Exponents up to 8 of 15: sizes below 4.
        to[at] = bits & 0xbfbfbfbfu;
    }
}

KERNEL_ENTRY(copy_words)
KERNEL_ENTRY(read_words)
KERNEL_ENTRY(fill_words)
KERNEL_ENTRY(fill_bf16)
KERNEL_ENTRY(fill_e4m3)
