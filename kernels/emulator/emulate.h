// Runs the kernels of ../cuda on the CPU, one block after the other, every thread a fiber: index arithmetic, fragment
// layouts, barriers and shared memory behave as the PTX manual states them. Nothing here says anything about speed.
//
// - A warp's collective instructions (shuffles, ldmatrix, mma) happen when the last lane arrives.
// - Asynchronous copies land at the wait that covers them (late) or at once (early): a kernel must be right for both.
// - Threads run as far as they can, in rising or falling order: a missing barrier shows.
// - Shared memory starts as NaN in every block; memory past the end of a buffer is not mapped.
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
#define __shared__ static
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

struct Barrier { u32 arrived = 0; u64 generation = 0; };
struct Group { Barrier barrier; const void* what = nullptr; void* slot[128]; };

extern u8* shared_memory;
extern Fiber* current;
extern dim3 block_index, block_size, grid_size;
extern u64 progress;
extern bool early_copies;
extern std::vector<Group> warps, warpgroups;
extern Barrier barriers[16];

void yield();
[[noreturn]] void fail(const char* message);
void wait_at(Barrier& barrier, u32 expected);

// Gathers `mine` of all lanes of `group`; the last one to arrive runs `operation` over all of them.
template <int LANES, class T, class F> void collective(Group& group, u32 lane, T& mine, F operation) {
    static const char tag = 0;
    if (group.barrier.arrived == 0) group.what = &tag;
    if (group.what != &tag) fail("lanes of one warp are at different collective instructions");
    group.slot[lane] = &mine;
    u64 generation = group.barrier.generation;
    if (++group.barrier.arrived == LANES) {
        T* all[LANES];
        for (int i = 0; i < LANES; i++) all[i] = static_cast<T*>(group.slot[i]);
        operation(all);
        group.barrier.arrived = 0, group.barrier.generation++, progress++;
    } else {
        while (group.barrier.generation == generation) yield();
    }
}
template <class T, class F> void warp_collective(T& mine, F operation) {
    collective<32>(warps[current->number / 32], current->number % 32, mine, operation);
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

DEVICE void __syncthreads() { emulate::wait_at(emulate::barriers[0], blockDim.x * blockDim.y * blockDim.z); }
DEVICE void __syncwarp() { int nothing = 0; emulate::warp_collective(nothing, [](int**) {}); }
DEVICE void __threadfence() {}
template <class T> static inline T __shfl_xor_sync(u32, T value, int mask) {
    struct Argument { T value; int mask; T result; } mine{value, mask, value};
    emulate::warp_collective(mine, [](Argument** all) {
        for (int lane = 0; lane < 32; lane++) all[lane]->result = all[lane ^ all[lane]->mask]->value;
    });
    return mine.result;
}
template <class T> static inline T __shfl_sync(u32, T value, int from) {
    struct Argument { T value; int from; T result; } mine{value, from, value};
    emulate::warp_collective(mine, [](Argument** all) {
        for (int lane = 0; lane < 32; lane++) all[lane]->result = all[all[lane]->from & 31]->value;
    });
    return mine.result;
}
template <class T> static inline T __shfl_up_sync(u32, T value, int delta) {
    struct Argument { T value; int delta; T result; } mine{value, delta, value};
    emulate::warp_collective(mine, [](Argument** all) {
        for (int lane = 0; lane < 32; lane++) {
            int from = lane - all[lane]->delta;
            all[lane]->result = all[from < 0 ? lane : from]->value;
        }
    });
    return mine.result;
}
DEVICE u32 __ballot_sync(u32, int predicate) {
    struct Argument { int predicate; u32 result; } mine{predicate, 0};
    emulate::warp_collective(mine, [](Argument** all) {
        u32 bits = 0;
        for (int lane = 0; lane < 32; lane++) bits |= (all[lane]->predicate ? 1u : 0u) << lane;
        for (int lane = 0; lane < 32; lane++) all[lane]->result = bits;
    });
    return mine.result;
}
DEVICE int __any_sync(u32 mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
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
inline void load_matrices(u32 (&to)[4], u32 address, bool transposed) {
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
    warp_collective(mine, read);
    memcpy(to, mine.result, 16);
}
struct Product { float d[4]; u32 a[4], b[2]; };
template <class V> void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, V value) {
    Product mine;
    memcpy(mine.d, d, 16), memcpy(mine.a, a, 16), mine.b[0] = b0, mine.b[1] = b1;
    warp_collective(mine, [value](Product** all) {
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
DEVICE void load_matrices(u32 (&to)[4], u32 address) { emulate::load_matrices(to, address, false); }
DEVICE void load_matrices_transposed(u32 (&to)[4], u32 address) { emulate::load_matrices(to, address, true); }
DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emulate::mma(d, a, b0, b1, emulate::bf16_value); }
DEVICE void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emulate::mma(d, a, b0, b1, emulate::f16_to_float); }
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

// Hopper's instructions (cuda/hopper.cuh). Products and bulk copies happen when they are issued.
struct TensorMap;
template <u32 N> static inline void more_registers() {}
template <u32 N> static inline void fewer_registers() {}
DEVICE void fence_async() {}
DEVICE void barrier_init_fence() {}
DEVICE void wgmma_fence() {}
DEVICE void wgmma_commit() {}
template <u32 N> static inline void wgmma_wait() {}
template <u32 COUNT> static inline void pin(float (&)[COUNT]) {}
DEVICE void store_in_order(u32 address, float value) { memcpy(emulate::shared_memory + address, &value, 4); }
DEVICE void group_barrier(u32 number, u32 threads) { emulate::wait_at(emulate::barriers[number], threads); }

namespace emulate {
// A barrier in shared memory, in its 8 bytes.
struct SharedBarrier { u16 expected, pending; i32 bytes_and_phase; };
inline SharedBarrier& shared_barrier(u32 at) { return *reinterpret_cast<SharedBarrier*>(shared_memory + at); }
// Bytes still to come, times two, plus the phase.
inline void settle(SharedBarrier& barrier) {
    if (barrier.pending == 0 && barrier.bytes_and_phase >> 1 == 0) {
        barrier.pending = barrier.expected, barrier.bytes_and_phase ^= 1, progress++;
    }
}
inline u32 swizzle(u32 address) { return address ^ ((address >> 3) & 0x70); }
inline float operand_at(u64 operand, u32 row, u32 k, bool transposed) {
    u32 start = u32(operand & 0x3fff) << 4, leading = u32(operand >> 16 & 0x3fff) << 4, stride = u32(operand >> 32 & 0x3fff) << 4;
    u32 address = transposed ? start + row / 64 * leading + row % 64 * 2 + k / 8 * stride + k % 8 * 128
                             : start + row / 8 * stride + row % 8 * 128 + k * 2;
    u16 bits;
    memcpy(&bits, shared_memory + swizzle(address), 2);
    return bf16_value(bits);
}
struct GroupProduct { float* d; u32 a[4]; u64 left, right; i32 add; };
template <u32 N, bool REGISTERS> void group_product(GroupProduct& mine) {
    collective<128>(warpgroups[current->number / 128], current->number % 128, mine, [](GroupProduct** all) {
        static float a[64][16], b[16][N];
        for (u32 k = 0; k < 16; k++) {
            for (u32 n = 0; n < N; n++) b[k][n] = operand_at(all[0]->right, n, k, REGISTERS);
            if (!REGISTERS)
                for (u32 m = 0; m < 64; m++) a[m][k] = operand_at(all[0]->left, m, k, false);
        }
        for (u32 lane = 0; REGISTERS && lane < 128; lane++)
            for (u32 i = 0; i < 8; i++)
                a[lane / 32 * 16 + lane % 32 / 4 + 8 * (i / 2 % 2)][2 * (lane % 4) + i % 2 + 8 * (i / 4)] =
                    bf16_value(u16(all[lane]->a[i / 2] >> (16 * (i % 2))));
        for (u32 lane = 0; lane < 128; lane++)
            for (u32 i = 0; i < N / 2; i++) {
                u32 m = lane / 32 * 16 + lane % 32 / 4 + 8 * (i % 4 / 2), n = i / 4 * 8 + 2 * (lane % 4) + i % 2;
                float sum = all[lane]->add ? all[lane]->d[i] : 0.0f;
                for (u32 k = 0; k < 16; k++) sum += a[m][k] * b[k][n];
                all[lane]->d[i] = sum;
            }
    });
}
}  // namespace emulate
template <u32 N> static inline void wgmma_shared(float (&d)[N / 2], u64 a, u64 b, i32 add) {
    emulate::GroupProduct mine{d, {}, a, b, add};
    emulate::group_product<N, false>(mine);
}
template <u32 N> static inline void wgmma_registers(float (&d)[N / 2], const u32 (&a)[4], u64 b) {
    emulate::GroupProduct mine{d, {a[0], a[1], a[2], a[3]}, 0, b, 1};
    emulate::group_product<N, true>(mine);
}
DEVICE void barrier_init(u32 barrier, u32 arrivals) { emulate::shared_barrier(barrier) = {u16(arrivals), u16(arrivals), 0}; }
DEVICE void barrier_arrive(u32 barrier) {
    auto& own = emulate::shared_barrier(barrier);
    if (own.pending == 0) emulate::fail("more arrivals at a barrier than it counts");
    own.pending--;
    emulate::settle(own);
}
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    emulate::shared_barrier(barrier).bytes_and_phase += i32(bytes) * 2;
    barrier_arrive(barrier);
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    while ((emulate::shared_barrier(barrier).bytes_and_phase & 1) == i32(parity)) emulate::yield();
}
// The map is: address, four sizes, three byte strides (of y, z, w), four sizes of the box; 16-bit elements, x contiguous.
DEVICE void copy_box(u32 to, const TensorMap* map, u32 barrier, i32 x, i32 y, i32 z, i32 w) {
    u64 words[16];
    memcpy(words, map, 128);
    const u8* base = reinterpret_cast<const u8*>(words[0]);
    i32 at[4] = {x, y, z, w};
    u32 count = 0;
    if (to % 128) emulate::fail("bulk copy: the target is no multiple of 128");
    for (u64 dw = 0; dw < words[11]; dw++)
        for (u64 dz = 0; dz < words[10]; dz++)
            for (u64 dy = 0; dy < words[9]; dy++)
                for (u64 dx = 0; dx < words[8]; dx++) {
                    u64 p[4] = {at[0] + dx, at[1] + dy, at[2] + dz, at[3] + dw};
                    u16 element = 0;
                    if (p[0] < words[1] && p[1] < words[2] && p[2] < words[3] && p[3] < words[4])
                        memcpy(&element, base + p[0] * 2 + p[1] * words[5] + p[2] * words[6] + p[3] * words[7], 2);
                    memcpy(emulate::shared_memory + emulate::swizzle(to + count), &element, 2);
                    count += 2;
                }
    emulate::shared_barrier(barrier).bytes_and_phase -= i32(count) * 2;
    emulate::settle(emulate::shared_barrier(barrier));
}
