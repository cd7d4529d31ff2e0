//! The least work of each kernel call: floating-point operations, bytes that must move, and the counts that the
//! closed forms need. Formulas are the usual ones of the algorithms; each function names its terms.

use super::gpu::GpuLimits;
use super::names::{Dtype, Routing};
use super::operation::{Experts, Heads};

/// Work of one kernel call in terms of a GPU's data sheet.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Floating-point operations.
    pub operations: f64,
    /// Floating-point operations over the data sheet's rate for their type, seconds; in prefill attention at least
    /// those of the slowest tile at one multiprocessor's rate.
    pub compute_seconds: f64,
    /// Bytes over the data sheet's memory or link bandwidth, seconds.
    pub memory_seconds: f64,
    /// Nothing may run faster than this, seconds.
    pub light_seconds: f64,
    /// Things that cost time one by one: sequences x KV heads in decode attention, experts hit in an MoE layer, other
    /// ranks of a collective.
    pub items: f64,
    /// Steps that cannot overlap: keys that the last query visits, assignments that are sorted.
    pub chain: f64,
}

impl Work {
    fn new(flops: f64, flops_per_second: f64, bytes: f64, gpu: &GpuLimits) -> Work {
        let compute_seconds = flops / flops_per_second;
        let memory_seconds = bytes / gpu.bytes_per_second;
        Work {
            operations: flops,
            compute_seconds,
            memory_seconds,
            light_seconds: compute_seconds.max(memory_seconds),
            items: 0.0,
            chain: 0.0,
        }
    }

    /// A kernel that only moves `bytes` through memory.
    pub fn memory(bytes: f64, gpu: &GpuLimits) -> Work {
        Work::new(0.0, gpu.flops_per_second(Dtype::Bfloat16), bytes, gpu)
    }

    /// Few thread blocks do not share one tile's work: the slowest tile takes `flops` at one multiprocessor's rate.
    fn slowest_tile(&mut self, flops: f64, flops_per_second: f64, gpu: &GpuLimits) {
        let seconds = flops * f64::from(gpu.multiprocessors) / flops_per_second;
        self.compute_seconds = self.compute_seconds.max(seconds);
    }

    /// Two parts that run one after the other.
    pub fn then(self, next: Work) -> Work {
        Work {
            operations: self.operations + next.operations,
            compute_seconds: self.compute_seconds + next.compute_seconds,
            memory_seconds: self.memory_seconds + next.memory_seconds,
            light_seconds: self.light_seconds + next.light_seconds,
            items: self.items + next.items,
            chain: self.chain + next.chain,
        }
    }
}

/// `C[m, n] = A[m, k] B[k, n]`: 2 m n k operations; A and B are read once, C is written in 16 bits.
pub fn gemm(m: f64, n: f64, k: f64, dtype: Dtype, gpu: &GpuLimits) -> Work {
    let bytes = n * k * dtype.weight_bytes() + m * k * dtype.activation_bytes() + 2.0 * m * n;
    Work::new(2.0 * m * n * k, gpu.flops_per_second(dtype), bytes, gpu)
}

/// Keys that the last query of a mean chunk visits: the longest chain of a causal call. A chunk of `q` tokens after
/// `c` tokens of context has `c + (q + 1) / 2` pairs per token and ends at `c + q` keys.
pub fn longest_loop(tokens: f64, pairs: f64, chunks: f64, window: u32) -> f64 {
    let longest = (pairs / tokens + (tokens / chunks - 1.0) / 2.0).max(1.0);
    if window == 0 { longest } else { longest.min(f64::from(window)) }
}

/// Causal attention: 4 operations per pair, head and width; Q and O in 16 bits, K and V read once.
pub fn prefill(tokens: f64, pairs: f64, chunks: f64, heads: Heads, compute: Dtype, gpu: &GpuLimits) -> Work {
    let (query, kv, dim) = (f64::from(heads.query), f64::from(heads.kv), f64::from(heads.dim));
    let flops = 4.0 * pairs * query * dim;
    let bytes = 2.0 * tokens * dim * (2.0 * query + 2.0 * kv);
    let mut work = Work::new(flops, gpu.flops_per_second(compute), bytes, gpu);
    work.items = query * (tokens / PREFILL_QUERY_TILE).ceil();
    work.chain = longest_loop(tokens, pairs, chunks, heads.window);
    let tile = 4.0 * PREFILL_QUERY_TILE * dim * work.chain;
    work.slowest_tile(tile, gpu.flops_per_second(compute), gpu);
    work
}

/// Query rows of one thread block of FlashAttention-3 at head width 128 (Dao-AILab/flash-attention,
/// hopper/tile_size.h).
const PREFILL_QUERY_TILE: f64 = 128.0;

/// Decode attention: every cached key and value is read once; one item per sequence and KV head.
pub fn decode(sequences: f64, context: f64, heads: Heads, cache: Dtype, gpu: &GpuLimits) -> Work {
    let (query, kv, dim) = (f64::from(heads.query), f64::from(heads.kv), f64::from(heads.dim));
    let flops = 4.0 * context * query * dim;
    let bytes = 2.0 * context * kv * dim * cache.weight_bytes();
    let mut work = Work::new(flops, gpu.flops_per_second(Dtype::Bfloat16), bytes, gpu);
    work.items = sequences * kv;
    work
}

/// Sizes of DeepSeek-V3's latent attention, from config.json of deepseek-ai/DeepSeek-V3: kv_lora_rank,
/// qk_rope_head_dim, qk_nope_head_dim (= v_head_dim), q_lora_rank, hidden_size.
const MLA_LATENT: f64 = 512.0;
const MLA_ROTARY: f64 = 64.0;
const MLA_HEAD: f64 = 128.0;
const MLA_QUERY_RANK: f64 = 1536.0;
const MLA_HIDDEN: f64 = 7168.0;

/// Latent attention in prefill runs as ordinary attention: keys of 192, values of 128 per head.
pub fn mla_prefill(tokens: f64, pairs: f64, chunks: f64, heads: f64, gpu: &GpuLimits) -> Work {
    let width = 2.0 * MLA_HEAD + MLA_ROTARY;
    let bytes = 2.0 * tokens * heads * 2.0 * width;
    let rate = gpu.flops_per_second(Dtype::Bfloat16);
    let mut work = Work::new(2.0 * pairs * heads * width, rate, bytes, gpu);
    work.chain = longest_loop(tokens, pairs, chunks, 0);
    work.slowest_tile(2.0 * PREFILL_QUERY_TILE * width * work.chain, rate, gpu);
    work
}

/// Latent attention in decode, absorbed: every cached latent vector (512 + 64) is read once for all heads.
pub fn mla_decode(sequences: f64, context: f64, heads: f64, cache: Dtype, gpu: &GpuLimits) -> Work {
    let flops = 2.0 * context * heads * (2.0 * MLA_LATENT + MLA_ROTARY);
    let bytes = context * (MLA_LATENT + MLA_ROTARY) * cache.weight_bytes();
    let mut work = Work::new(flops, gpu.flops_per_second(Dtype::Bfloat16), bytes, gpu);
    work.items = sequences;
    work
}

/// The projections of the latent-attention block: down to the query and key-value ranks, up to this rank's heads
/// (or their absorbed form, which multiplies as much), and out.
pub fn mla_projections(tokens: f64, heads: f64, dtype: Dtype, gpu: &GpuLimits) -> Work {
    let down = MLA_HIDDEN * (MLA_QUERY_RANK + MLA_LATENT + MLA_ROTARY);
    let query_up = MLA_QUERY_RANK * heads * (MLA_HEAD + MLA_ROTARY);
    let value_up = MLA_LATENT * heads * 2.0 * MLA_HEAD;
    let out = heads * MLA_HEAD * MLA_HIDDEN;
    let weights = down + query_up + value_up + out;
    let flops = 2.0 * tokens * weights;
    Work::new(flops, gpu.flops_per_second(dtype), weights * dtype.weight_bytes(), gpu)
}

/// Routed experts on one rank: `tokens x topk / expert_ranks` assignments, the weights of the experts that are hit.
/// With uniform routing `E (1 - (1 - k/E)^T)` distinct experts are hit; balanced routing hits as many as it can.
/// `touched` says how many where the caller knows.
pub fn moe(
    tokens: f64,
    experts: &Experts,
    dtype: Dtype,
    routing: Routing,
    touched: Option<f64>,
    gpu: &GpuLimits,
) -> Work {
    let (hidden, topk) = (f64::from(experts.hidden), f64::from(experts.topk));
    let inter = f64::from(experts.inter) / f64::from(experts.tensor_ranks);
    let (count, ranks) = (f64::from(experts.count), f64::from(experts.expert_ranks));
    let local = count / ranks;
    let assignments = tokens * topk / ranks;
    let hit = match routing {
        _ if touched.is_some() => touched.unwrap_or(local),
        Routing::Balanced => assignments.min(local),
        Routing::PowerLaw101 | Routing::PowerLaw120 => local * (1.0 - libm::pow(1.0 - topk / count, tokens)),
    };
    // Tokens may share all their experts, whatever the routing is called.
    let hit_at_least = (topk / ranks).min(hit);
    let matrices = if experts.gated { 3.0 } else { 2.0 };
    let expert_bytes = matrices * hidden * inter * dtype.weight_bytes();
    let flops = 2.0 * matrices * assignments * hidden * inter;
    let traffic = assignments * (4.0 * hidden + 4.0 * inter);
    let mut work = Work::new(flops, gpu.flops_per_second(dtype), hit * expert_bytes + traffic, gpu);
    let light_bytes = hit_at_least * expert_bytes;
    work.light_seconds = work.compute_seconds.max(light_bytes / gpu.bytes_per_second);
    work.items = hit;
    work.chain = tokens * topk;
    work
}

/// A collective over one NVLink domain: each rank sends at least `(ranks - 1) / ranks` of the vector once; a switch
/// that reduces in flight makes the same true for all-reduce.
pub fn collective(bytes: f64, ranks: f64, gpu: &GpuLimits) -> Work {
    let seconds = bytes * (ranks - 1.0) / ranks / gpu.link_bytes_per_second;
    Work { memory_seconds: seconds, light_seconds: seconds, items: ranks - 1.0, ..Work::default() }
}

/// Dispatch or combine: every token leaves its rank, in 8 bits at least, once per rank of its experts; the bound
/// counts one copy.
pub fn exchange(tokens: f64, hidden: f64, topk: f64, gpu: &GpuLimits) -> Work {
    let copy = tokens * hidden / gpu.link_bytes_per_second;
    Work { memory_seconds: copy * topk, light_seconds: copy * 7.0 / 8.0, ..Work::default() }
}
