// Causal attention of prompt chunks over a paged KV cache, for Hopper: the same results as attention_prefill.cu.
//
// FlashAttention-3's arrangement (arXiv 2407.08608, sections 3.1 and 3.2): one warpgroup only copies, by bulk copies of
// whole pages into two stages; two warpgroups of 64 queries each multiply. While the tensor cores do the scores of tile
// j + 1 and the output of tile j, the softmax of j + 1 follows as soon as its scores are there.
//
// Past a sequence's end its last page must hold finite numbers: their weights are zero, but they are multiplied.
#include "common.cuh"
#include "hopper.cuh"

const u32 QUERIES = 128;
const u32 STAGES = 2;
const u32 WARPGROUP = 128;
const u32 ROW_BYTES = 128;

struct Shape {
    u32 heads, kv_heads;
    u32 query_stride, page_bits, pages;
    // Keys that a query sees, itself included; 0 for all.
    u32 window;
    // Softmax scale times log2(e).
    float scale;
};
struct Tile {
    i32 sequence, first;
};

#ifdef HAS_HOPPER

DEVICE u32 swizzled(u32 row, u32 chunk) { return row * ROW_BYTES + ((chunk ^ (row & 7)) << 4); }

// As in attention_prefill.cu; `keys` and `values` are maps of [pages, page, kv_heads, width] with boxes of one page and
// 64 columns of one head. Tiles lie in shared memory as slabs of 64 columns: [slab][row][128 bytes].
template <u32 QK, u32 V, u32 KEYS, bool WINDOW>
DEVICE void prefill(u16* out, const u16* query, const TensorMap* keys, const TensorMap* values, const i32* page_table,
                    const i32* starts, const i32* contexts, const Tile* tiles, Shape shape) {
    const u32 KEY_BYTES = KEYS * QK * 2, VALUE_BYTES = KEYS * V * 2, SLAB = KEYS * ROW_BYTES, QUERY_SLAB = QUERIES * ROW_BYTES;
    const u32 KEYS_AT = QUERIES * QK * 2, VALUES_AT = KEYS_AT + STAGES * KEY_BYTES, BARRIERS_AT = VALUES_AT + STAGES * VALUE_BYTES;
    DYNAMIC_SHARED(shared);
    u32 base = shared_address(shared), warpgroup = threadIdx.x / WARPGROUP, thread = threadIdx.x % WARPGROUP;
    // Full and empty barriers of the stages of keys, then of values.
    auto full_keys = [&](u32 stage) { return base + BARRIERS_AT + stage * 8; };
    auto empty_keys = [&](u32 stage) { return base + BARRIERS_AT + (STAGES + stage) * 8; };
    auto full_values = [&](u32 stage) { return base + BARRIERS_AT + (2 * STAGES + stage) * 8; };
    auto empty_values = [&](u32 stage) { return base + BARRIERS_AT + (3 * STAGES + stage) * 8; };
    if (threadIdx.x == 0) {
        for (u32 stage = 0; stage < STAGES; stage++) {
            barrier_init(full_keys(stage), 1), barrier_init(full_values(stage), 1);
            // One arrival of each multiplying warp.
            barrier_init(empty_keys(stage), 8), barrier_init(empty_values(stage), 8);
        }
        barrier_init_fence();
    }
    __syncthreads();

    u32 head = blockIdx.x, kv_head = head / (shape.heads / shape.kv_heads);
    Tile tile = tiles[blockIdx.y];
    u32 start = (u32)starts[tile.sequence], count = (u32)starts[tile.sequence + 1] - start;
    u32 context = (u32)contexts[tile.sequence], first = (u32)tile.first;
    // Tiles are counted from the one with the first key that the tile's first query sees.
    u32 first_tile = WINDOW && context + first >= shape.window ? (context + first - shape.window + 1) / KEYS : 0;
    u32 length = context + min(count, first + QUERIES), tile_count = (length + KEYS - 1) / KEYS - first_tile;

    if (warpgroup == 0) {
        fewer_registers<24>();
        if (thread == 0) {
            const i32* table = page_table + (u64)tile.sequence * shape.pages;
            u32 page = 1u << shape.page_bits, per_tile = KEYS >> shape.page_bits, last_page = (length - 1) >> shape.page_bits;
            for (u32 number = 0; number < tile_count; number++) {
                u32 stage = number % STAGES, parity = (number / STAGES + 1) % 2;
                barrier_wait(empty_keys(stage), parity);
                barrier_expect(full_keys(stage), KEY_BYTES);
                for (u32 i = 0; i < per_tile; i++) {
                    i32 entry = table[min((first_tile + number) * per_tile + i, last_page)];
                    for (u32 slab = 0; slab < QK / 64; slab++)
                        copy_box(base + KEYS_AT + stage * KEY_BYTES + slab * SLAB + i * page * ROW_BYTES, keys, full_keys(stage),
                                 (i32)slab * 64, (i32)kv_head, 0, entry);
                }
                barrier_wait(empty_values(stage), parity);
                barrier_expect(full_values(stage), VALUE_BYTES);
                for (u32 i = 0; i < per_tile; i++) {
                    i32 entry = table[min((first_tile + number) * per_tile + i, last_page)];
                    for (u32 slab = 0; slab < V / 64; slab++)
                        copy_box(base + VALUES_AT + stage * VALUE_BYTES + slab * SLAB + i * page * ROW_BYTES, values,
                                 full_values(stage), (i32)slab * 64, (i32)kv_head, 0, entry);
                }
            }
        }
    } else {
        more_registers<240>();
        u32 group = warpgroup - 1, lane = thread % 32, warp = thread / 32;
        // This warpgroup's 64 queries, swizzled as the matrix instruction reads them.
        for (u32 work = thread; work < 64 * QK / 8; work += WARPGROUP) {
            u32 row = group * 64 + work / (QK / 8), chunk = work % (QK / 8);
            uint4 eight = {0, 0, 0, 0};
            if (first + row < count) eight = *(const uint4*)(query + (u64)(start + first + row) * shape.query_stride + head * QK + chunk * 8);
            *(uint4*)(shared + chunk / 8 * QUERY_SLAB + swizzled(row, chunk % 8)) = eight;
        }
        fence_async();
        group_barrier(warpgroup, WARPGROUP);

        float s[KEYS / 2], o[V / 2], most[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, sums[2] = {0.0f, 0.0f}, shrink[2];
        u32 p[KEYS / 16][4];
#pragma unroll
        for (u32 i = 0; i < V / 2; i++) o[i] = 0.0f;
        u32 own_row = first + group * 64 + warp * 16 + lane / 4;

        auto scores = [&](u32 stage) {
#pragma unroll
            for (u32 step = 0; step < QK / 16; step++) {
                u32 left = base + step / 4 * QUERY_SLAB + group * 64 * ROW_BYTES + step % 4 * 32;
                u32 right = base + KEYS_AT + stage * KEY_BYTES + step / 4 * SLAB + step % 4 * 32;
                wgmma_shared<KEYS>(s, operand(left, 16, 1024), operand(right, 16, 1024), step > 0);
            }
            wgmma_commit();
        };
        auto outputs = [&](u32 stage) {
#pragma unroll
            for (u32 step = 0; step < KEYS / 16; step++) {
                u32 right = base + VALUES_AT + stage * VALUE_BYTES + step * 16 * ROW_BYTES;
                wgmma_registers<V>(o, p[step], operand(right, SLAB, 1024));
            }
            wgmma_commit();
        };
        // Weights of tile `number` in place of its scores; what older sums shrink by.
        auto softmax = [&](u32 counted) {
            u32 number = first_tile + counted;
            if (WINDOW && number * KEYS + shape.window <= context + first + group * 64 + warp * 16 + 15) {
#pragma unroll
                for (u32 i = 0; i < KEYS / 2; i++) {
                    u32 key = number * KEYS + i / 4 * 8 + lane % 4 * 2 + i % 2;
                    if (key + shape.window <= context + own_row + 8 * (i % 4 / 2)) s[i] = NEGATIVE_INFINITY;
                }
            }
            if (number * KEYS + KEYS > context + first + group * 64 + warp * 16) {
#pragma unroll
                for (u32 i = 0; i < KEYS / 2; i++) {
                    u32 key = number * KEYS + i / 4 * 8 + lane % 4 * 2 + i % 2;
                    if (key > context + own_row + 8 * (i % 4 / 2)) s[i] = NEGATIVE_INFINITY;
                }
            }
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float top = most[half];
#pragma unroll
                for (u32 i = 0; i < KEYS / 8; i++) top = fmaxf(top, fmaxf(s[4 * i + 2 * half], s[4 * i + 2 * half + 1]));
                top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
                top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
                shrink[half] = exp2_fast((most[half] - top) * shape.scale);
                most[half] = top;
                // A row may see no key of its first tiles. Then the scaled maximum must not be subtracted: fused, the
                // difference is the rounding of a huge product, and its power of two may be infinite.
                float scaled = WINDOW && top <= NEGATIVE_INFINITY ? 0.0f : top * shape.scale, sum = 0.0f;
#pragma unroll
                for (u32 i = 0; i < KEYS / 8; i++) {
                    s[4 * i + 2 * half] = exp2_fast(s[4 * i + 2 * half] * shape.scale - scaled);
                    s[4 * i + 2 * half + 1] = exp2_fast(s[4 * i + 2 * half + 1] * shape.scale - scaled);
                    sum += s[4 * i + 2 * half] + s[4 * i + 2 * half + 1];
                }
                sums[half] = sums[half] * shrink[half] + sum;
            }
        };
        auto round_weights = [&]() {
#pragma unroll
            for (u32 step = 0; step < KEYS / 16; step++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) p[step][i] = pack_bf16(s[step * 8 + 2 * i], s[step * 8 + 2 * i + 1]);
        };

        barrier_wait(full_keys(0), 0);
        wgmma_fence();
        scores(0);
        wgmma_wait<0>();
        pin(s);
        if (lane == 0) barrier_arrive(empty_keys(0));
        softmax(0);
        round_weights();
        for (u32 number = 1; number < tile_count; number++) {
            u32 stage = number % STAGES, before = (number - 1) % STAGES;
            barrier_wait(full_keys(stage), number / STAGES % 2);
            pin(s), pin(o);
            wgmma_fence();
            scores(stage);
            barrier_wait(full_values(before), (number - 1) / STAGES % 2);
            wgmma_fence();
            outputs(before);
            wgmma_wait<1>();
            pin(s);
            if (lane == 0) barrier_arrive(empty_keys(stage));
            softmax(number);
            // The assembler would move the softmax behind the wait; a store that needs its sums keeps it before, where it
            // overlaps with the outputs of the tile before.
            store_in_order(base + BARRIERS_AT + 64 + (threadIdx.x - WARPGROUP) * 4, sums[0] + sums[1]);
            wgmma_wait<0>();
            pin(o);
            if (lane == 0) barrier_arrive(empty_values(before));
#pragma unroll
            for (u32 i = 0; i < V / 2; i++) o[i] *= shrink[i % 4 / 2];
            round_weights();
        }
        u32 last = (tile_count - 1) % STAGES;
        barrier_wait(full_values(last), (tile_count - 1) / STAGES % 2);
        pin(o);
        wgmma_fence();
        outputs(last);
        wgmma_wait<0>();
        pin(o);

#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            sums[half] += __shfl_xor_sync(FULL_WARP, sums[half], 1);
            sums[half] += __shfl_xor_sync(FULL_WARP, sums[half], 2);
            u32 row = own_row + 8 * half;
            if (row >= count) continue;
            u64 at = ((u64)(start + row) * shape.heads + head) * V;
            float by = 1.0f / sums[half];
#pragma unroll
            for (u32 i = 0; i < V / 8; i++)
                *(u32*)(out + at + i * 8 + lane % 4 * 2) = pack_bf16(o[4 * i + 2 * half] * by, o[4 * i + 2 * half + 1] * by);
        }
    }
}
#define PREFILL_BODY(qk, v, keys_per_tile, window) \
    prefill<qk, v, keys_per_tile, window>(out, query, &keys, &values, page_table, starts, contexts, tiles, shape)
#else
#define PREFILL_BODY(qk, v, keys_per_tile, window) asm volatile("trap;")
#endif

#define PREFILL(name, qk, v, keys_per_tile, window)                                                                            \
    extern "C" __global__ void __launch_bounds__(384, 1)                                                                \
    name(u16* out, const u16* query, const __grid_constant__ TensorMap keys, const __grid_constant__ TensorMap values,  \
         const i32* page_table, const i32* starts, const i32* contexts, const Tile* tiles, Shape shape) {               \
        PREFILL_BODY(qk, v, keys_per_tile, window);                                                                     \
    }                                                                                                                   \
    KERNEL_ENTRY(name)

PREFILL(hopper_prefill_64_64, 64, 64, 128, false)
PREFILL(hopper_prefill_128_128, 128, 128, 128, false)
PREFILL(hopper_prefill_192_128, 192, 128, 128, false)
PREFILL(hopper_prefill_256_256, 256, 256, 64, false)
PREFILL(hopper_window_64_64, 64, 64, 128, true)
PREFILL(hopper_window_128_128, 128, 128, 128, true)
PREFILL(hopper_window_256_256, 256, 256, 64, true)
