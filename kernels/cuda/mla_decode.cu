// Decode of multi-head latent attention with absorbed projections: every head's query of 512 + 64 attends over one
// cached vector of 512 + 64 per token, whose first 512 are the values (DeepSeek-V2, arXiv 2405.04434, section 2.1).
//
// A block of eight warps takes 16 x WARPS_M heads and walks tiles of 64 keys. Scores are shared between warps through
// shared memory, since each warp needs all keys' weights for its slice of the 512 output columns.
#include "common.cuh"

const u32 WIDTH = 576;
const u32 LATENT = 512;
const u32 KEYS = 64;
const u32 ROW_BYTES = WIDTH * 2;
const u32 TILE_BYTES = KEYS * ROW_BYTES;
const u32 CHUNKS = ROW_BYTES / 16;
const u32 WEIGHT_BYTES = KEYS * 2;
const u32 STAGES = 2;

struct Shape {
    u32 heads, page_bits, pages, part_keys, parts;
    // Softmax scale times log2(e).
    float scale;
};

DEVICE u32 swizzled(u32 row, u32 chunk, u32 row_bytes) { return row * row_bytes + ((chunk ^ (row & 7)) << 4); }

// `query`: [sequences, heads, 576], `cache`: [pages, page, 576], `out`: [sequences, heads, 512], bfloat16.
// grid: (parts, tiles of 16 WARPS_M heads, sequences).
template <u32 WARPS_M>
DEVICE void mla_part(u16* out, float* part_out, float* part_log, const u16* query, const u8* cache, const i32* page_table,
                     const i32* lengths, Shape shape) {
    const u32 WARPS_N = 8 / WARPS_M, ROWS = 16 * WARPS_M;
    // Score columns of a warp and output columns of a warp, in blocks of 8.
    const u32 SCORES = WARPS_M, OUTPUTS = 8 * WARPS_M;
    DYNAMIC_SHARED(shared);
    const u32 QUERY_AT = STAGES * TILE_BYTES, WEIGHTS_AT = QUERY_AT + ROWS * ROW_BYTES;
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
    for (u32 work = threadIdx.x; work < ROWS * CHUNKS; work += blockDim.x) {
        u32 row = work / CHUNKS, chunk = work % CHUNKS;
        bool valid = row < rows;
        u64 from = ((u64)sequence * shape.heads + first_head + (valid ? row : 0)) * WIDTH + chunk * 8;
        copy_async_16(base + QUERY_AT + swizzled(row, chunk, ROW_BYTES), query + from, valid);
    }
    u32 tiles = (end - begin + KEYS - 1) / KEYS;
    auto fetch = [&](u32 number) {
        if (number < tiles) {
            u32 stage = base + number % STAGES * TILE_BYTES;
            for (u32 work = threadIdx.x; work < KEYS * CHUNKS; work += blockDim.x) {
                u32 row = work / CHUNKS, chunk = work % CHUNKS, key = begin + number * KEYS + row;
                bool valid = key < end;
                u32 known = valid ? key : begin;
                u64 place = ((u64)table[known >> shape.page_bits] << shape.page_bits) + (known & ((1u << shape.page_bits) - 1));
                copy_async_16(stage + swizzled(row, chunk, ROW_BYTES), cache + place * ROW_BYTES + chunk * 16, valid);
            }
        }
        copy_async_commit();
    };
    for (u32 number = 0; number < STAGES - 1; number++) fetch(number);

    float o[OUTPUTS][4], most[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (u32 n = 0; n < OUTPUTS; n++)
        for (u32 i = 0; i < 4; i++) o[n][i] = 0.0f;

    for (u32 number = 0; number < tiles; number++) {
        // The next tile's copy starts now: its buffer was last read before the barrier that ended the previous turn.
        fetch(number + STAGES - 1);
        copy_async_wait<STAGES - 1>();
        __syncthreads();
        u32 stage = base + number % STAGES * TILE_BYTES;

        // With one block of scores per warp, two sums keep the matrix units busier than one chain.
        float s[SCORES][4] = {}, odd[SCORES][4] = {};
#pragma unroll 2
        for (u32 step = 0; step < WIDTH / 32; step++) {
            u32 a[2][4];
#pragma unroll
            for (u32 i = 0; i < 2; i++)
                load_matrices(a[i], base + QUERY_AT + swizzled(warp_m * 16 + lane % 16, step * 4 + i * 2 + lane / 16, ROW_BYTES));
#pragma unroll
            for (u32 n = 0; n < SCORES; n++) {
                u32 b[4];
                load_matrices(b, stage + swizzled((warp_n * SCORES + n) * 8 + lane % 8, step * 4 + lane / 8, ROW_BYTES));
                mma_bf16(s[n], a[0], b[0], b[1]);
                mma_bf16(SCORES == 1 ? odd[n] : s[n], a[1], b[2], b[3]);
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
                *(u32*)(shared + WEIGHTS_AT + swizzled(row, warp_n * SCORES + n, WEIGHT_BYTES) + lane % 4 * 4) = pack_bf16(low, high);
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
#pragma unroll
            for (u32 pair = 0; pair < OUTPUTS / 2; pair++) {
                u32 v[4];
                load_matrices_transposed(v, stage + swizzled(step * 16 + lane % 16, warp_n * OUTPUTS + pair * 2 + lane / 16, ROW_BYTES));
                mma_bf16(o[pair * 2], p, v[0], v[1]);
                mma_bf16(o[pair * 2 + 1], p, v[2], v[3]);
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
        u64 head = (u64)sequence * shape.heads + first_head + row, at = head * shape.parts + part;
        if (shape.parts > 1 && warp_n == 0 && lane % 4 == 0) part_log[at] = most[half] + log2f(total);
#pragma unroll
        for (u32 n = 0; n < OUTPUTS; n++) {
            u32 column = (warp_n * OUTPUTS + n) * 8 + lane % 4 * 2;
            float low = o[n][2 * half] / total, high = o[n][2 * half + 1] / total;
            if (shape.parts == 1) *(u32*)(out + head * LATENT + column) = pack_bf16(low, high);
            else *(float2*)(part_out + at * LATENT + column) = float2{low, high};
        }
    }
}

#define MLA(name, warps_m)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                                \
    name(u16* out, float* part_out, float* part_log, const u16* query, const u8* cache, const i32* page_table,          \
         const i32* lengths, Shape shape) {                                                                             \
        mla_part<warps_m>(out, part_out, part_log, query, cache, page_table, lengths, shape);                           \
    }                                                                                                                   \
    KERNEL_ENTRY(name)

MLA(mla_decode_16, 1)
MLA(mla_decode_32, 2)
MLA(mla_decode_64, 4)
