// Kernels with planted faults, for the test that the emulator shows them (src/device/planted.rs). Variant 0 of each is right
// and leaves `n` on every thread that writes.
#include "common.cuh"
#include "hopper.cuh"

// A warp writes what another one reads; without the second barrier it may overwrite it first. The shuffles keep warps that
// advance together in step, as they often are on a GPU.
template <u32 FAULT> DEVICE void warp_runs_ahead(u32* out, u32 n) {
    __shared__ u32 slot;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, read = 0;
    for (u32 round = 0; round <= n; round++) {
        if (threadIdx.x == 0) slot = round;
        __syncthreads();
        read = slot;
        for (int step = 16; step > 0; step /= 2) read = max(read, __shfl_xor_sync(FULL_WARP, read, step));
        if (FAULT == 1 && read != round) out[warp * 32 + lane] = ~0u;
        if (FAULT == 0) __syncthreads();
    }
    if (FAULT == 0 || out[warp * 32 + lane] != ~0u) out[warp * 32 + lane] = read;
}

// Products of ones: 16 in every sum.
template <u32 FAULT> DEVICE void product(u32* out, u32 n) {
    DYNAMIC_SHARED(shared);
    u32 base = shared_address(shared);
    auto fill = [&](u32 value) {
        for (u32 i = threadIdx.x; i < 4096; i += blockDim.x) ((u32*)shared)[i] = value;
    };
    fill(0x3f803f80);
    if (FAULT != 2) fence_async();
    __syncthreads();
    float d[32];
    wgmma_fence();
    wgmma_shared<64>(d, operand(base, 16, 1024), operand(base + (FAULT == 6 ? 12288 : 8192), 16, 1024), 0);
    wgmma_commit();
    float early = FAULT == 1 ? d[0] : 0.0f;
    if (FAULT == 3) fill(0x40004000), fence_async();
    if (FAULT == 4) d[3] = 1.0f;
    if (FAULT != 5) wgmma_wait<0>();
    out[threadIdx.x] = (u32)(FAULT == 1 ? early : FAULT == 5 ? 0.0f : d[3]) + n - 16;
}

// A box of 8 rows of 64 elements, each the low half of `n`.
template <u32 FAULT> DEVICE void box(u32* out, const TensorMap* map) {
    DYNAMIC_SHARED(shared);
    u32 base = shared_address(shared), barrier = base + 1024;
    if (threadIdx.x == 0) barrier_init(barrier, 1), barrier_init_fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        barrier_expect(barrier, FAULT == 2 ? 1040 : 1024);
        copy_box(base + (FAULT == 3 ? 64 : 0), map, barrier, 0, 0, 0, 0);
    }
    if (FAULT != 1) barrier_wait(barrier, 0);
    out[threadIdx.x] = ((const u16*)shared)[threadIdx.x];
}

// Asynchronous copies of 16 bytes: read before the wait; past the end of shared memory.
template <u32 FAULT> DEVICE void copies(u32* out, const u32* in) {
    DYNAMIC_SHARED(shared);
    copy_async_16(shared_address(shared) + threadIdx.x * 16 + (FAULT == 2 ? 1024 : 0), in + threadIdx.x * 4, true);
    copy_async_commit();
    if (FAULT != 1) copy_async_wait<0>();
    out[threadIdx.x] = ((const u32*)shared)[threadIdx.x * 4 + 3];
}

template <u32 FAULT> DEVICE void memory(u32* out, const u32* in, u32 n) {
    __shared__ u32 counter;
    u32 values[4] = {n, n, n, n}, lane = threadIdx.x % 32, value = n;
    if (FAULT == 1) value = ((const uint4*)(in + 1))->y;
    if (FAULT == 2) value = values[in[0]];
    if (FAULT == 3) value = in[4096 + lane];
    if (FAULT == 4) value = in[-1 - (i32)lane];
    if (FAULT == 5) {
        atomicAdd(&counter, 1u);
        __syncthreads();
        value = counter;
    }
    if (FAULT == 6) {
        if (lane < 16) value = __shfl_xor_sync(FULL_WARP, n, 1);
        else value = __shfl_xor_sync(FULL_WARP, n, 2);
    }
    if (FAULT == 7) {
        if (threadIdx.x < 32) __syncthreads();
        else
            __syncthreads();
    }
    out[threadIdx.x] = value;
}

// A softmax's step for a row that sees none of its keys: its weights are one, but where the product and the difference are
// fused (zero or infinite then); better they are zero. `of`: scale, score, largest score.
template <u32 FAULT> DEVICE void fused(u32* out, const float* of, u32 n) {
    float scaled = FAULT == 0 && of[2] <= NEGATIVE_INFINITY ? 0.0f : of[2] * of[0];
    float weight = exp2_fast(of[1] * of[0] - scaled);
    out[threadIdx.x] = weight == (FAULT ? 1.0f : 0.0f) ? n : 0;
}

#define ENTRY(name, call)                                                                                                \
    extern "C" __global__ void name(u32* out, const u32* in, const __grid_constant__ TensorMap map, u32 n) { call; }      \
    KERNEL_ENTRY(name)

ENTRY(ahead_0, warp_runs_ahead<0>(out, n))
ENTRY(ahead_1, warp_runs_ahead<1>(out, n))
ENTRY(product_0, product<0>(out, n))
ENTRY(product_1, product<1>(out, n))
ENTRY(product_2, product<2>(out, n))
ENTRY(product_3, product<3>(out, n))
ENTRY(product_4, product<4>(out, n))
ENTRY(product_5, product<5>(out, n))
ENTRY(product_6, product<6>(out, n))
ENTRY(box_0, box<0>(out, &map))
ENTRY(box_1, box<1>(out, &map))
ENTRY(box_2, box<2>(out, &map))
ENTRY(box_3, box<3>(out, &map))
ENTRY(copies_0, copies<0>(out, in))
ENTRY(copies_1, copies<1>(out, in))
ENTRY(copies_2, copies<2>(out, in))
ENTRY(memory_0, memory<0>(out, in, n))
ENTRY(memory_1, memory<1>(out, in, n))
ENTRY(memory_2, memory<2>(out, in, n))
ENTRY(memory_3, memory<3>(out, in, n))
ENTRY(memory_4, memory<4>(out, in, n))
ENTRY(memory_5, memory<5>(out, in, n))
ENTRY(memory_6, memory<6>(out, in, n))
ENTRY(memory_7, memory<7>(out, in, n))
ENTRY(fused_0, fused<0>(out, (const float*)&map, n))
ENTRY(fused_1, fused<1>(out, (const float*)&map, n))
