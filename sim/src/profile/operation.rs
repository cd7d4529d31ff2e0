//! One kernel call as the cost profile sees it: its shape, the work it must do, and the features that index the
//! residual tables. The same description is used to fit, to check and to predict.

use super::gpu::GpuLimits;
use super::names::{Dtype, Exchange, Family, Route, Routing};
use super::work::{self, Work};

/// Heads of one attention layer on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heads {
    /// Query heads.
    pub query: u32,
    /// Key-value heads.
    pub kv: u32,
    /// Width of one head.
    pub dim: u32,
    /// Sliding window in tokens, 0 for full attention.
    pub window: u32,
}

/// One layer of routed experts and how it is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Experts {
    /// Width of the tokens.
    pub hidden: u32,
    /// Intermediate width of one whole expert.
    pub inter: u32,
    /// Experts of the layer, over all ranks.
    pub count: u32,
    /// Experts per token.
    pub topk: u32,
    /// Ranks that share the intermediate width.
    pub tensor_ranks: u32,
    /// Ranks that share the experts.
    pub expert_ranks: u32,
    /// True for gate, up and down matrices (three), false for up and down (two).
    pub gated: bool,
}

/// The most features a family has.
pub const MAX_FEATURES: usize = 5;

/// The figures of one call that index residual tables: positive numbers, at most [`MAX_FEATURES`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Features {
    values: [f64; MAX_FEATURES],
    count: usize,
}

impl Features {
    fn new(list: &[f64]) -> Features {
        let mut values = [1.0; MAX_FEATURES];
        values[..list.len()].copy_from_slice(list);
        Features { values, count: list.len() }
    }

    /// The figures in the order of [`Family::features`].
    pub fn values(&self) -> &[f64] {
        &self.values[..self.count]
    }
}

/// One kernel call. Token, pair and context figures are sums over the sequences of the call.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "each value's text names its fields")]
pub enum Operation {
    /// `C[m, n] = A[m, k] B[k, n]`.
    Gemm { m: f64, n: u32, k: u32, dtype: Dtype },
    /// Causal attention: `tokens` query tokens, of `chunks` sequences, `pairs` query-key pairs that are not
    /// masked.
    AttentionPrefill { tokens: f64, pairs: f64, chunks: f64, heads: Heads, compute: Dtype, cache: Dtype },
    /// One query token for each of `sequences`, whose cached tokens (the new one included) sum to `context`.
    AttentionDecode { sequences: f64, context: f64, heads: Heads, cache: Dtype },
    /// Latent attention core, prefill.
    MlaPrefill { tokens: f64, pairs: f64, chunks: f64, heads: u32, cache: Dtype },
    /// Latent attention core, decode.
    MlaDecode { sequences: f64, context: f64, heads: u32, cache: Dtype },
    /// Latent attention block with projections, prefill; `heads` on this rank, weights of type `dtype`.
    MlaModulePrefill { tokens: f64, pairs: f64, chunks: f64, heads: u32, cache: Dtype, dtype: Dtype },
    /// Latent attention block with projections, decode; `heads` on this rank, weights of type `dtype`.
    MlaModuleDecode { sequences: f64, context: f64, heads: u32, cache: Dtype, dtype: Dtype },
    /// Routed experts; `tokens` of all ranks that share the experts, before top-k expansion; `touched` distinct experts of
    /// this rank, where that is known better than from the routing.
    Moe { tokens: f64, experts: Experts, dtype: Dtype, routing: Routing, touched: Option<f64> },
    /// A collective of `bytes` per rank: the whole vector for all-reduce, the gathered vector for all-gather, the
    /// input vector for reduce-scatter and all-to-all.
    Collective { family: Family, bytes: f64, ranks: u32, route: Route },
    /// Dispatch or combine of `tokens` per rank over 8 ranks.
    ExpertExchange { tokens: f64, hidden: u32, topk: u32, exchange: Exchange },
    /// A streaming kernel that reads and writes `bytes` in total.
    Elementwise { bytes: f64 },
}

impl Operation {
    /// The family that prices this call.
    pub fn family(&self) -> Family {
        match self {
            Operation::Gemm { .. } => Family::Gemm,
            Operation::AttentionPrefill { .. } => Family::AttentionPrefill,
            Operation::AttentionDecode { .. } => Family::AttentionDecode,
            Operation::MlaPrefill { .. } => Family::MlaPrefill,
            Operation::MlaDecode { .. } => Family::MlaDecode,
            Operation::MlaModulePrefill { .. } => Family::MlaModulePrefill,
            Operation::MlaModuleDecode { .. } => Family::MlaModuleDecode,
            Operation::Moe { .. } => Family::Moe,
            Operation::Collective { family, .. } => *family,
            Operation::ExpertExchange { .. } => Family::ExpertExchange,
            Operation::Elementwise { .. } => Family::Elementwise,
        }
    }

    /// The variant of the family: everything of the call that selects another kernel rather than another size.
    pub fn variant(&self) -> String {
        match self {
            Operation::Gemm { dtype, .. } => dtype.name().to_string(),
            Operation::AttentionPrefill { heads, compute, cache, .. } => format!(
                "{} cache={} head_dim={} window={}",
                compute.name(),
                cache.name(),
                heads.dim,
                heads.window
            ),
            Operation::AttentionDecode { heads, cache, .. } => {
                format!("cache={} head_dim={} window={}", cache.name(), heads.dim, heads.window)
            }
            Operation::MlaPrefill { cache, .. } | Operation::MlaDecode { cache, .. } => {
                format!("cache={}", cache.name())
            }
            Operation::MlaModulePrefill { cache, dtype, .. }
            | Operation::MlaModuleDecode { cache, dtype, .. } => {
                format!("{} cache={}", dtype.name(), cache.name())
            }
            Operation::Moe { experts, dtype, routing, .. } => {
                let gated = if experts.gated { "gated" } else { "plain" };
                format!("{} {} {gated}", dtype.name(), routing.name())
            }
            Operation::Collective { route, .. } => route.name().to_string(),
            Operation::ExpertExchange { exchange, .. } => exchange.name().to_string(),
            Operation::Elementwise { .. } => "stream".to_string(),
        }
    }

    /// The same attention without its window, when it has one.
    pub fn without_window(&self) -> Option<Operation> {
        let mut full = *self;
        match &mut full {
            Operation::AttentionPrefill { heads, .. } | Operation::AttentionDecode { heads, .. } => {
                if heads.window == 0 {
                    return None;
                }
                heads.window = 0;
            }
            _ => return None,
        }
        Some(full)
    }

    /// The figures that index the residual tables, as named by [`Family::features`]; all are positive.
    pub fn features(&self) -> Features {
        match *self {
            Operation::Gemm { m, n, k, .. } => Features::new(&[m, f64::from(n), f64::from(k)]),
            Operation::AttentionPrefill { tokens, pairs, chunks, heads, .. } => {
                let longest = work::longest_loop(tokens, pairs, chunks, heads.window);
                let (query, kv) = (f64::from(heads.query), f64::from(heads.kv));
                Features::new(&[tokens * query, longest, query / kv, kv])
            }
            Operation::AttentionDecode { sequences, context, heads, .. } => {
                let kv = f64::from(heads.kv);
                Features::new(&[sequences, context / sequences, kv, f64::from(heads.query) / kv])
            }
            Operation::MlaPrefill { tokens, pairs, chunks, heads, .. }
            | Operation::MlaModulePrefill { tokens, pairs, chunks, heads, .. } => {
                let longest = work::longest_loop(tokens, pairs, chunks, 0);
                Features::new(&[tokens, longest, f64::from(heads)])
            }
            Operation::MlaDecode { sequences, context, heads, .. }
            | Operation::MlaModuleDecode { sequences, context, heads, .. } => {
                Features::new(&[sequences, context / sequences, f64::from(heads)])
            }
            Operation::Moe { tokens, experts, .. } => Features::new(&[
                tokens,
                f64::from(experts.hidden),
                f64::from(experts.inter) / f64::from(experts.tensor_ranks),
                f64::from(experts.count) / f64::from(experts.expert_ranks),
                f64::from(experts.topk),
            ]),
            Operation::Collective { bytes, ranks, .. } => Features::new(&[bytes, f64::from(ranks)]),
            Operation::ExpertExchange { tokens, hidden, topk, .. } => {
                Features::new(&[tokens, f64::from(hidden), f64::from(topk)])
            }
            Operation::Elementwise { bytes } => Features::new(&[bytes]),
        }
    }

    /// The least work this call needs on `gpu`.
    pub fn work(&self, gpu: &GpuLimits) -> Work {
        match *self {
            Operation::Gemm { m, n, k, dtype } => work::gemm(m, f64::from(n), f64::from(k), dtype, gpu),
            Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute, .. } => {
                work::prefill(tokens, pairs, chunks, heads, compute, gpu)
            }
            Operation::AttentionDecode { sequences, context, heads, cache } => {
                work::decode(sequences, context, heads, cache, gpu)
            }
            Operation::MlaPrefill { tokens, pairs, chunks, heads, .. } => {
                work::mla_prefill(tokens, pairs, chunks, f64::from(heads), gpu)
            }
            Operation::MlaDecode { sequences, context, heads, cache } => {
                work::mla_decode(sequences, context, f64::from(heads), cache, gpu)
            }
            Operation::MlaModulePrefill { tokens, pairs, chunks, heads, dtype, .. } => {
                let core = work::mla_prefill(tokens, pairs, chunks, f64::from(heads), gpu);
                core.then(work::mla_projections(tokens, f64::from(heads), dtype, gpu))
            }
            Operation::MlaModuleDecode { sequences, context, heads, cache, dtype } => {
                let core = work::mla_decode(sequences, context, f64::from(heads), cache, gpu);
                core.then(work::mla_projections(sequences, f64::from(heads), dtype, gpu))
            }
            Operation::Moe { tokens, experts, dtype, routing, touched } => {
                work::moe(tokens, &experts, dtype, routing, touched, gpu)
            }
            Operation::Collective { bytes, ranks, .. } => work::collective(bytes, f64::from(ranks), gpu),
            Operation::ExpertExchange { tokens, hidden, topk, .. } => {
                work::exchange(tokens, f64::from(hidden), f64::from(topk), gpu)
            }
            Operation::Elementwise { bytes } => Work::memory(bytes, gpu),
        }
    }
}
