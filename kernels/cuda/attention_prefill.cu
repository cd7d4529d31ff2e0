// Causal attention of prompt chunks over a paged KV cache: chunks of different lengths, each after some context, groups
// of query heads per KV head. For GPUs from Ampere on; attention_prefill_hopper.cu is the one for Hopper.
//
// The scheme is FlashAttention-2's (arXiv 2307.08691): a block of eight warps takes 128 queries of one head, 16 per
// warp, and walks the keys with a running maximum and sum; keys and values arrive by asynchronous copies one tile ahead.
#include "common.cuh"

const u32 QUERIES = 128;

struct Shape {
    u32 heads, kv_heads;
    // Elements from one token's queries to the next's; log2 of the tokens of a page, pages of a row of the page table.
    u32 query_stride, page_bits, pages;
    // Keys that a query sees, itself included; 0 for all.
    u32 window;
    // Softmax scale times log2(e).
    float scale;
};
// What one block does: queries `first .. first + QUERIES` of the chunk, counted within it.
struct Tile {
    i32 sequence, first;
};

DEVICE u32 swizzled(u32 row, u32 chunk, u32 row_bytes) { return row * row_bytes + ((chunk ^ (row & 7)) << 4); }

// `query`: [tokens, heads, QK], `out`: [tokens, heads, V]; chunk `s` has tokens `starts[s] .. starts[s + 1]`, after
// `contexts[s]` cached ones. `keys`: [pages, page, kv_heads, QK], `values`: [pages, page, kv_heads, V], which hold the
// chunk's own tokens too. bfloat16. grid: (heads, tiles); long tiles first.
template <u32 QK, u32 V, u32 KEYS>
DEVICE void prefill(u16* out, const u16* query, const u8* keys, const u8* values, const i32* page_table, const i32* starts,
                    const i32* contexts, const Tile* tiles, Shape shape) {
    const u32 QK_BYTES = 2 * QK, V_BYTES = 2 * V, STAGE_BYTES = KEYS * (QK_BYTES + V_BYTES);
    const u32 THREADS = 256;
    DYNAMIC_SHARED(shared);
    u32 base = shared_address(shared), stages = base + QUERIES * QK_BYTES;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 head = blockIdx.x, kv_head = head / (shape.heads / shape.kv_heads);
    Tile tile = tiles[blockIdx.y];
    u32 start = (u32)starts[tile.sequence], count = (u32)starts[tile.sequence + 1] - start;
    u32 context = (u32)contexts[tile.sequence], first = (u32)tile.first;
    const i32* table = page_table + (u64)tile.sequence * shape.pages;
    // Keys that the tile's last query sees.
    u32 length = context + min(count, first + QUERIES), tile_count = (length + KEYS - 1) / KEYS;
    // The tile with the first key that the tile's first query sees.
    u32 first_tile = shape.window && context + first >= shape.window ? (context + first - shape.window + 1) / KEYS : 0;

    for (u32 work = threadIdx.x; work < QUERIES * QK / 8; work += THREADS) {
        u32 row = work / (QK / 8), chunk = work % (QK / 8);
        bool valid = first + row < count;
        u64 from = (u64)(start + (valid ? first + row : 0)) * shape.query_stride + head * QK + chunk * 8;
        copy_async_16(base + swizzled(row, chunk, QK_BYTES), query + from, valid);
    }
    auto fetch = [&](u32 number) {
        if (number < tile_count) {
            u32 stage = stages + number % 2 * STAGE_BYTES;
            const u32 PER_ROW = (QK + V) / 8;
            for (u32 work = threadIdx.x; work < KEYS * PER_ROW; work += THREADS) {
                u32 row = work / PER_ROW, chunk = work % PER_ROW, key = number * KEYS + row;
                bool valid = key < length;
                u32 known = valid ? key : 0;
                u64 place = ((u64)table[known >> shape.page_bits] << shape.page_bits) + (known & ((1u << shape.page_bits) - 1));
                place = place * shape.kv_heads + kv_head;
                if (chunk < QK / 8) copy_async_16(stage + swizzled(row, chunk, QK_BYTES), keys + place * QK_BYTES + chunk * 16, valid);
                else copy_async_16(stage + KEYS * QK_BYTES + swizzled(row, chunk - QK / 8, V_BYTES), values + place * V_BYTES + (chunk - QK / 8) * 16, valid);
            }
        }
        copy_async_commit();
    };
    fetch(first_tile);

    float o[V / 8][4], most[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (u32 n = 0; n < V / 8; n++)
        for (u32 i = 0; i < 4; i++) o[n][i] = 0.0f;
    u32 own_row = first + warp * 16 + lane / 4;

    for (u32 number = first_tile; number < tile_count; number++) {
        fetch(number + 1);
        copy_async_wait<1>();
        __syncthreads();
        u32 stage = stages + number % 2 * STAGE_BYTES;

        float s[KEYS / 8][4] = {};
#pragma unroll
        for (u32 step = 0; step < QK / 16; step++) {
            u32 a[4];
            load_matrices(a, base + swizzled(warp * 16 + lane % 16, step * 2 + lane / 16, QK_BYTES));
#pragma unroll
            for (u32 pair = 0; pair < KEYS / 16; pair++) {
                u32 b[4];
                load_matrices(b, stage + swizzled(pair * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2, QK_BYTES));
                mma_bf16(s[pair * 2], a, b[0], b[1]);
                mma_bf16(s[pair * 2 + 1], a, b[2], b[3]);
            }
        }

        // Query `own_row` sees keys up to context + own_row, and of those the last `window`.
        if (shape.window && number * KEYS + shape.window <= context + first + warp * 16 + 15) {
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    u32 key = number * KEYS + n * 8 + lane % 4 * 2 + i % 2;
                    if (key + shape.window <= context + own_row + 8 * (i / 2)) s[n][i] = NEGATIVE_INFINITY;
                }
        }
        if (number * KEYS + KEYS > context + first + warp * 16) {
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    u32 key = number * KEYS + n * 8 + lane % 4 * 2 + i % 2;
                    if (key > context + own_row + 8 * (i / 2)) s[n][i] = NEGATIVE_INFINITY;
                }
        }
        float scaled[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float top = most[half];
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; n++) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
            top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
            float shrink = exp2_fast((most[half] - top) * shape.scale);
            // A row may see no key of its first tiles in the window. Then the scaled maximum must not be subtracted: fused,
            // the difference is the rounding of a huge product, and its power of two may be infinite.
            most[half] = top, scaled[half] = top <= NEGATIVE_INFINITY ? 0.0f : top * shape.scale;
            sums[half] *= shrink;
#pragma unroll
            for (u32 n = 0; n < V / 8; n++) o[n][2 * half] *= shrink, o[n][2 * half + 1] *= shrink;
        }
#pragma unroll
        for (u32 n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                s[n][i] = exp2_fast(s[n][i] * shape.scale - scaled[i / 2]);
                sums[i / 2] += s[n][i];
            }

#pragma unroll
        for (u32 step = 0; step < KEYS / 16; step++) {
            float* low = s[2 * step];
            float* high = s[2 * step + 1];
            u32 p[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]), pack_bf16(high[2], high[3])};
#pragma unroll
            for (u32 pair = 0; pair < V / 16; pair++) {
                u32 v[4];
                load_matrices_transposed(v, stage + KEYS * QK_BYTES + swizzled(step * 16 + lane % 16, pair * 2 + lane / 16, V_BYTES));
                mma_bf16(o[pair * 2], p, v[0], v[1]);
                mma_bf16(o[pair * 2 + 1], p, v[2], v[3]);
            }
        }
        __syncthreads();
    }
    copy_async_wait<0>();

#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        sums[half] += __shfl_xor_sync(FULL_WARP, sums[half], 1);
        sums[half] += __shfl_xor_sync(FULL_WARP, sums[half], 2);
        u32 row = own_row + 8 * half;
        if (row >= count) continue;
        u64 at = ((u64)(start + row) * shape.heads + head) * V;
#pragma unroll
        for (u32 n = 0; n < V / 8; n++)
            *(u32*)(out + at + n * 8 + lane % 4 * 2) = pack_bf16(o[n][2 * half] / sums[half], o[n][2 * half + 1] / sums[half]);
    }
}

#define PREFILL(name, qk, v, keys_per_tile)                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                   \
    name(u16* out, const u16* query, const u8* keys, const u8* values, const i32* page_table, const i32* starts,        \
         const i32* contexts, const Tile* tiles, Shape shape) {                                                         \
        prefill<qk, v, keys_per_tile>(out, query, keys, values, page_table, starts, contexts, tiles, shape);            \
    }                                                                                                                   \
    KERNEL_ENTRY(name)

PREFILL(prefill_64_64, 64, 64, 64)
PREFILL(prefill_128_128, 128, 128, 64)
PREFILL(prefill_192_128, 192, 128, 64)
PREFILL(prefill_256_256, 256, 256, 32)
