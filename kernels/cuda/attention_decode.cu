// Attention of one new token per sequence over a paged KV cache, split over the keys; a second kernel merges the parts.
//
// A block has four warps and the queries of one KV head (up to 16, the rows of a matrix instruction). Each warp walks
// its own tiles of 16 keys with its own ring of asynchronous copies, running maximum and sums: no barrier in the loop.
// The warps' parts are merged in shared memory at the end.
#include "common.cuh"

const u32 WARPS = 4;
const u32 KEYS = 16;
const u32 ROWS = 16;

struct Shape {
    // Elements from one sequence's queries to the next's: heads x DIM, or more where keys and values lie between.
    u32 heads, kv_heads, query_stride;
    // log2 of the tokens of a page, pages of a row of the page table.
    u32 page_bits, pages;
    // Keys per part, a multiple of 64; parts of the longest sequence; last keys that count, 0 for all.
    u32 part_keys, parts, window;
    // Softmax scale times log2(e), keys' and values' scale.
    float scale, value_scale;
};

// Byte offset of 16-byte chunk `chunk` of row `row`, spread so that eight rows of one chunk hit different banks, and so do
// four neighbouring chunks of two neighbouring rows, which eight lanes load together from 8-bit keys.
template <u32 ROW_BYTES> DEVICE u32 swizzled(u32 row, u32 chunk) {
    return row * ROW_BYTES + ((chunk ^ (ROW_BYTES >= 128 ? (row & 1) << 2 | (row / 2 & 3) : row / 2 & 3)) << 4);
}

// `query`, `out`: [sequences, heads, DIM] bfloat16 (queries `query_stride` apart). `keys`, `values`: [pages, page, kv_heads, DIM] of 16 or 8 bits.
// `part_out`: [sequences, heads, parts, DIM], `part_log`: [sequences, heads, parts], used when parts > 1.
// grid: (parts, kv_heads x tiles of 16 query heads, sequences).
template <u32 DIM, bool EIGHT_BIT, u32 STAGES>
DEVICE void decode_part(u16* out, float* part_out, float* part_log, const u16* query, const u8* keys, const u8* values,
                        const i32* page_table, const i32* lengths, Shape shape) {
    const u32 ROW_BYTES = EIGHT_BIT ? DIM : 2 * DIM;
    const u32 TILE_BYTES = KEYS * ROW_BYTES;
    const u32 CHUNKS = ROW_BYTES / 16;
    const u32 STEPS = DIM / 16;
    DYNAMIC_SHARED(shared);
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, sequence = blockIdx.z, part = blockIdx.x;
    u32 group = shape.heads / shape.kv_heads, tiles_of_heads = (group + ROWS - 1) / ROWS;
    u32 kv_head = blockIdx.y / tiles_of_heads, first_row = blockIdx.y % tiles_of_heads * ROWS;
    u32 rows = min(ROWS, group - first_row), first_head = kv_head * group + first_row;
    u32 length = (u32)lengths[sequence];
    u32 skipped = shape.window && length > shape.window ? length - shape.window : 0;
    u32 begin = skipped + part * shape.part_keys, end = min(length, begin + shape.part_keys);
    if (begin >= end) {
        if (shape.parts > 1) {
            for (u32 i = threadIdx.x; i < rows; i += blockDim.x)
                part_log[((u64)sequence * shape.heads + first_head + i) * shape.parts + part] = NEGATIVE_INFINITY;
        }
        return;
    }
    const i32* table = page_table + (u64)sequence * shape.pages;
    u32 ring = warp * STAGES * 2 * TILE_BYTES;
    u32 ring_address = shared_address(shared) + ring;

    // The queries as the left operand of the products, in registers for the whole loop. With 8-bit keys, four
    // neighbouring bytes serve one lane, so the queries' columns are permuted alike and are 16-bit floats.
    u32 q[STEPS][4];
#pragma unroll
    for (u32 step = 0; step < STEPS; step++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 row = lane / 4 + 8 * (i % 2);
            u32 column = EIGHT_BIT ? step / 4 * 64 + lane % 4 * 16 + step % 4 * 4 + i / 2 * 2
                                   : step * 16 + lane % 4 * 2 + i / 2 * 8;
            u32 pair = row < rows ? *(const u32*)(query + (u64)sequence * shape.query_stride + (first_head + row) * DIM + column) : 0;
            q[step][i] = EIGHT_BIT ? pack_f16(bf16_low(pair), bf16_high(pair)) : pair;
        }

    float sums[2] = {0.0f, 0.0f}, most[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY};
    float o[DIM / 8][4];
#pragma unroll
    for (u32 n = 0; n < DIM / 8; n++)
        for (u32 i = 0; i < 4; i++) o[n][i] = 0.0f;

    u32 tiles = (end - begin + KEYS - 1) / KEYS;
    u32 own_tiles = tiles > warp ? (tiles - warp + WARPS - 1) / WARPS : 0;
    auto fetch = [&](u32 number) {
        if (number < own_tiles) {
            u32 first_key = begin + (number * WARPS + warp) * KEYS;
            u32 stage = ring_address + number % STAGES * 2 * TILE_BYTES;
#pragma unroll
            for (u32 work = 0; work < KEYS * CHUNKS / 32; work++) {
                u32 row = (work * 32 + lane) / CHUNKS, chunk = (work * 32 + lane) % CHUNKS;
                u32 key = first_key + row;
                bool valid = key < end;
                u32 known = valid ? key : begin;
                u64 place = ((u64)table[known >> shape.page_bits] << shape.page_bits) + (known & ((1u << shape.page_bits) - 1));
                u64 from = (place * shape.kv_heads + kv_head) * ROW_BYTES + chunk * 16;
                u32 to = stage + swizzled<ROW_BYTES>(row, chunk);
                copy_async_16(to, keys + from, valid);
                copy_async_16(to + TILE_BYTES, values + from, valid);
            }
        }
        copy_async_commit();
    };
    for (u32 number = 0; number < STAGES - 1; number++) fetch(number);

    for (u32 number = 0; number < own_tiles; number++) {
        copy_async_wait<STAGES - 2>();
        __syncwarp();
        fetch(number + STAGES - 1);
        u32 first_key = begin + (number * WARPS + warp) * KEYS;
        u32 stage = ring + number % STAGES * 2 * TILE_BYTES;
        u32 stage_address = ring_address + number % STAGES * 2 * TILE_BYTES;

        // Scores of 16 rows x 16 keys.
        float s[2][4] = {};
        if (EIGHT_BIT) {
#pragma unroll
            for (u32 n = 0; n < 2; n++)
#pragma unroll
                for (u32 quarter = 0; quarter < DIM / 64; quarter++) {
                    uint4 bytes = *(const uint4*)(shared + stage + swizzled<ROW_BYTES>(n * 8 + lane / 4, quarter * 4 + lane % 4));
                    u32 words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
#pragma unroll
                    for (u32 i = 0; i < 4; i++)
                        mma_f16(s[n], q[quarter * 4 + i], e4m3x2_to_f16x2(words[i] & 0xffffu), e4m3x2_to_f16x2(words[i] >> 16));
                }
        } else {
#pragma unroll
            for (u32 step = 0; step < STEPS; step++) {
                u32 b[4];
                u32 row = lane % 8 + lane / 16 * 8, chunk = step * 2 + lane / 8 % 2;
                load_matrices(b, stage_address + swizzled<ROW_BYTES>(row, chunk));
                mma_bf16(s[0], q[step], b[0], b[1]);
                mma_bf16(s[1], q[step], b[2], b[3]);
            }
        }

        // Softmax, row by row: a row's scores lie on four neighbouring lanes.
        float tops[2] = {most[0], most[1]};
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 key = first_key + n * 8 + lane % 4 * 2 + i % 2;
                s[n][i] = key < end ? s[n][i] * shape.scale : NEGATIVE_INFINITY;
                tops[i / 2] = fmaxf(tops[i / 2], s[n][i]);
            }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            tops[half] = fmaxf(tops[half], __shfl_xor_sync(FULL_WARP, tops[half], 1));
            tops[half] = fmaxf(tops[half], __shfl_xor_sync(FULL_WARP, tops[half], 2));
        }
        if (__any_sync(FULL_WARP, tops[0] > most[0] || tops[1] > most[1])) {
            float shrink[2];
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                shrink[half] = exp2_fast(most[half] - tops[half]);
                sums[half] *= shrink[half];
                most[half] = tops[half];
            }
#pragma unroll
            for (u32 n = 0; n < DIM / 8; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) o[n][i] *= shrink[i / 2];
        }
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                s[n][i] = exp2_fast(s[n][i] - most[i / 2]);
                sums[i / 2] += s[n][i];
            }

        // Weights (16 rows x 16 keys) times values.
        if (EIGHT_BIT) {
            u32 p[4] = {pack_f16(s[0][0], s[0][1]), pack_f16(s[0][2], s[0][3]), pack_f16(s[1][0], s[1][1]), pack_f16(s[1][2], s[1][3])};
            // 16-bit units of the transposed load are pairs of dimensions: one product takes the even ones, one the odd.
#pragma unroll
            for (u32 pair = 0; pair < DIM / 32; pair++) {
                u32 v[4];
                u32 row = lane % 8 + lane / 8 % 2 * 8, chunk = pair * 2 + lane / 16;
                load_matrices_transposed(v, stage_address + TILE_BYTES + swizzled<ROW_BYTES>(row, chunk));
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
            u32 p[4] = {pack_bf16(s[0][0], s[0][1]), pack_bf16(s[0][2], s[0][3]), pack_bf16(s[1][0], s[1][1]), pack_bf16(s[1][2], s[1][3])};
#pragma unroll
            for (u32 pair = 0; pair < DIM / 16; pair++) {
                u32 v[4];
                u32 row = lane % 8 + lane / 8 % 2 * 8, chunk = pair * 2 + lane / 16;
                load_matrices_transposed(v, stage_address + TILE_BYTES + swizzled<ROW_BYTES>(row, chunk));
                mma_bf16(o[pair * 2], p, v[0], v[1]);
                mma_bf16(o[pair * 2 + 1], p, v[2], v[3]);
            }
        }
        __syncwarp();
    }
    copy_async_wait<0>();
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        sums[half] += __shfl_xor_sync(FULL_WARP, sums[half], 1);
        sums[half] += __shfl_xor_sync(FULL_WARP, sums[half], 2);
    }

    // Merge the warps: [WARPS][ROWS] maxima and sums, then [WARPS][ROWS][DIM] outputs.
    __syncthreads();
    float* tops = (float*)shared;
    float* totals = tops + WARPS * ROWS;
    float* outputs = totals + WARPS * ROWS;
    if (lane % 4 == 0)
        for (u32 half = 0; half < 2; half++) {
            tops[warp * ROWS + lane / 4 + 8 * half] = most[half];
            totals[warp * ROWS + lane / 4 + 8 * half] = sums[half];
        }
#pragma unroll
    for (u32 n = 0; n < DIM / 8; n++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 row = lane / 4 + 8 * (i / 2), within = lane % 4 * 2 + i % 2;
            u32 column = EIGHT_BIT ? n / 2 * 16 + within * 2 + n % 2 : n * 8 + within;
            outputs[(warp * ROWS + row) * DIM + column] = o[n][i];
        }
    __syncthreads();
    for (u32 work = threadIdx.x; work < rows * DIM / 2; work += blockDim.x) {
        u32 row = work / (DIM / 2), column = work % (DIM / 2) * 2;
        float top = NEGATIVE_INFINITY, total = 0.0f, value[2] = {0.0f, 0.0f};
        for (u32 w = 0; w < WARPS; w++) top = fmaxf(top, tops[w * ROWS + row]);
        for (u32 w = 0; w < WARPS; w++) {
            float weight = exp2_fast(tops[w * ROWS + row] - top);
            total += weight * totals[w * ROWS + row];
            for (u32 i = 0; i < 2; i++) value[i] += weight * outputs[(w * ROWS + row) * DIM + column + i];
        }
        u64 head = (u64)sequence * shape.heads + first_head + row;
        float by = shape.value_scale / total;
        if (shape.parts == 1) {
            *(u32*)(out + head * DIM + column) = pack_bf16(value[0] * by, value[1] * by);
        } else {
            u64 at = head * shape.parts + part;
            *(float2*)(part_out + at * DIM + column) = float2{value[0] * by, value[1] * by};
            if (column == 0) part_log[at] = top + log2f(total);
        }
    }
}

#define DECODE(name, dim, eight_bit, stages)                                                                            \
    extern "C" __global__ void __launch_bounds__(128)                                                                   \
    name(u16* out, float* part_out, float* part_log, const u16* query, const u8* keys, const u8* values,                \
         const i32* page_table, const i32* lengths, Shape shape) {                                                      \
        decode_part<dim, eight_bit, stages>(out, part_out, part_log, query, keys, values, page_table, lengths, shape);  \
    }                                                                                                                   \
    KERNEL_ENTRY(name)

DECODE(decode_bf16_64, 64, false, 4)
DECODE(decode_bf16_128, 128, false, 3)
DECODE(decode_bf16_256, 256, false, 3)
DECODE(decode_e4m3_64, 64, true, 4)
DECODE(decode_e4m3_128, 128, true, 4)
DECODE(decode_e4m3_256, 256, true, 3)

// Merges the parts of each (sequence, head): one block of 32 to 128 threads per pair, `dim` a multiple of 2.
extern "C" __global__ void __launch_bounds__(128)
merge_parts(u16* out, const float* part_out, const float* part_log, u32 parts, u32 dim) {
    u64 row = blockIdx.x;
    const float* logs = part_log + row * parts;
    float top = NEGATIVE_INFINITY, total = 0.0f;
    for (u32 i = 0; i < parts; i++) top = fmaxf(top, logs[i]);
    for (u32 i = 0; i < parts; i++) total += exp2_fast(logs[i] - top);
    for (u32 column = threadIdx.x * 2; column < dim; column += blockDim.x * 2) {
        float value[2] = {0.0f, 0.0f};
        for (u32 i = 0; i < parts; i++) {
            // Parts past the sequence's end were never written.
            if (logs[i] <= NEGATIVE_INFINITY) continue;
            float weight = exp2_fast(logs[i] - top);
            float2 both = *(const float2*)(part_out + (row * parts + i) * dim + column);
            value[0] += weight * both.x, value[1] += weight * both.y;
        }
        *(u32*)(out + row * dim + column) = pack_bf16(value[0] / total, value[1] / total);
    }
}
KERNEL_ENTRY(merge_parts)
