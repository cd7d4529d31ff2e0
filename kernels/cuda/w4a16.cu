// 4-bit weights times 16-bit activations: C[m, n] = A[m, k] W[n, k]^T, for up to some hundred rows; for more, the weights
// are expanded to bfloat16 first (`w4_expand`) and a dense product follows.
//
// Weights lie as the right operand of the matrix instruction wants them: for each 8 columns n and 128 of k, lane `l`
// finds its 32 weights in one 16-byte word (see `pack` in the reference): 512 bytes per warp and load, every byte used
// once. A group of 128 along k has one scale per column, applied to the group's sum. A block of eight warps takes 256
// columns and `part_k` of k; the last block of a column range adds the parts.
#include "common.cuh"

const u32 GROUP = 128;
const u32 BLOCKS_PER_WARP = 4;
const u32 WARPS = 8;

struct Shape {
    u32 m, n, k;
    // Elements of k per part (a multiple of 128), and parts.
    u32 part_k, parts;
};

#ifdef SERVESIM_EMULATE
DEVICE float load_through_l2(const float* from) { return *from; }
#else
DEVICE float load_through_l2(const float* from) { return __ldcg(from); }
#endif

// Four pairs of a word as bfloat16 values, without their scale.
DEVICE void expand(u32 (&pairs)[4], u32 word) {
#pragma unroll
    for (u32 p = 0; p < 4; p++) {
        // 128 + q as a bfloat16, then q - 8; both exact.
        u32 biased = ((word >> (4 * p)) & 0x000f000fu) | 0x43004300u;
        pairs[p] = fma_bf16x2(biased, 0x3f803f80u, 0xc308c308u);
    }
}

// `a`: [m, k], `out`: [m, n], bfloat16; `weights`: [n / 8, k / 128, 32] words; `scales`: [k / 128, n] bfloat16.
// `partial`: [parts, m, n]; `arrived`: one zero per 256 columns and TILES x 16 rows, left as zero.
// grid: (n / 256 rounded up, parts, m / (TILES x 16) rounded up).
template <u32 TILES>
DEVICE void product(u16* out, float* partial, u32* arrived, const u16* a, const uint4* weights, const u16* scales, Shape shape) {
    const u32 ROWS = 16 * TILES;
    __shared__ u32 last;
    DYNAMIC_SHARED(shared);
    u32 base = shared_address(shared), row_bytes = shape.part_k * 2;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 first_k = blockIdx.y * shape.part_k, here = min(shape.part_k, shape.k - first_k);
    u32 per_row = shape.part_k / 8, first_row = blockIdx.z * ROWS, rows = min(ROWS, shape.m - first_row);
    for (u32 work = threadIdx.x; work < ROWS * per_row; work += blockDim.x) {
        u32 row = work / per_row, chunk = work % per_row;
        bool valid = row < rows && chunk * 8 < here;
        u64 from = valid ? (u64)(first_row + row) * shape.k + first_k + chunk * 8 : 0;
        copy_async_16(base + row * row_bytes + ((chunk ^ (row & 7)) << 4), a + from, valid);
    }
    copy_async_commit();

    u32 groups = here / GROUP, all_groups = shape.k / GROUP, first_group = first_k / GROUP;
    u32 first_block = (blockIdx.x * WARPS + warp) * BLOCKS_PER_WARP, blocks = shape.n / 8;
    float c[TILES][BLOCKS_PER_WARP][4] = {};
    uint4 ahead[2][BLOCKS_PER_WARP];
    auto fetch = [&](u32 group, uint4 (&to)[BLOCKS_PER_WARP]) {
#pragma unroll
        for (u32 i = 0; i < BLOCKS_PER_WARP; i++) {
            u32 block = min(first_block + i, blocks - 1);
            if (group < groups) to[i] = load_streaming(weights + ((u64)block * all_groups + first_group + group) * 32 + lane);
        }
    };
    fetch(0, ahead[0]);
    fetch(1, ahead[1]);
    copy_async_wait<0>();
    __syncthreads();
    auto multiply = [&](u32 group, uint4 (&words)[BLOCKS_PER_WARP]) {
        float sum[TILES][BLOCKS_PER_WARP][4] = {};
#pragma unroll
        for (u32 w = 0; w < 4; w++) {
            u32 pairs[BLOCKS_PER_WARP][4];
#pragma unroll
            for (u32 i = 0; i < BLOCKS_PER_WARP; i++)
                expand(pairs[i], w == 0 ? words[i].x : w == 1 ? words[i].y : w == 2 ? words[i].z : words[i].w);
#pragma unroll
            for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
                for (u32 step = 0; step < 2; step++) {
                    u32 left[4], row = tile * 16 + lane % 16, chunk = group * 16 + (2 * w + step) * 2 + lane / 16;
                    load_matrices(left, base + row * row_bytes + ((chunk ^ (row & 7)) << 4));
#pragma unroll
                    for (u32 i = 0; i < BLOCKS_PER_WARP; i++) mma_bf16(sum[tile][i], left, pairs[i][2 * step], pairs[i][2 * step + 1]);
                }
        }
#pragma unroll
        for (u32 i = 0; i < BLOCKS_PER_WARP; i++) {
            u32 column = min(first_block + i, blocks - 1) * 8 + lane % 4 * 2;
            u32 both = *(const u32*)(scales + (u64)(first_group + group) * shape.n + column);
#pragma unroll
            for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) c[tile][i][j] += sum[tile][i][j] * (j % 2 ? bf16_high(both) : bf16_low(both));
        }
    };
    for (u32 group = 0; group < groups; group += 2) {
        multiply(group, ahead[0]);
        fetch(group + 2, ahead[0]);
        if (group + 1 < groups) {
            multiply(group + 1, ahead[1]);
            fetch(group + 3, ahead[1]);
        }
    }

#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
        for (u32 i = 0; i < BLOCKS_PER_WARP; i++) {
            if (first_block + i >= blocks) continue;
            u32 column = (first_block + i) * 8 + lane % 4 * 2;
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                u32 row = tile * 16 + lane / 4 + 8 * half;
                if (row >= rows) continue;
                float low = c[tile][i][2 * half], high = c[tile][i][2 * half + 1];
                if (shape.parts == 1) *(u32*)(out + (u64)(first_row + row) * shape.n + column) = pack_bf16(low, high);
                else *(float2*)(partial + ((u64)blockIdx.y * shape.m + first_row + row) * shape.n + column) = float2{low, high};
            }
        }
    if (shape.parts == 1) return;
    __threadfence();
    __syncthreads();
    u32* own_arrived = arrived + blockIdx.z * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) last = atomicAdd(own_arrived, 1u) == shape.parts - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    u32 first_column = blockIdx.x * WARPS * BLOCKS_PER_WARP * 8, columns = min(WARPS * BLOCKS_PER_WARP * 8, shape.n - first_column);
    for (u32 work = threadIdx.x; work < rows * columns; work += blockDim.x) {
        u32 row = first_row + work / columns, column = first_column + work % columns;
        float sum = 0.0f;
        for (u32 part = 0; part < shape.parts; part++) sum += load_through_l2(partial + ((u64)part * shape.m + row) * shape.n + column);
        out[(u64)row * shape.n + column] = float_to_bf16(sum);
    }
    if (threadIdx.x == 0) *own_arrived = 0;
}

#define PRODUCT(name, tiles, per_multiprocessor)                                                                        \
    extern "C" __global__ void __launch_bounds__(256, per_multiprocessor)                                               \
    name(u16* out, float* partial, u32* arrived, const u16* a, const uint4* weights, const u16* scales, Shape shape) {  \
        product<tiles>(out, partial, arrived, a, weights, scales, shape);                                               \
    }                                                                                                                   \
    KERNEL_ENTRY(name)

PRODUCT(w4a16_16, 1, 2)
PRODUCT(w4a16_32, 2, 1)
PRODUCT(w4a16_64, 4, 1)

// The weights with their scales as bfloat16: `out`: [n, k]. grid: `words` / 256 rounded up.
extern "C" __global__ void __launch_bounds__(256) w4_expand(u32* out, const uint4* weights, const u16* scales, u32 n, u32 k, u64 words) {
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= words) return;
    u32 lane = (u32)(at % 32), groups = k / GROUP;
    u64 tile = at / 32;
    u32 group = (u32)(tile % groups), column = (u32)(tile / groups) * 8 + lane / 4;
    float scale = bf16_to_float(scales[(u64)group * n + column]);
    uint4 all = load_streaming(weights + at);
    u32 words_of[4] = {all.x, all.y, all.z, all.w};
    u32* to = out + ((u64)column * k + group * GROUP) / 2 + lane % 4;
#pragma unroll
    for (u32 w = 0; w < 4; w++) {
        u32 pairs[4];
        expand(pairs, words_of[w]);
#pragma unroll
        for (u32 p = 0; p < 4; p++) to[w * 16 + p * 4] = pack_bf16(bf16_low(pairs[p]) * scale, bf16_high(pairs[p]) * scale);
    }
}
KERNEL_ENTRY(w4_expand)
