// Routed experts: choice of the top-k experts, tokens sorted by expert into tiles, products of each tile with its
// expert's weights, weighted sum back into tokens.
#include "common.cuh"

const u32 MOST_PER_LANE = 16;

// Softmax over the experts, then the `topk` largest; one warp per token. `logits`: [tokens, experts] bfloat16,
// experts up to 512; `ids`, `weights`: [tokens, topk]; with `renormalise` the chosen weights add up to 1.
extern "C" __global__ void __launch_bounds__(128)
moe_route(i32* ids, float* weights, const u16* logits, u32 tokens, u32 experts, u32 topk, u32 renormalise) {
    u32 token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    float values[MOST_PER_LANE], most = NEGATIVE_INFINITY, sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < MOST_PER_LANE; i++) {
        u32 expert = i * 32 + lane;
        values[i] = expert < experts ? bf16_to_float(logits[(u64)token * experts + expert]) : NEGATIVE_INFINITY;
        most = fmaxf(most, values[i]);
    }
    most = warp_max(most);
#pragma unroll
    for (u32 i = 0; i < MOST_PER_LANE; i++) {
        values[i] = i * 32 + lane < experts ? exp2_fast((values[i] - most) * LOG2_E) : -1.0f;
        sum += fmaxf(values[i], 0.0f);
    }
    sum = warp_sum(sum);
    float chosen_sum = 0.0f, own = 0.0f;
    for (u32 j = 0; j < topk; j++) {
        float best = -1.0f;
        u32 at = 0;
#pragma unroll
        for (u32 i = 0; i < MOST_PER_LANE; i++)
            if (values[i] > best) best = values[i], at = i * 32 + lane;
        for (int step = 16; step > 0; step /= 2) {
            float other = __shfl_xor_sync(FULL_WARP, best, step);
            u32 other_at = __shfl_xor_sync(FULL_WARP, at, step);
            if (other > best || (other == best && other_at < at)) best = other, at = other_at;
        }
#pragma unroll
        for (u32 i = 0; i < MOST_PER_LANE; i++)
            if (at == i * 32 + lane) values[i] = -1.0f;
        chosen_sum += best;
        if (lane == j) own = best;
        if (lane == 0) ids[(u64)token * topk + j] = (i32)at;
    }
    if (lane < topk) weights[(u64)token * topk + lane] = own / (renormalise ? chosen_sum : sum);
}

// How many of `count` assignments each expert has; `counts` starts as zeros.
extern "C" __global__ void __launch_bounds__(256) moe_count(u32* counts, const i32* ids, u32 count, u32 experts) {
    __shared__ u32 own[512];
    for (u32 i = threadIdx.x; i < experts; i += blockDim.x) own[i] = 0;
    __syncthreads();
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) atomicAdd(own + ids[i], 1u);
    __syncthreads();
    for (u32 i = threadIdx.x; i < experts; i += blockDim.x)
        if (own[i]) atomicAdd(counts + i, own[i]);
}

// Gives each expert whole tiles of `rows` slots: `cursors` its first slot, `tile_experts` its tiles (-1 past the last),
// and marks its empty slots in `source` with -1. Clears `counts` for the next time. One block of 512 threads.
extern "C" __global__ void __launch_bounds__(512)
moe_tiles(u32* counts, u32* cursors, i32* tile_experts, i32* source, u32 experts, u32 rows, u32 most_tiles) {
    __shared__ u32 sums[16];
    u32 expert = threadIdx.x, lane = expert % 32, warp = expert / 32;
    u32 count = expert < experts ? counts[expert] : 0, tiles = (count + rows - 1) / rows, scan = tiles;
    for (u32 step = 1; step < 32; step *= 2) {
        u32 other = __shfl_up_sync(FULL_WARP, scan, step);
        if (lane >= step) scan += other;
    }
    if (lane == 31) sums[warp] = scan;
    __syncthreads();
    u32 before = 0, total = 0;
    for (u32 i = 0; i < 16; i++) {
        if (i < warp) before += sums[i];
        total += sums[i];
    }
    u32 first = before + scan - tiles;
    if (expert < experts) {
        counts[expert] = 0;
        cursors[expert] = first * rows;
        for (u32 i = 0; i < tiles; i++) tile_experts[first + i] = (i32)expert;
        for (u32 i = count; i < tiles * rows; i++) source[first * rows + i] = -1;
    }
    for (u32 i = total + threadIdx.x; i < most_tiles; i += blockDim.x) tile_experts[i] = -1;
}

// Assignment `i` takes the next slot of its expert: source[slot] = i, slots[i] = slot.
extern "C" __global__ void __launch_bounds__(256)
moe_place(i32* source, u32* slots, u32* cursors, const i32* ids, u32 count) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    u32 slot = atomicAdd(cursors + ids[i], 1u);
    source[slot] = (i32)i;
    slots[i] = slot;
}

// out[slot, n] = a[row, :] . weights[expert, n, :] for every slot of a tile of ROWS slots; `row` is source[slot] / divide,
// or the slot itself when `divide` is 0. `a`: [*, k], `weights`: [experts, n, k], `out`: [slots, n], bfloat16; k a
// multiple of 8, n of 2. grid: (n / 128 rounded up, tiles).
template <u32 ROWS, u32 WARPS_M, u32 STAGES>
DEVICE void grouped_product(u16* out, const u16* a, const u16* weights, const i32* tile_experts, const i32* source, u32 divide,
                            u32 n, u32 k) {
    const u32 COLUMNS = 128, DEPTH = 64, ROW_BYTES = DEPTH * 2, THREADS = 256;
    const u32 WARPS_N = 8 / WARPS_M, TILES_M = ROWS / 16 / WARPS_M, TILES_N = COLUMNS / 8 / WARPS_N;
    const u32 STAGE_BYTES = (ROWS + COLUMNS) * ROW_BYTES;
    DYNAMIC_SHARED(shared);
    __shared__ i32 rows[ROWS];
    i32 expert = tile_experts[blockIdx.y];
    if (expert < 0) return;
    u32 base = shared_address(shared), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 warp_m = warp / WARPS_N, warp_n = warp % WARPS_N, first_slot = blockIdx.y * ROWS, first_column = blockIdx.x * COLUMNS;
    for (u32 i = threadIdx.x; i < ROWS; i += THREADS) {
        i32 from = source[first_slot + i];
        rows[i] = from < 0 ? -1 : divide ? from / (i32)divide : (i32)(first_slot + i);
    }
    __syncthreads();
    const u16* own_weights = weights + (u64)expert * n * k;
    u32 steps = (k + DEPTH - 1) / DEPTH;
    auto fetch = [&](u32 step) {
        if (step < steps) {
            u32 stage = base + step % STAGES * STAGE_BYTES;
            for (u32 work = threadIdx.x; work < (ROWS + COLUMNS) * 8; work += THREADS) {
                u32 row = work / 8, chunk = work % 8, at = step * DEPTH + chunk * 8;
                u32 to = stage + row * ROW_BYTES + ((chunk ^ (row & 7)) << 4);
                bool inside = at < k;
                if (row < ROWS) {
                    bool valid = inside && rows[row] >= 0;
                    copy_async_16(to, a + (valid ? (u64)rows[row] * k + at : 0), valid);
                } else {
                    u32 column = first_column + row - ROWS;
                    bool valid = inside && column < n;
                    copy_async_16(to, own_weights + (valid ? (u64)column * k + at : 0), valid);
                }
            }
        }
        copy_async_commit();
    };
    for (u32 step = 0; step < STAGES - 1; step++) fetch(step);
    float c[TILES_M][TILES_N][4] = {};
    for (u32 step = 0; step < steps; step++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1);
        u32 stage = base + step % STAGES * STAGE_BYTES, right = stage + ROWS * ROW_BYTES;
#pragma unroll
        for (u32 depth = 0; depth < DEPTH / 16; depth++) {
            u32 left[TILES_M][4];
#pragma unroll
            for (u32 i = 0; i < TILES_M; i++) {
                u32 row = (warp_m * TILES_M + i) * 16 + lane % 16, chunk = depth * 2 + lane / 16;
                load_matrices(left[i], stage + row * ROW_BYTES + ((chunk ^ (row & 7)) << 4));
            }
#pragma unroll
            for (u32 j = 0; j < TILES_N; j += 2) {
                u32 b[4], row = (warp_n * TILES_N + j) * 8 + lane % 8 + lane / 16 * 8, chunk = depth * 2 + lane / 8 % 2;
                load_matrices(b, right + row * ROW_BYTES + ((chunk ^ (row & 7)) << 4));
#pragma unroll
                for (u32 i = 0; i < TILES_M; i++) {
                    mma_bf16(c[i][j], left[i], b[0], b[1]);
                    mma_bf16(c[i][j + 1], left[i], b[2], b[3]);
                }
            }
        }
    }
    copy_async_wait<0>();
#pragma unroll
    for (u32 i = 0; i < TILES_M; i++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = (warp_m * TILES_M + i) * 16 + lane / 4 + 8 * half;
            if (rows[row] < 0) continue;
#pragma unroll
            for (u32 j = 0; j < TILES_N; j++) {
                u32 column = first_column + (warp_n * TILES_N + j) * 8 + lane % 4 * 2;
                if (column < n) *(u32*)(out + (u64)(first_slot + row) * n + column) = pack_bf16(c[i][j][2 * half], c[i][j][2 * half + 1]);
            }
        }
}

#define PRODUCT(name, rows, warps_m, stages)                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                   \
    name(u16* out, const u16* a, const u16* weights, const i32* tile_experts, const i32* source, u32 divide, u32 n, u32 k) { \
        grouped_product<rows, warps_m, stages>(out, a, weights, tile_experts, source, divide, n, k);                    \
    }                                                                                                                   \
    KERNEL_ENTRY(name)

PRODUCT(moe_product_16, 16, 1, 4)
PRODUCT(moe_product_64, 64, 2, 3)
PRODUCT(moe_product_128, 128, 2, 3)

// out[t] = sum over j of weights[t, j] * y[slots[t, j]]; one block per token, `width` a multiple of 8.
extern "C" __global__ void __launch_bounds__(256)
moe_combine(uint4* out, const uint4* y, const float* weights, const u32* slots, u32 topk, u32 width) {
    u32 token = blockIdx.x, vectors = width / 8;
    for (u32 at = threadIdx.x; at < vectors; at += blockDim.x) {
        float sum[8] = {};
        for (u32 j = 0; j < topk; j++) {
            float values[8], weight = weights[(u64)token * topk + j];
            unpack_8(values, y[(u64)slots[(u64)token * topk + j] * vectors + at]);
            for (int i = 0; i < 8; i++) sum[i] += weight * values[i];
        }
        out[(u64)token * vectors + at] = pack_8(sum);
    }
}

KERNEL_ENTRY(moe_route)
KERNEL_ENTRY(moe_count)
KERNEL_ENTRY(moe_tiles)
KERNEL_ENTRY(moe_place)
KERNEL_ENTRY(moe_combine)
