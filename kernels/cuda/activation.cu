// Gated activation and embedding rows: what moves memory around the matrix products.
#include "common.cuh"

// out[t, i] = silu(in[t, i]) * in[t, width + i]; `in`: [tokens, 2 width], `width` a multiple of 8.
extern "C" __global__ void __launch_bounds__(256) silu_multiply(uint4* out, const uint4* in, u32 width, u64 vectors) {
    u32 per_row = width / 8;
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= vectors) return;
    u64 row = at / per_row;
    u32 column = (u32)(at - row * per_row);
    float gate[8], up[8];
    unpack_8(gate, load_streaming(in + row * 2 * per_row + column));
    unpack_8(up, load_streaming(in + row * 2 * per_row + per_row + column));
    for (int j = 0; j < 8; j++) gate[j] = gate[j] / (1.0f + exp2_fast(-gate[j] * LOG2_E)) * up[j];
    out[at] = pack_8(gate);
}

// out[t, :] = table[ids[t], :]; rows of `vectors` 16-byte words. One block per token.
extern "C" __global__ void __launch_bounds__(256) embed(uint4* out, const uint4* table, const i32* ids, u32 vectors) {
    for (u32 i = threadIdx.x; i < vectors; i += blockDim.x)
        out[(u64)blockIdx.x * vectors + i] = table[(u64)ids[blockIdx.x] * vectors + i];
}

KERNEL_ENTRY(silu_multiply)
KERNEL_ENTRY(embed)
