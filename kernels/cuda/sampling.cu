// Draws one token per row: temperature, top-k, then top-p among those, then by the row's uniform number. No sort: the
// smallest logit that stays is found digit by digit (two digits of 8 bits: logits have 16). Equal logits stay together.
#include "common.cuh"

const u32 BINS = 256;
const float ONE = 4294967296.0f;

// Order of bfloat16 values as integers.
DEVICE u32 order_of(u32 bits) { return bits & 0x8000u ? ~bits & 0xffffu : bits | 0x8000u; }

// The highest bin so that it and those above hold at least `target`; what lies above it goes to `above`. First warp.
DEVICE u32 find_bin(const u64* bins, u64 target, u64* above) {
    u32 lane = threadIdx.x % 32;
    u64 own = 0;
    for (u32 i = 0; i < 8; i++) own += bins[BINS - 1 - lane * 8 - i];
    u64 scan = own;
    for (u32 step = 1; step < 32; step *= 2) {
        u64 other = __shfl_up_sync(FULL_WARP, scan, step);
        if (lane >= step) scan += other;
    }
    u32 enough = __ballot_sync(FULL_WARP, scan >= target);
    u32 owner = enough ? 31 - (u32)__popc(enough) + 1 : 31;
    u64 so_far = scan - own;
    u32 bin = 0;
    for (u32 i = 0; i < 8; i++) {
        bin = BINS - 1 - lane * 8 - i;
        if (so_far + bins[bin] >= target || i == 7) break;
        so_far += bins[bin];
    }
    *above = __shfl_sync(FULL_WARP, so_far, owner);
    return __shfl_sync(FULL_WARP, bin, owner);
}

// `logits`: [rows, vocabulary] bfloat16; `uniform`: [rows] in [0, 1); `topk` 0 for all. One block of 1024 per row.
extern "C" __global__ void __launch_bounds__(1024)
sample(i32* tokens, const u16* logits, const float* uniform, u32 vocabulary, float inverse_temperature, u32 topk, float topp) {
    __shared__ u64 bins[BINS];
    __shared__ u64 masses[32];
    __shared__ float scratch[33];
    __shared__ u64 shared_above;
    __shared__ u32 shared_bin;
    const u16* row = logits + (u64)blockIdx.x * vocabulary;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;

    float top = NEGATIVE_INFINITY;
    for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) top = fmaxf(top, bf16_to_float(row[i]));
    top = block_reduce(top, scratch, true);
    float by = inverse_temperature * LOG2_E;
    // Fixed point: sums do not depend on the order of the threads.
    auto mass_of = [&](u32 bits) { return (u64)(exp2_fast((bf16_to_float(bits) - top) * by) * ONE); };

    // Smallest order that stays, narrowed twice: by count for top-k, by mass for top-p.
    u32 least = 0;
    for (u32 round = 0; round < 2; round++) {
        bool by_mass = round == 1;
        if (by_mass ? topp >= 1.0f : topk == 0 || topk >= vocabulary) continue;
        u64 target = topk, above = 0;
        u32 prefix = 0;
        for (u32 digit = 0; digit < 2; digit++) {
            for (u32 i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
            __syncthreads();
            for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) {
                u32 order = order_of(row[i]);
                if (order < least || (digit == 1 && order >> 8 != prefix)) continue;
                atomicAdd(bins + (digit == 0 ? order >> 8 : order & 255u), by_mass ? mass_of(row[i]) : (u64)1);
            }
            __syncthreads();
            if (warp == 0) {
                if (by_mass && digit == 0) {
                    u64 all = 0;
                    for (u32 i = lane; i < BINS; i += 32) all += bins[i];
                    for (int step = 16; step > 0; step /= 2) all += __shfl_xor_sync(FULL_WARP, all, step);
                    target = (u64)((double)all * topp);
                    if (target == 0) target = 1;
                }
                u64 over;
                u32 bin = find_bin(bins, target - above, &over);
                if (lane == 0) shared_above = over, shared_bin = bin;
            }
            __syncthreads();
            above += shared_above;
            prefix = digit == 0 ? shared_bin : prefix * 256 + shared_bin;
        }
        least = prefix;
        __syncthreads();
    }

    // Each warp owns a stretch of the row; the uniform number picks the warp, then the token.
    u32 stretch = (vocabulary + warps - 1) / warps, begin = warp * stretch, end = min(vocabulary, begin + stretch);
    u64 own = 0;
    for (u32 i = begin + lane; i < end; i += 32)
        if (order_of(row[i]) >= least) own += mass_of(row[i]);
    for (int step = 16; step > 0; step /= 2) own += __shfl_xor_sync(FULL_WARP, own, step);
    if (lane == 0) masses[warp] = own;
    __syncthreads();
    u64 total = 0, before = 0;
    for (u32 i = 0; i < warps; i++) total += masses[i];
    u64 wanted = (u64)((double)total * uniform[blockIdx.x]);
    if (wanted >= total) wanted = total - 1;
    for (u32 i = 0; i < warp; i++) before += masses[i];
    if (wanted < before || wanted >= before + own) return;
    for (u32 first = begin; first < end; first += 32) {
        u32 i = first + lane;
        bool stays = i < end && order_of(row[i]) >= least;
        u64 scan = stays ? mass_of(row[i]) : 0;
        for (u32 step = 1; step < 32; step *= 2) {
            u64 other = __shfl_up_sync(FULL_WARP, scan, step);
            if (lane >= step) scan += other;
        }
        u32 past = __ballot_sync(FULL_WARP, before + scan > wanted);
        if (past) {
            if (lane == 32 - (u32)__popc(past)) tokens[blockIdx.x] = (i32)i;
            return;
        }
        before += __shfl_sync(FULL_WARP, scan, 31);
    }
}
KERNEL_ENTRY(sample)
