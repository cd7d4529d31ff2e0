// What every kernel of this folder builds on: number formats, asynchronous copies, matrix instructions, reductions.
// No header of the CUDA toolkit is needed, so that NVRTC alone compiles them. With SERVESIM_EMULATE the same sources
// are C++ for the emulator (emulator/emulate.h), which defines the same functions on the CPU.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

#ifdef SERVESIM_EMULATE
#include "emulate.h"
#else

#define DEVICE __device__ __forceinline__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) u8 name[]
#define KERNEL_ENTRY(name)

DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// Copies 16 bytes from global to shared memory without a register; without `valid` it writes zeros.
DEVICE void copy_async_16(u32 to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `N` of this thread's groups are under way.
template <int N> DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8 x 8 matrices of 16-bit elements; lane `8 i + r` gives the address of row `r` of matrix `i`.
DEVICE void load_matrices(u32 (&to)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}
DEVICE void load_matrices_transposed(u32 (&to)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}

// D[16, 8] += A[16, 16] B[16, 8], 16-bit inputs, 32-bit sums.
DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE u32 pack_bf16(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
DEVICE u32 pack_f16(float low, float high) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
// a * b + c on two bfloat16 values.
DEVICE u32 fma_bf16x2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
// 2 to the power x.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float bits_to_float(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 float_to_bits(float value) { return __float_as_uint(value); }

// Two 8-bit floats (e4m3) as two 16-bit floats, exactly.
DEVICE u32 e4m3x2_to_f16x2(u32 pair) {
    u32 both;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(both) : "h"((u16)pair));
#else
    // The exponent of a 16-bit float is biased by 8 more: place the bits, then multiply by 2^8 (subnormals come right).
    u32 spread = (pair & 0xffu) | ((pair & 0xff00u) << 8);
    u32 placed = ((spread & 0x00800080u) << 8) | ((spread & 0x007f007fu) << 7);
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(both) : "r"(placed), "r"(0x5c005c00u));
#endif
    return both;
}
// Two floats as 8-bit floats (e4m3), rounded to nearest even, saturated at 448.
DEVICE u32 floats_to_e4m3x2(float low, float high) {
#if __CUDA_ARCH__ >= 890
    u16 both;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(high), "f"(low));
    return both;
#else
    u32 result = 0;
    for (int i = 0; i < 2; i++) {
        float value = i ? high : low;
        u32 bits = __float_as_uint(value), sign = bits >> 31, code;
        float size = fminf(__uint_as_float(bits & 0x7fffffffu), 448.0f);
        if (size < 0.015625f) {
            code = (u32)__float2int_rn(size * 512.0f);
        } else {
            u32 b = __float_as_uint(size);
            b += 0x7ffffu + ((b >> 20) & 1u);
            code = (b >> 20) - ((127u - 7u) << 3);
        }
        result |= ((sign << 7) | code) << (8 * i);
    }
    return result;
#endif
}

DEVICE uint4 load_streaming(const uint4* from) { return __ldcs(from); }
DEVICE void store_streaming(uint4* to, uint4 value) { __stcs(to, value); }
DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }

#endif

const u32 FULL_WARP = 0xffffffffu;
const float LOG2_E = 1.4426950408889634f;
const float NEGATIVE_INFINITY = -1e30f;

DEVICE float bf16_to_float(u32 bits) { return bits_to_float(bits << 16); }
DEVICE float bf16_low(u32 pair) { return bits_to_float(pair << 16); }
DEVICE float bf16_high(u32 pair) { return bits_to_float(pair & 0xffff0000u); }
DEVICE u16 float_to_bf16(float value) { return (u16)pack_bf16(value, 0.0f); }

// Eight bfloat16 values of 16 bytes as floats, and back.
DEVICE void unpack_8(float (&to)[8], uint4 from) {
    to[0] = bf16_low(from.x), to[1] = bf16_high(from.x), to[2] = bf16_low(from.y), to[3] = bf16_high(from.y);
    to[4] = bf16_low(from.z), to[5] = bf16_high(from.z), to[6] = bf16_low(from.w), to[7] = bf16_high(from.w);
}
DEVICE uint4 pack_8(const float (&from)[8]) {
    uint4 to;
    to.x = pack_bf16(from[0], from[1]), to.y = pack_bf16(from[2], from[3]);
    to.z = pack_bf16(from[4], from[5]), to.w = pack_bf16(from[6], from[7]);
    return to;
}

DEVICE float warp_sum(float value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(FULL_WARP, value, step);
    return value;
}
DEVICE float warp_max(float value) {
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(FULL_WARP, value, step));
    return value;
}
// Sum or maximum over the block, the same on every thread; `scratch` holds 33 floats of shared memory.
DEVICE float block_reduce(float value, float* scratch, bool maximum) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
    value = maximum ? warp_max(value) : warp_sum(value);
    __syncthreads();
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    if (warp == 0) {
        value = lane < warps ? scratch[lane] : (maximum ? NEGATIVE_INFINITY : 0.0f);
        value = maximum ? warp_max(value) : warp_sum(value);
        if (lane == 0) scratch[32] = value;
    }
    __syncthreads();
    return scratch[32];
}
