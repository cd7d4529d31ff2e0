// Hopper's instructions (cuda/hopper.cuh) in the emulator.
//
// - Products of a warpgroup: each warp does its 16 rows, no warp waits for another. Late, they happen at the wait that
//   covers them: until then their sums are NaN, and their operands must stay as they are. Early, they happen when issued.
// - Bulk copies: late, they land when a thread waits at their barrier; early, when issued.
// - Matrix instructions see ordinary stores to shared memory only after `fence_async`: they read a copy of it, which bulk
//   copies and that fence bring up to date.
#pragma once

struct TensorMap;
template <u32 N> static inline void more_registers() {}
template <u32 N> static inline void fewer_registers() {}
DEVICE void barrier_init_fence() {}
DEVICE void wgmma_fence() {}
template <u32 COUNT> static inline void pin(float (&)[COUNT]) {}
DEVICE void store_in_order(u32 address, float value) { memcpy(emulate::shared_memory + address, &value, 4); }
DEVICE void group_barrier(u32 number, u32 threads, AT_LINE) { emulate::wait_at(emulate::barriers[number], threads, line); }

namespace emulate {
// Shared memory as matrix instructions see it, and its bytes.
extern u8* async_memory;
extern u32 shared_bytes;

inline u32 swizzle(u32 address) { return address ^ ((address >> 3) & 0x70); }
inline float operand_at(u64 operand, u32 row, u32 k, bool transposed) {
    u32 start = u32(operand & 0x3fff) << 4, leading = u32(operand >> 16 & 0x3fff) << 4, stride = u32(operand >> 32 & 0x3fff) << 4;
    u32 address = transposed ? start + row / 64 * leading + row % 64 * 2 + k / 8 * stride + k % 8 * 128
                             : start + row / 8 * stride + row % 8 * 128 + k * 2;
    address = swizzle(address);
    if (address + 2 > shared_bytes) fail("a matrix instruction reads past the end of shared memory");
    u16 bits;
    memcpy(&bits, async_memory + address, 2);
    return bf16_value(bits);
}

// One lane's sums: where they lie, and what they are while products are under way.
struct Sums { float* visible; std::vector<float> actual; u32 under_way; };
struct LaneOperand { float* d; const u32* a; i32 add; };
struct Batch { LaneOperand lanes[32]; u32 a[32][4]; u64 left, right; u32 n, warp; bool from_registers; };
// By warp and lane.
extern std::vector<std::vector<Sums>> sums_under_way;

inline Sums& sums_of(u32 thread, float* d, u32 count) {
    auto& all = sums_under_way[thread];
    for (auto& sums : all)
        if (sums.visible == d) return sums;
    all.push_back({d, std::vector<float>(d, d + count), 0});
    return all.back();
}
// A value that no product leaves: shows whether sums were written too soon.
inline float poison() { return bits_to_float(0x7fc0dead); }

// Rows 16 x warp of D (+)= A B.
inline void multiply(Batch& batch) {
    static float a[16][16], b[16][256];
    u32 n = batch.n;
    for (u32 k = 0; k < 16; k++) {
        for (u32 column = 0; column < n; column++) b[k][column] = operand_at(batch.right, column, k, batch.from_registers);
        if (!batch.from_registers)
            for (u32 m = 0; m < 16; m++) a[m][k] = operand_at(batch.left, batch.warp % 4 * 16 + m, k, false);
    }
    for (u32 lane = 0; batch.from_registers && lane < 32; lane++) {
        if (memcmp(batch.lanes[lane].a, batch.a[lane], 16)) fail("an operand of a product changed before the wait for it");
        for (u32 i = 0; i < 8; i++)
            a[lane / 4 + 8 * (i / 2 % 2)][2 * (lane % 4) + i % 2 + 8 * (i / 4)] =
                bf16_value(u16(batch.a[lane][i / 2] >> (16 * (i % 2))));
    }
    for (u32 lane = 0; lane < 32; lane++) {
        auto& all = sums_under_way[batch.warp * 32 + lane];
        Sums& sums = sums_of(batch.warp * 32 + lane, batch.lanes[lane].d, n / 2);
        for (u32 i = 0; i < n / 2; i++) {
            u32 m = lane / 4 + 8 * (i % 4 / 2), column = i / 4 * 8 + 2 * (lane % 4) + i % 2;
            float sum = batch.lanes[lane].add ? sums.actual[i] : 0.0f;
            for (u32 k = 0; k < 16; k++) sum += a[m][k] * b[k][column];
            sums.actual[i] = sum;
        }
        if (--sums.under_way > 0) continue;
        for (u32 i = 0; i < n / 2; i++) {
            u32 bits = float_to_bits(sums.visible[i]);
            if (bits != 0x7fc0dead) fail("sums of a product were written before the wait for it");
            sums.visible[i] = sums.actual[i];
        }
        all.erase(all.begin() + (&sums - all.data()));
    }
}

struct GroupProduct { float* d; const u32* a; u64 left, right; i32 add; };
inline void group_product(GroupProduct& mine, u32 n, bool from_registers, int line) {
    warp_collective(mine, line, [n, from_registers](GroupProduct** all) {
        Batch batch;
        batch.left = all[0]->left, batch.right = all[0]->right, batch.n = n, batch.from_registers = from_registers;
        batch.warp = current->number / 32;
        for (u32 lane = 0; lane < 32; lane++) {
            if (all[lane]->left != batch.left || all[lane]->right != batch.right) fail("lanes name different operands of a product");
            batch.lanes[lane] = {all[lane]->d, all[lane]->a, all[lane]->add};
            if (from_registers) memcpy(batch.a[lane], all[lane]->a, 16);
            Sums& sums = sums_of(batch.warp * 32 + lane, all[lane]->d, n / 2);
            sums.under_way++;
            for (u32 i = 0; i < n / 2; i++) all[lane]->d[i] = poison();
        }
        if (early_copies) multiply(batch);
        else warps[batch.warp].products.back().push_back(batch);
    });
}
// Does the oldest committed groups of this warp until `left` are under way.
inline void finish_products(size_t left, int line) {
    int nothing = 0;
    warp_collective(nothing, line, [left](int**) {
        auto& groups = warps[current->number / 32].products;
        while (groups.size() > left + 1) {
            for (auto& batch : groups.front()) multiply(batch);
            groups.erase(groups.begin());
        }
    });
}
}  // namespace emulate

template <u32 N> static inline void wgmma_shared(float (&d)[N / 2], u64 a, u64 b, i32 add, AT_LINE) {
    emulate::GroupProduct mine{d, nullptr, a, b, add};
    emulate::group_product(mine, N, false, line);
}
template <u32 N> static inline void wgmma_registers(float (&d)[N / 2], const u32 (&a)[4], u64 b, AT_LINE) {
    emulate::GroupProduct mine{d, a, 0, b, 1};
    emulate::group_product(mine, N, true, line);
}
DEVICE void wgmma_commit(AT_LINE) {
    int nothing = 0;
    emulate::warp_collective(nothing, line, [](int**) { emulate::warps[emulate::current->number / 32].products.emplace_back(); });
}
template <u32 N> static inline void wgmma_wait(AT_LINE) { emulate::finish_products(N, line); }
DEVICE void fence_async() { memcpy(emulate::async_memory, emulate::shared_memory, emulate::shared_bytes); }

namespace emulate {
// A barrier in shared memory, in its 8 bytes.
struct SharedBarrier { u16 expected, pending; i32 bytes_and_phase; };
inline SharedBarrier& shared_barrier(u32 at) {
    if (at % 8 || at + 8 > shared_bytes) fail("a barrier out of place in shared memory");
    return *reinterpret_cast<SharedBarrier*>(shared_memory + at);
}
// Bytes still to come, times two, plus the phase.
inline void settle(SharedBarrier& barrier) {
    if (barrier.pending == 0 && barrier.bytes_and_phase >> 1 == 0) {
        barrier.pending = barrier.expected, barrier.bytes_and_phase ^= 1, progress++;
    }
}

// A bulk copy that is under way. The map is: address, four sizes, three byte strides (of y, z, w), four sizes of the box;
// 16-bit elements, x contiguous.
struct Box { u32 to, barrier; u64 map[16]; i32 at[4]; };
extern std::vector<Box> boxes;

inline void land(const Box& box) {
    const u64* map = box.map;
    const u8* base = reinterpret_cast<const u8*>(map[0]);
    u32 count = 0;
    u64 bytes = map[8] * map[9] * map[10] * map[11] * 2;
    if (box.to % 128) fail("bulk copy: the target is no multiple of 128");
    if (box.to + bytes > shared_bytes) fail("bulk copy: past the end of shared memory");
    for (u64 dw = 0; dw < map[11]; dw++)
        for (u64 dz = 0; dz < map[10]; dz++)
            for (u64 dy = 0; dy < map[9]; dy++)
                for (u64 dx = 0; dx < map[8]; dx++) {
                    u64 p[4] = {box.at[0] + dx, box.at[1] + dy, box.at[2] + dz, box.at[3] + dw};
                    u16 element = 0;
                    if (p[0] < map[1] && p[1] < map[2] && p[2] < map[3] && p[3] < map[4])
                        memcpy(&element, base + p[0] * 2 + p[1] * map[5] + p[2] * map[6] + p[3] * map[7], 2);
                    memcpy(shared_memory + swizzle(box.to + count), &element, 2);
                    memcpy(async_memory + swizzle(box.to + count), &element, 2);
                    count += 2;
                }
    auto& barrier = shared_barrier(box.barrier);
    barrier.bytes_and_phase -= i32(count) * 2;
    settle(barrier);
}
}  // namespace emulate
DEVICE void barrier_init(u32 barrier, u32 arrivals) { emulate::shared_barrier(barrier) = {u16(arrivals), u16(arrivals), 0}; }
DEVICE void barrier_arrive(u32 barrier) {
    auto& own = emulate::shared_barrier(barrier);
    if (own.pending == 0) emulate::fail("more arrivals at a barrier than it counts");
    own.pending--, emulate::progress++;
    emulate::settle(own);
}
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    emulate::shared_barrier(barrier).bytes_and_phase += i32(bytes) * 2;
    barrier_arrive(barrier);
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    while ((emulate::shared_barrier(barrier).bytes_and_phase & 1) == i32(parity)) {
        auto& boxes = emulate::boxes;
        for (size_t i = 0; i < boxes.size();) {
            if (boxes[i].barrier != barrier) { i++; continue; }
            emulate::Box box = boxes[i];
            boxes.erase(boxes.begin() + i);
            emulate::land(box);
        }
        if ((emulate::shared_barrier(barrier).bytes_and_phase & 1) == i32(parity)) emulate::yield();
    }
}
DEVICE void copy_box(u32 to, const TensorMap* map, u32 barrier, i32 x, i32 y, i32 z, i32 w) {
    emulate::Box box{to, barrier, {}, {x, y, z, w}};
    memcpy(box.map, map, 128);
    if (emulate::early_copies) emulate::land(box);
    else emulate::boxes.push_back(box), emulate::progress++;
}
