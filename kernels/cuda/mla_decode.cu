// Decode of multi-head latent attention with absorbed projections: every head's query of 512 + 64 attends over one
// cached vector of 512 + 64 per token, whose first 512 are the values (DeepSeek-V2, arXiv 2405.04434, section 2.1).
//
// A block of eight warps takes 16 x WARPS_M heads and walks tiles of 64 keys. Scores are shared between warps through
// shared memory, since each warp needs all keys' weights for its slice of the 512 output columns.
//
// A cache of 8-bit floats (e4m3, one scale for the whole tensor) is expanded in registers, right before the products, to
// 16-bit floats, which hold every e4m3 exactly; queries and weights are 16-bit floats too. At 4.8 TB/s and 132
// multiprocessors a tile of 36 KiB arrives every 2000 cycles at 2 GHz. Of those a block with 16 heads needs about 1000 for
// the 120 KiB that it passes through shared memory per tile, 1200 to issue the 600 instructions of each warp, and 550 of
// the units that convert, so it stays bound by memory; but only as long as the queries stay in registers, since eight
// warps would load another 144 KiB of them per tile. An expanded copy of the tile in shared memory would pass 300 KiB.
// Products of e4m3 would need the weights in 8 bits as well, and with them 3 % of error, where products are no bound.
#include "common.cuh"

const u32 WIDTH = 576;
const u32 LATENT = 512;
const u32 KEYS = 64;
const u32 QUERY_BYTES = WIDTH * 2;
const u32 WEIGHT_BYTES = KEYS * 2;
// The same for both kinds of cache: two tiles of 16 bits, or four of 8.
const u32 RING_BYTES = 2 * KEYS * WIDTH * 2;

struct Shape {
    u32 heads, page_bits, pages, part_keys, parts;
    // Softmax scale times log2(e), and the cache's scale in both: 1 for a cache of 16 bits.
    float scale, value_scale;
};

DEVICE u32 swizzled(u32 row, u32 chunk, u32 row_bytes) { return row * row_bytes + ((chunk ^ (row & 7)) << 4); }
// The same for a row of the cache. Rows of 576 bytes begin at two places within 128, so that eight rows take four turns.
template <bool EIGHT_BIT> DEVICE u32 cached(u32 row, u32 chunk) {
    return EIGHT_BIT ? row * WIDTH + ((chunk ^ (row / 2 & 3)) << 4) : swizzled(row, chunk, 2 * WIDTH);
}

// The queries of a block to shared memory as 16-bit floats for a cache of 8 bits: of 64 columns a lane has 16 neighbouring
// ones of a key, four for each product, so the queries' columns are permuted alike.
template <u32 ROWS> DEVICE void permuted_queries(u8* to, const u16* query, u32 rows) {
    for (u32 work = threadIdx.x; work < ROWS * WIDTH / 16; work += blockDim.x) {
        u32 row = work / (WIDTH / 16), columns = work % (WIDTH / 16);
        uint4 halves[2] = {};
        if (row < rows)
            for (u32 i = 0; i < 2; i++) halves[i] = *(const uint4*)(query + (u64)row * WIDTH + columns * 16 + i * 8);
        u32 pairs[8] = {halves[0].x, halves[0].y, halves[0].z, halves[0].w, halves[1].x, halves[1].y, halves[1].z, halves[1].w};
        for (u32 i = 0; i < 8; i++)
            *(u32*)(to + swizzled(row, columns / 4 * 8 + i, QUERY_BYTES) + columns % 4 * 4) =
                pack_f16(bf16_low(pairs[i]), bf16_high(pairs[i]));
    }
}

// `query`: [sequences, heads, 576], `out`: [sequences, heads, 512], bfloat16; `cache`: [pages, page, 576] of 16 or 8 bits.
// grid: (parts, tiles of 16 WARPS_M heads, sequences).
template <u32 WARPS_M, bool EIGHT_BIT>
DEVICE void mla_part(u16* out, float* part_out, float* part_log, const u16* query, const u8* cache, const i32* page_table,
                     const i32* lengths, Shape shape) {
    const u32 WARPS_N = 8 / WARPS_M, ROWS = 16 * WARPS_M;
    // Score columns of a warp and output columns of a warp, in blocks of 8.
    const u32 SCORES = WARPS_M, OUTPUTS = 8 * WARPS_M;
    const u32 ROW_BYTES = EIGHT_BIT ? WIDTH : 2 * WIDTH, TILE_BYTES = KEYS * ROW_BYTES;
    const u32 STAGES = RING_BYTES / TILE_BYTES;
    // Lanes that copy a row together: as many chunks as a swizzle permutes, so that a lane finds its place once per row.
    const u32 LANES = EIGHT_BIT ? 4 : 8;
    // Whether the queries stay in registers for the whole loop.
    const bool HOLDS_QUERIES = EIGHT_BIT && WARPS_M == 1;
    DYNAMIC_SHARED(shared);
    const u32 QUERY_AT = RING_BYTES, WEIGHTS_AT = QUERY_AT + ROWS * QUERY_BYTES;
    float* tops = (float*)(shared + WEIGHTS_AT + ROWS * WEIGHT_BYTES);
    u32 base = shared_address(shared);
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / WARPS_N, warp_n = warp % WARPS_N;
    u32 part = blockIdx.x, first_head = blockIdx.y * ROWS, sequence = blockIdx.z;
    u32 length = (u32)lengths[sequence], begin = part * shape.part_keys, end = min(length, begin + shape.part_keys);
    u32 rows = min(ROWS, shape.heads - first_head);
    if (begin >= end) {
        if (shape.parts > 1)
            for (u32 i = threadIdx.x; i < rows; i += blockDim.x)
                part_log[((u64)sequence * shape.heads + first_head + i) * shape.parts + part] = NEGATIVE_INFINITY;
        return;
    }
    const i32* table = page_table + (u64)sequence * shape.pages;
    const u16* queries = query + ((u64)sequence * shape.heads + first_head) * WIDTH;
    if (EIGHT_BIT) {
        permuted_queries<ROWS>(shared + QUERY_AT, queries, rows);
    } else {
        for (u32 work = threadIdx.x; work < ROWS * QUERY_BYTES / 16; work += blockDim.x) {
            u32 row = work / (QUERY_BYTES / 16), chunk = work % (QUERY_BYTES / 16);
            bool valid = row < rows;
            copy_async_16(base + QUERY_AT + swizzled(row, chunk, QUERY_BYTES), queries + (valid ? row : 0) * WIDTH + chunk * 8, valid);
        }
    }
    u32 tiles = (end - begin + KEYS - 1) / KEYS;
    auto fetch = [&](u32 number) {
        if (number < tiles) {
            u32 stage = base + number % STAGES * TILE_BYTES;
#pragma unroll
            for (u32 group = 0; group < LANES / 4; group++) {
                u32 row = (warp * LANES / 4 + group) * (32 / LANES) + lane / LANES, key = begin + number * KEYS + row;
                bool valid = key < end;
                u32 known = valid ? key : begin;
                u64 place = ((u64)table[known >> shape.page_bits] << shape.page_bits) + (known & ((1u << shape.page_bits) - 1));
                const u8* from = cache + place * ROW_BYTES + lane % LANES * 16;
                u32 to = stage + cached<EIGHT_BIT>(row, lane % LANES);
#pragma unroll
                for (u32 i = 0; i < ROW_BYTES; i += LANES * 16) copy_async_16(to + i, from + i, valid);
            }
        }
        copy_async_commit();
    };
    for (u32 number = 0; number < STAGES - 1; number++) fetch(number);

    // Left operands of the products for the scores: of step `step` of 16 columns.
    auto left = [&](u32 (&a)[4], u32 step) {
        load_matrices(a, base + QUERY_AT + swizzled(warp_m * 16 + lane % 16, step * 2 + lane / 16, QUERY_BYTES));
    };
    u32 q[HOLDS_QUERIES ? WIDTH / 16 : 1][4];
    if (HOLDS_QUERIES) {
        __syncthreads();
#pragma unroll
        for (u32 step = 0; step < WIDTH / 16; step++) left(q[HOLDS_QUERIES ? step : 0], step);
    }

    float o[OUTPUTS][4], most[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (u32 n = 0; n < OUTPUTS; n++)
        for (u32 i = 0; i < 4; i++) o[n][i] = 0.0f;

    for (u32 number = 0; number < tiles; number++) {
        // The next tile's copy starts now: its buffer was last read before the barrier that ended the previous turn.
        fetch(number + STAGES - 1);
        copy_async_wait<STAGES - 1>();
        __syncthreads();
        u32 stage_at = number % STAGES * TILE_BYTES, stage = base + stage_at;

        // With one block of scores per warp, two sums keep the matrix units busier than one chain.
        float s[SCORES][4] = {}, odd[SCORES][4] = {};
        if (EIGHT_BIT) {
#pragma unroll (HOLDS_QUERIES ? WIDTH / 64 : 1)
            for (u32 quarter = 0; quarter < WIDTH / 64; quarter++) {
                u32 a[4][4];
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    if (!HOLDS_QUERIES) left(a[i], quarter * 4 + i);
                    for (u32 j = 0; HOLDS_QUERIES && j < 4; j++) a[i][j] = q[HOLDS_QUERIES ? quarter * 4 + i : 0][j];
                }
#pragma unroll
                for (u32 n = 0; n < SCORES; n++) {
                    u32 key = (warp_n * SCORES + n) * 8 + lane / 4;
                    uint4 bytes = *(const uint4*)(shared + stage_at + cached<EIGHT_BIT>(key, quarter * 4 + lane % 4));
                    u32 words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
#pragma unroll
                    for (u32 i = 0; i < 4; i++)
                        mma_f16(SCORES == 1 && i % 2 ? odd[n] : s[n], a[i], e4m3x2_to_f16x2(words[i] & 0xffffu),
                                e4m3x2_to_f16x2(words[i] >> 16));
                }
            }
        } else {
#pragma unroll 2
            for (u32 step = 0; step < WIDTH / 32; step++) {
                u32 a[2][4];
#pragma unroll
                for (u32 i = 0; i < 2; i++) left(a[i], step * 2 + i);
#pragma unroll
                for (u32 n = 0; n < SCORES; n++) {
                    u32 b[4];
                    load_matrices(b, stage + cached<EIGHT_BIT>((warp_n * SCORES + n) * 8 + lane % 8, step * 4 + lane / 8));
                    mma_bf16(s[n], a[0], b[0], b[1]);
                    mma_bf16(SCORES == 1 ? odd[n] : s[n], a[1], b[2], b[3]);
                }
            }
        }
        if (SCORES == 1)
            for (u32 i = 0; i < 4; i++) s[0][i] += odd[0][i];

        // Largest score of each row over all warps that share it.
        float top[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY};
#pragma unroll
        for (u32 n = 0; n < SCORES; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 key = begin + number * KEYS + (warp_n * SCORES + n) * 8 + lane % 4 * 2 + i % 2;
                s[n][i] = key < end ? s[n][i] * shape.scale : NEGATIVE_INFINITY;
                top[i / 2] = fmaxf(top[i / 2], s[n][i]);
            }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            top[half] = fmaxf(top[half], __shfl_xor_sync(FULL_WARP, top[half], 1));
            top[half] = fmaxf(top[half], __shfl_xor_sync(FULL_WARP, top[half], 2));
            if (lane % 4 == 0) tops[(warp_m * 16 + lane / 4 + 8 * half) * WARPS_N + warp_n] = top[half];
        }
        __syncthreads();
        float shrink[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            top[half] = most[half];
            for (u32 i = 0; i < WARPS_N; i++) top[half] = fmaxf(top[half], tops[(warp_m * 16 + lane / 4 + 8 * half) * WARPS_N + i]);
            shrink[half] = exp2_fast(most[half] - top[half]);
            sums[half] *= shrink[half];
            most[half] = top[half];
        }
#pragma unroll
        for (u32 n = 0; n < SCORES; n++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float low = exp2_fast(s[n][2 * half] - most[half]), high = exp2_fast(s[n][2 * half + 1] - most[half]);
                sums[half] += low + high;
                u32 row = warp_m * 16 + lane / 4 + 8 * half;
                *(u32*)(shared + WEIGHTS_AT + swizzled(row, warp_n * SCORES + n, WEIGHT_BYTES) + lane % 4 * 4) =
                    EIGHT_BIT ? pack_f16(low, high) : pack_bf16(low, high);
            }
        if (__any_sync(FULL_WARP, shrink[0] < 1.0f || shrink[1] < 1.0f)) {
#pragma unroll
            for (u32 n = 0; n < OUTPUTS; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) o[n][i] *= shrink[i / 2];
        }
        __syncthreads();

        // Weights [16, 64 keys] times this warp's slice of the values.
#pragma unroll
        for (u32 step = 0; step < KEYS / 16; step++) {
            u32 p[4];
            load_matrices(p, base + WEIGHTS_AT + swizzled(warp_m * 16 + lane % 16, step * 2 + lane / 16, WEIGHT_BYTES));
            if (EIGHT_BIT) {
                // 16-bit units of the transposed load are pairs of columns: one product takes the even ones, one the odd.
#pragma unroll
                for (u32 pair = 0; pair < OUTPUTS / 4; pair++) {
                    u32 v[4];
                    u32 chunk = warp_n * OUTPUTS / 2 + pair * 2 + lane / 16;
                    load_matrices_transposed(v, stage + cached<EIGHT_BIT>(step * 16 + lane % 16, chunk));
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        u32 low = v[2 * i], high = v[2 * i + 1];
                        mma_f16(o[pair * 4 + 2 * i], p, e4m3x2_to_f16x2(permute_bytes(low, low, 0x0020)),
                                e4m3x2_to_f16x2(permute_bytes(high, high, 0x0020)));
                        mma_f16(o[pair * 4 + 2 * i + 1], p, e4m3x2_to_f16x2(permute_bytes(low, low, 0x0031)),
                                e4m3x2_to_f16x2(permute_bytes(high, high, 0x0031)));
                    }
                }
            } else {
#pragma unroll
                for (u32 pair = 0; pair < OUTPUTS / 2; pair++) {
                    u32 v[4];
                    u32 chunk = warp_n * OUTPUTS + pair * 2 + lane / 16;
                    load_matrices_transposed(v, stage + cached<EIGHT_BIT>(step * 16 + lane % 16, chunk));
                    mma_bf16(o[pair * 2], p, v[0], v[1]);
                    mma_bf16(o[pair * 2 + 1], p, v[2], v[3]);
                }
            }
        }
        __syncthreads();
    }

    // Each warp holds the sums of its own keys: add the warps that share a row.
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        sums[half] += __shfl_xor_sync(FULL_WARP, sums[half], 1);
        sums[half] += __shfl_xor_sync(FULL_WARP, sums[half], 2);
        if (lane % 4 == 0) tops[(warp_m * 16 + lane / 4 + 8 * half) * WARPS_N + warp_n] = sums[half];
    }
    __syncthreads();
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 row = warp_m * 16 + lane / 4 + 8 * half;
        float total = 0.0f;
        for (u32 i = 0; i < WARPS_N; i++) total += tops[row * WARPS_N + i];
        if (row >= rows) continue;
        float by = shape.value_scale / total;
        u64 head = (u64)sequence * shape.heads + first_head + row, at = head * shape.parts + part;
        if (shape.parts > 1 && warp_n == 0 && lane % 4 == 0) part_log[at] = most[half] + log2f(total);
#pragma unroll
        for (u32 n = 0; n < OUTPUTS; n++) {
            // Of 16 columns of an 8-bit cache a lane has four neighbours, the even ones in one product, the odd in the next.
            u32 column = EIGHT_BIT ? (warp_n * OUTPUTS / 2 + n / 2) * 16 + lane % 4 * 4 + n % 2 * 2 : (warp_n * OUTPUTS + n) * 8 + lane % 4 * 2;
            float low = EIGHT_BIT ? o[n / 2 * 2][2 * half + n % 2] : o[n][2 * half];
            float high = EIGHT_BIT ? o[n / 2 * 2 + 1][2 * half + n % 2] : o[n][2 * half + 1];
            low *= by, high *= by;
            if (shape.parts == 1) *(u32*)(out + head * LATENT + column) = pack_bf16(low, high);
            else *(float2*)(part_out + at * LATENT + column) = float2{low, high};
        }
    }
}

#define MLA(name, warps_m, eight_bit)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                                \
    name(u16* out, float* part_out, float* part_log, const u16* query, const u8* cache, const i32* page_table,          \
         const i32* lengths, Shape shape) {                                                                             \
        mla_part<warps_m, eight_bit>(out, part_out, part_log, query, cache, page_table, lengths, shape);                \
    }                                                                                                                   \
    KERNEL_ENTRY(name)

MLA(mla_decode_bf16_16, 1, false)
MLA(mla_decode_bf16_32, 2, false)
MLA(mla_decode_bf16_64, 4, false)
MLA(mla_decode_e4m3_16, 1, true)
MLA(mla_decode_e4m3_32, 2, true)
MLA(mla_decode_e4m3_64, 4, true)
