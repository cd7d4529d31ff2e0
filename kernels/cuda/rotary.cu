// Rotary embedding of queries and keys (halves paired, as in Llama) and the write of keys and values to the paged
// cache. One block per token.
#include "common.cuh"

// `qkv`: [tokens, heads + 2 kv_heads, dim], queries rotated in place. `angles`: [positions, dim], cosines then sines.
// `slots[t]` is the token's place in the caches [places, kv_heads, dim]; 16-bit or, with `eight_bit`, e4m3 of value
// times `scale`.
template <bool EIGHT_BIT>
DEVICE void rotate_and_store(u16* qkv, const float* angles, const i32* positions, const i32* slots, u8* keys, u8* values,
                             u32 heads, u32 kv_heads, u32 dim, float scale) {
    u32 token = blockIdx.x, half = dim / 2, per_head = half / 8;
    u16* row = qkv + (u64)token * (heads + 2 * kv_heads) * dim;
    const float* cosines = angles + (u64)positions[token] * dim;
    const float* sines = cosines + half;
    u64 place = (u64)slots[token] * kv_heads * dim;
    // Eight pairs at a time: x of the first half with y of the second.
    for (u32 work = threadIdx.x; work < (heads + kv_heads) * per_head; work += blockDim.x) {
        u32 head = work / per_head, at = work % per_head * 8;
        u16* x = row + (u64)head * dim + at;
        float first[8], second[8], turned_first[8], turned_second[8];
        unpack_8(first, *(const uint4*)x);
        unpack_8(second, *(const uint4*)(x + half));
        for (int j = 0; j < 8; j++) {
            float c = cosines[at + j], s = sines[at + j];
            turned_first[j] = first[j] * c - second[j] * s;
            turned_second[j] = second[j] * c + first[j] * s;
        }
        if (head < heads) {
            *(uint4*)x = pack_8(turned_first);
            *(uint4*)(x + half) = pack_8(turned_second);
            continue;
        }
        u64 to = place + (u64)(head - heads) * dim + at;
        if (EIGHT_BIT) {
            for (int j = 0; j < 8; j += 2) {
                *(u16*)(keys + to + j) = (u16)floats_to_e4m3x2(turned_first[j] * scale, turned_first[j + 1] * scale);
                *(u16*)(keys + to + half + j) = (u16)floats_to_e4m3x2(turned_second[j] * scale, turned_second[j + 1] * scale);
            }
        } else {
            *(uint4*)(keys + 2 * to) = pack_8(turned_first);
            *(uint4*)(keys + 2 * (to + half)) = pack_8(turned_second);
        }
    }
    for (u32 work = threadIdx.x; work < kv_heads * dim / 8; work += blockDim.x) {
        uint4 value = *(const uint4*)(row + (u64)(heads + kv_heads) * dim + work * 8);
        u64 to = place + work * 8;
        if (EIGHT_BIT) {
            float unpacked[8];
            unpack_8(unpacked, value);
            for (int j = 0; j < 8; j += 2)
                *(u16*)(values + to + j) = (u16)floats_to_e4m3x2(unpacked[j] * scale, unpacked[j + 1] * scale);
        } else {
            *(uint4*)(values + 2 * to) = value;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
rotary_bf16(u16* qkv, const float* angles, const i32* positions, const i32* slots, u8* keys, u8* values, u32 heads,
            u32 kv_heads, u32 dim, float scale) {
    rotate_and_store<false>(qkv, angles, positions, slots, keys, values, heads, kv_heads, dim, scale);
}
extern "C" __global__ void __launch_bounds__(256)
rotary_e4m3(u16* qkv, const float* angles, const i32* positions, const i32* slots, u8* keys, u8* values, u32 heads,
            u32 kv_heads, u32 dim, float scale) {
    rotate_and_store<true>(qkv, angles, positions, slots, keys, values, heads, kv_heads, dim, scale);
}

KERNEL_ENTRY(rotary_bf16)
KERNEL_ENTRY(rotary_e4m3)
