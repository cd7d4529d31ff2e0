// Runs the kernels of ../cuda on the CPU, one block after the other, every thread a fiber: index arithmetic, fragment
// layouts, barriers and shared memory behave as the PTX manual states them. Nothing here says anything about speed.
//
// - A warp's collective instructions (shuffles, ldmatrix, mma) happen when the last lane arrives; lanes that are at
//   different ones are told.
// - Asynchronous copies and products happen at the wait that covers them (late) or at once (early): a kernel must be right
//   for both. Hopper's: emulate_hopper.h.
// - Threads run as far as they can, in rising or falling order, all warps together or each warp as far ahead of the others
//   as barriers let it: a missing barrier shows.
// - Shared memory, static as well, starts as NaN in every block, and so does memory that nothing wrote; what lies past the
//   end of a buffer (before its beginning, in falling order) is not mapped.
// - Misaligned accesses, indices past an array, shifts that are too far and overflows of signed integers are told, as are
//   accesses to what is not mapped. Products and sums are fused as on the GPU where the CPU can.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <tuple>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static __attribute__((section("block_shared")))
#define DEVICE static inline
#define DYNAMIC_SHARED(name) u8* name = emulate::shared_memory

struct dim3 { u32 x, y, z; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

namespace emulate {

struct Copy { u32 to; const void* from; u32 bytes; };

struct Fiber {
    ucontext_t context;
    jmp_buf jump;
    bool started = false, done = false;
    dim3 index{};
    u32 number = 0;
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

struct Barrier { u32 arrived = 0; int line = 0; u64 generation = 0; };
struct Batch;
struct Group {
    Barrier barrier;
    const void* what = nullptr;
    void* slot[32];
    // Asynchronous products that were issued, by committed groups; the last one is still open.
    std::vector<std::vector<Batch>> products;
};

extern u8* shared_memory;
extern Fiber* current;
extern dim3 block_index, block_size, grid_size;
extern u64 progress;
extern bool early_copies;
extern std::vector<Group> warps;
extern Barrier barriers[16];

void yield();
[[noreturn]] void fail(const char* message);
// Every thread that waits at a barrier must be at the same line.
void wait_at(Barrier& barrier, u32 expected, int line);

// Gathers `mine` of all lanes of the warp; the last one to arrive runs `operation` over all of them. `line` is where the
// lanes are: all must be at one.
template <class T, class F> void warp_collective(T& mine, int line, F operation) {
    static const char tag = 0;
    Group& group = warps[current->number / 32];
    if (group.barrier.arrived == 0) group.what = &tag, group.barrier.line = line;
    if (group.what != &tag || group.barrier.line != line) fail("lanes of one warp are at different collective instructions");
    group.slot[current->number % 32] = &mine;
    u64 generation = group.barrier.generation;
    if (++group.barrier.arrived == 32) {
        T* all[32];
        for (int i = 0; i < 32; i++) all[i] = static_cast<T*>(group.slot[i]);
        operation(all);
        group.barrier.arrived = 0, group.barrier.generation++, progress++;
    } else {
        while (group.barrier.generation == generation) yield();
    }
}

using Invoke = void (*)(void**);
struct Entry {
    const char* name;
    Invoke invoke;
    Entry* next;
    Entry(const char* name, Invoke invoke);
};
template <class... P, size_t... I> void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<P>*>(arguments[I])...);
}
template <class... P> void call(void (*kernel)(P...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<P...>{});
}

inline float f16_to_float(u16 bits) {
    u32 exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    float size = exponent == 0 ? std::ldexp(float(mantissa), -24)
               : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                : std::ldexp(float(1024 + mantissa), int(exponent) - 25);
    return bits >> 15 ? -size : size;
}
inline u16 float_to_f16(float value) { _Float16 half = (_Float16)value; u16 bits; memcpy(&bits, &half, 2); return bits; }
inline float bf16_value(u16 bits) { u32 wide = u32(bits) << 16; float value; memcpy(&value, &wide, 4); return value; }
inline u16 bf16_bits(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    if (value != value) return 0x7fff;
    return u16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float e4m3_value(u8 bits) {
    u32 exponent = (bits >> 3) & 15, mantissa = bits & 7;
    float size = (bits & 127) == 127 ? NAN
               : exponent == 0 ? std::ldexp(float(mantissa), -9) : std::ldexp(float(8 + mantissa), int(exponent) - 10);
    return bits >> 7 ? -size : size;
}
inline u8 e4m3_bits(float value) {
    if (value != value) return 0x7f;
    u8 sign = std::signbit(value) ? 0x80 : 0;
    float size = std::fmin(std::fabs(value), 448.0f);
    int exponent = size < 0.015625f ? -6 : std::ilogb(size);
    int steps = int(std::nearbyint(std::ldexp(size, 3 - exponent)));
    if (exponent == -6) return sign | u8(steps);
    if (steps == 16) steps = 8, exponent++;
    return sign | u8(((exponent + 7) << 3) + (steps - 8));
}

void copy_now(const Copy& copy);
}  // namespace emulate

#define KERNEL_ENTRY(name) static emulate::Entry entry_##name(#name, [](void** arguments) { emulate::call(name, arguments); });

#define threadIdx (emulate::current->index)
#define blockIdx (emulate::block_index)
#define blockDim (emulate::block_size)
#define gridDim (emulate::grid_size)

#define AT_LINE int line = __builtin_LINE()
DEVICE void __syncthreads(AT_LINE) {
    emulate::wait_at(emulate::barriers[0], blockDim.x * blockDim.y * blockDim.z, line);
}
DEVICE void __syncwarp(AT_LINE) { int nothing = 0; emulate::warp_collective(nothing, line, [](int**) {}); }
DEVICE void __threadfence() {}
template <class T> static inline T __shfl_xor_sync(u32, T value, int mask, AT_LINE) {
    struct Argument { T value; int mask; T result; } mine{value, mask, value};
    emulate::warp_collective(mine, line, [](Argument** all) {
        for (int lane = 0; lane < 32; lane++) all[lane]->result = all[lane ^ all[lane]->mask]->value;
    });
    return mine.result;
}
template <class T> static inline T __shfl_sync(u32, T value, int from, AT_LINE) {
    struct Argument { T value; int from; T result; } mine{value, from, value};
    emulate::warp_collective(mine, line, [](Argument** all) {
        for (int lane = 0; lane < 32; lane++) all[lane]->result = all[all[lane]->from & 31]->value;
    });
    return mine.result;
}
template <class T> static inline T __shfl_up_sync(u32, T value, int delta, AT_LINE) {
    struct Argument { T value; int delta; T result; } mine{value, delta, value};
    emulate::warp_collective(mine, line, [](Argument** all) {
        for (int lane = 0; lane < 32; lane++) {
            int from = lane - all[lane]->delta;
            all[lane]->result = all[from < 0 ? lane : from]->value;
        }
    });
    return mine.result;
}
DEVICE u32 __ballot_sync(u32, int predicate, AT_LINE) {
    struct Argument { int predicate; u32 result; } mine{predicate, 0};
    emulate::warp_collective(mine, line, [](Argument** all) {
        u32 bits = 0;
        for (int lane = 0; lane < 32; lane++) bits |= (all[lane]->predicate ? 1u : 0u) << lane;
        for (int lane = 0; lane < 32; lane++) all[lane]->result = bits;
    });
    return mine.result;
}
DEVICE int __any_sync(u32 mask, int predicate, AT_LINE) { return __ballot_sync(mask, predicate, line) != 0; }
DEVICE int __popc(u32 bits) { return __builtin_popcount(bits); }
template <class T, class V> static inline T atomicAdd(T* at, V value) { T old = *at; *at = old + T(value); return old; }
template <class T, class V> static inline T atomicMax(T* at, V value) { T old = *at; if (T(value) > old) *at = T(value); return old; }
template <class T> static inline T min(T a, T b) { return a < b ? a : b; }
template <class T> static inline T max(T a, T b) { return a > b ? a : b; }
DEVICE float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

DEVICE u32 shared_address(const void* pointer) { return u32(static_cast<const u8*>(pointer) - emulate::shared_memory); }
DEVICE void copy_async_16(u32 to, const void* from, bool valid) {
    emulate::Copy copy{to, valid ? from : nullptr, 16};
    if (emulate::early_copies) emulate::copy_now(copy);
    else emulate::current->open.push_back(copy);
}
DEVICE void copy_async_commit() {
    emulate::current->groups.push_back(std::move(emulate::current->open));
    emulate::current->open.clear();
}
template <int N> static inline void copy_async_wait() {
    auto& groups = emulate::current->groups;
    while (groups.size() > size_t(N)) {
        for (auto& copy : groups.front()) emulate::copy_now(copy);
        groups.erase(groups.begin());
    }
}
namespace emulate {
struct Matrices { u32 address; u32 result[4]; };
inline void load_matrices(u32 (&to)[4], u32 address, bool transposed, int line) {
    Matrices mine{address, {}};
    auto read = [transposed](Matrices** all) {
        for (int lane = 0; lane < 32; lane++)
            for (int matrix = 0; matrix < 4; matrix++) {
                u32 result = 0;
                for (int half = 0; half < 2; half++) {
                    int row = transposed ? 2 * (lane % 4) + half : lane / 4;
                    int column = transposed ? lane / 4 : 2 * (lane % 4) + half;
                    u16 element;
                    memcpy(&element, shared_memory + all[8 * matrix + row]->address + 2 * column, 2);
                    result |= u32(element) << (16 * half);
                }
                all[lane]->result[matrix] = result;
            }
    };
    if (address % 16) fail("ldmatrix: an address is no multiple of 16");
    warp_collective(mine, line, read);
    memcpy(to, mine.result, 16);
}
struct Product { float d[4]; u32 a[4], b[2]; };
template <class V> void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, V value, int line) {
    Product mine;
    memcpy(mine.d, d, 16), memcpy(mine.a, a, 16), mine.b[0] = b0, mine.b[1] = b1;
    warp_collective(mine, line, [value](Product** all) {
        float a[16][16], b[16][8];
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 8; i++) {
                int row = lane / 4 + 8 * (i / 2 % 2), column = 2 * (lane % 4) + i % 2 + 8 * (i / 4);
                a[row][column] = value(u16(all[lane]->a[i / 2] >> (16 * (i % 2))));
                if (i < 4) b[2 * (lane % 4) + i % 2 + 8 * (i / 2)][lane / 4] = value(u16(all[lane]->b[i / 2] >> (16 * (i % 2))));
            }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
                float sum = all[lane]->d[i];
                for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
                all[lane]->d[i] = sum;
            }
    });
    memcpy(d, mine.d, 16);
}
}  // namespace emulate
DEVICE void load_matrices(u32 (&to)[4], u32 address, AT_LINE) { emulate::load_matrices(to, address, false, line); }
DEVICE void load_matrices_transposed(u32 (&to)[4], u32 address, AT_LINE) { emulate::load_matrices(to, address, true, line); }
DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, AT_LINE) {
    emulate::mma(d, a, b0, b1, emulate::bf16_value, line);
}
DEVICE void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, AT_LINE) {
    emulate::mma(d, a, b0, b1, emulate::f16_to_float, line);
}
DEVICE u32 pack_bf16(float low, float high) { return emulate::bf16_bits(low) | (u32(emulate::bf16_bits(high)) << 16); }
DEVICE u32 pack_f16(float low, float high) { return emulate::float_to_f16(low) | (u32(emulate::float_to_f16(high)) << 16); }
DEVICE u32 fma_bf16x2(u32 a, u32 b, u32 c) {
    auto one = [](u32 a, u32 b, u32 c) {
        return emulate::bf16_bits(emulate::bf16_value(u16(a)) * emulate::bf16_value(u16(b)) + emulate::bf16_value(u16(c)));
    };
    return one(a, b, c) | (u32(one(a >> 16, b >> 16, c >> 16)) << 16);
}
DEVICE float exp2_fast(float x) { return std::exp2(x); }
DEVICE float bits_to_float(u32 bits) { float value; memcpy(&value, &bits, 4); return value; }
DEVICE u32 float_to_bits(float value) { u32 bits; memcpy(&bits, &value, 4); return bits; }
DEVICE u32 e4m3x2_to_f16x2(u32 pair) {
    return pack_f16(emulate::e4m3_value(u8(pair)), emulate::e4m3_value(u8(pair >> 8)));
}
DEVICE u32 floats_to_e4m3x2(float low, float high) { return emulate::e4m3_bits(low) | (u32(emulate::e4m3_bits(high)) << 8); }
DEVICE uint4 load_streaming(const uint4* from) { return *from; }
DEVICE void store_streaming(uint4* to, uint4 value) { *to = value; }
DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) {
    u64 both = u64(a) | (u64(b) << 32);
    u32 result = 0;
    for (int i = 0; i < 4; i++) result |= u32(u8(both >> (8 * ((selector >> (4 * i)) & 7)))) << (8 * i);
    return result;
}

#include "emulate_hopper.h"
