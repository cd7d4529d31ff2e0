//! What a model's operator is as a call of a kernel that a profile prices.

use super::ExpertLoad;
use super::operators::{AttentionKernel, Experts as ExpertsWork, Gemm, Layout, Rows, Transfer, Work};
use crate::error::{Error, Result};
use crate::model::{KvDtype, WeightDtype};
use crate::profile::{Dtype, Exchange, Experts, Family, Heads, Operation, Route, Routing};
use crate::step::StepShape;
use std::sync::Arc;

/// The sums that one kernel call is priced by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    /// Rows of a product, query tokens, or sequences.
    pub rows: f64,
    /// Pairs of a query and a key that it sees.
    pub pairs: f64,
    /// Chunks that the query tokens belong to.
    pub chunks: f64,
}

impl Sums {
    pub fn rows(rows: f64) -> Sums {
        Sums { rows, pairs: rows, chunks: 1.0 }
    }

    pub fn prefill(shape: &StepShape, window_tokens: Option<u64>) -> Sums {
        let pairs = windowed(shape.prefill_attention_pairs, shape.prefill_tokens, window_tokens);
        Sums { rows: shape.prefill_tokens as f64, pairs, chunks: shape.prefill_requests as f64 }
    }

    pub fn decode(shape: &StepShape, window_tokens: Option<u64>) -> Sums {
        let pairs = windowed(shape.decode_context_tokens, shape.decode_requests, window_tokens);
        Sums { rows: shape.decode_requests as f64, pairs, chunks: shape.decode_requests as f64 }
    }
}

/// A sum with the window applied: never more than `rows` windows. With sums only this is an upper bound when some
/// contexts are shorter than the window and others longer.
pub(super) fn windowed(sum: u64, rows: u64, window_tokens: Option<u64>) -> f64 {
    window_tokens.map_or(sum, |window| sum.min(rows.saturating_mul(window))) as f64
}

/// What turns an operator into calls of the profile's kernels.
#[derive(Debug, Clone)]
pub struct Context {
    /// How the GPUs share each layer.
    pub layout: Layout,
    /// Format of the KV cache.
    pub kv: KvDtype,
    /// Under which routing the experts' kernels were measured.
    pub routing: Routing,
    /// The busiest GPU's load, over kernels that were measured under balanced routing.
    pub load: Option<Arc<ExpertLoad>>,
}

impl Context {
    /// Tensor parallelism alone with balanced routing.
    pub fn tensor(ranks: u32, kv: KvDtype) -> Context {
        Context { layout: Layout::tensor(ranks), kv, routing: Routing::Balanced, load: None }
    }
}

/// The rows that decide what the work costs.
pub(super) fn rows_of(work: &Work) -> Rows {
    match work {
        Work::Gemm(gemm) => gemm.rows,
        Work::PrefillAttention(_) => Rows::PrefillTokens,
        Work::DecodeAttention(_) => Rows::DecodeRequests,
        Work::Elementwise { rows, .. } => *rows,
        Work::LogitsGather { .. } => Rows::Sampled,
        Work::AllReduce { .. } => Rows::Tokens,
        Work::Experts(_) => Rows::GroupTokens,
        Work::Exchange { transfer: Transfer::AllGather | Transfer::ReduceScatter, .. } => Rows::GroupTokens,
        Work::Exchange { .. } => Rows::LargestRank,
        Work::Agreement => Rows::Once,
    }
}

/// The kernel call of `work`.
pub(super) fn call(work: &Work, context: &Context, sums: Sums) -> Result<Operation> {
    let parallel = context.layout.parallel;
    let ranks = parallel.tensor;
    let Sums { rows, pairs, chunks } = sums;
    Ok(match work {
        Work::Gemm(gemm) => gemm_call(gemm, rows)?,
        Work::Experts(experts) => experts_call(experts, context, rows)?,
        Work::Exchange { transfer, hidden_size, experts_per_token } => {
            exchange_call(*transfer, narrow(*hidden_size), narrow(*experts_per_token), context, rows)?
        }
        Work::Agreement => Operation::Collective {
            family: Family::AllReduce,
            bytes: AGREEMENT_BYTES,
            ranks: parallel.data,
            route: Route::Nccl,
        },
        Work::PrefillAttention(kernel) if kernel.is_latent => Operation::MlaPrefill {
            tokens: rows,
            pairs,
            chunks,
            heads: narrow(kernel.heads),
            cache: cache_dtype(context.kv)?,
        },
        Work::DecodeAttention(kernel) if kernel.is_latent => Operation::MlaDecode {
            sequences: rows,
            context: pairs,
            heads: narrow(kernel.heads),
            cache: cache_dtype(context.kv)?,
        },
        Work::PrefillAttention(kernel) => Operation::AttentionPrefill {
            tokens: rows,
            pairs,
            chunks,
            heads: heads(kernel),
            compute: Dtype::Bfloat16,
            cache: cache_dtype(context.kv)?,
        },
        Work::DecodeAttention(kernel) => Operation::AttentionDecode {
            sequences: rows,
            context: pairs,
            heads: heads(kernel),
            cache: cache_dtype(context.kv)?,
        },
        Work::Elementwise { bytes_per_row, .. } => {
            Operation::Elementwise { bytes: rows * *bytes_per_row as f64 }
        }
        Work::LogitsGather { bytes_per_row } => Operation::Collective {
            family: Family::AllGather,
            bytes: rows * *bytes_per_row as f64,
            ranks,
            route: Route::Nccl,
        },
        Work::AllReduce { bytes_per_token } => Operation::Collective {
            family: Family::AllReduce,
            bytes: rows * *bytes_per_token as f64,
            ranks,
            route: Route::Nccl,
        },
    })
}

/// Experts of one layer for the tokens of all ranks: under a load, those that would give every rank what the busiest has.
fn experts_call(experts: &ExpertsWork, context: &Context, rows: f64) -> Result<Operation> {
    let load = context.load.as_ref();
    Ok(Operation::Moe {
        tokens: load.map_or(rows, |load| load.even_tokens(rows)),
        experts: Experts {
            hidden: narrow(experts.hidden_size),
            inter: narrow(experts.intermediate_size * experts.slices),
            count: narrow(experts.experts),
            topk: narrow(experts.experts_per_token),
            tensor_ranks: narrow(experts.slices),
            expert_ranks: narrow(experts.expert_ranks),
            gated: experts.matrices == 3,
        },
        dtype: weight_dtype(experts.dtype)?,
        routing: context.routing,
        touched: load.map(|load| load.touched(rows)),
    })
}

/// The smallest message that NCCL was measured with; what the ranks tell each other is shorter.
const AGREEMENT_BYTES: f64 = 512.0;

/// Ranks of the exchanges that were measured: one node.
const MEASURED_EXCHANGE_RANKS: u32 = 8;

/// Tokens to or from the experts' ranks. All tokens of the busiest receiver count for exchanges that go to ranks of experts
/// alone.
fn exchange_call(
    transfer: Transfer,
    hidden: u32,
    topk: u32,
    context: &Context,
    rows: f64,
) -> Result<Operation> {
    let ranks = context.layout.parallel.data;
    let collective = |family| Operation::Collective {
        family,
        bytes: rows * 2.0 * f64::from(hidden),
        ranks,
        route: Route::Nccl,
    };
    let exchange = match transfer {
        Transfer::AllGather => return Ok(collective(Family::AllGather)),
        Transfer::ReduceScatter => return Ok(collective(Family::ReduceScatter)),
        Transfer::LowLatencyDispatch => Exchange::LowLatencyDispatch,
        Transfer::LowLatencyCombine => Exchange::LowLatencyCombine,
        Transfer::HighThroughputDispatch => Exchange::HighThroughputDispatch,
        Transfer::HighThroughputCombine => Exchange::HighThroughputCombine,
    };
    if ranks != MEASURED_EXCHANGE_RANKS {
        return Err(Error::new(format!(
            "DeepEP's exchange was measured over {MEASURED_EXCHANGE_RANKS} ranks, found data_parallel {ranks}; use \
             engine.all2all_backend allgather_reducescatter"
        )));
    }
    let receiver = context.load.as_ref().map_or(1.0, |load| load.busiest_receiver);
    Ok(Operation::ExpertExchange { tokens: rows * receiver, hidden, topk, exchange })
}

/// One product per head is priced as one product with as many rows: the same operations, the same rows in all.
fn gemm_call(gemm: &Gemm, rows: f64) -> Result<Operation> {
    Ok(Operation::Gemm {
        m: rows * gemm.batch as f64,
        n: narrow(gemm.outputs),
        k: narrow(gemm.inputs),
        dtype: weight_dtype(gemm.dtype)?,
    })
}

fn heads(kernel: &AttentionKernel) -> Heads {
    Heads {
        query: narrow(kernel.heads),
        kv: narrow(kernel.kv_heads),
        dim: narrow(kernel.head_dim),
        window: narrow(kernel.window_tokens.unwrap_or(0)),
    }
}

fn narrow(size: u64) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// The profile's name of a weight format; 4-bit formats share one kernel family (weights expanded on the fly).
fn weight_dtype(dtype: WeightDtype) -> Result<Dtype> {
    Ok(match dtype {
        WeightDtype::Bf16 | WeightDtype::Fp16 => Dtype::Bfloat16,
        WeightDtype::Fp8 => Dtype::Fp8,
        WeightDtype::Fp8Block => Dtype::Fp8Block,
        WeightDtype::Int8 => Dtype::Int8,
        WeightDtype::Int4Awq { .. } | WeightDtype::Int4Gptq { .. } | WeightDtype::Int4Packed { .. } => {
            Dtype::Int4Weights
        }
        WeightDtype::Mxfp4 => Dtype::Mxfp4Weights,
        WeightDtype::Fp32 | WeightDtype::Nvfp4 => {
            return Err(Error::new(format!("no measured kernel multiplies {dtype} weights")));
        }
    })
}

fn cache_dtype(kv: KvDtype) -> Result<Dtype> {
    match kv {
        KvDtype::Auto | KvDtype::Bf16 => Ok(Dtype::Bfloat16),
        KvDtype::Fp8 | KvDtype::Fp8PerTokenHead | KvDtype::Fp8DsMla => Ok(Dtype::Fp8),
        KvDtype::Int8 | KvDtype::Int4 | KvDtype::Nvfp4 => {
            Err(Error::new(format!("no measured attention kernel reads a KV cache of {}", kv.name())))
        }
    }
}
