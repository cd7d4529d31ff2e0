//! The operators of one forward pass on one GPU of a deployment: walked once from the model's dimensions, each with its
//! sizes per rank and how often it runs. A cost model prices them for a step's shape.

use crate::model::{
    Attention, AttentionSpan, DenseMlp, FeedForward, KvDtype, LayerKind, MixtureOfExperts, ModelSpec, Part,
    WeightDtype, WeightPlan,
};
use std::ops::Range;

pub use super::layout::{Layout, TokenExchange, Transfer};

/// Which rows a matrix product runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Every token of the step.
    Tokens,
    /// The positions that are sampled.
    Sampled,
    /// The prompt tokens of the step.
    PrefillTokens,
    /// The tokens of decoding requests: one each, and its drafts.
    DecodeRequests,
    /// Every token of the steps of all data-parallel ranks.
    GroupTokens,
    /// Every token of the step of the data-parallel rank that has most.
    LargestRank,
    /// One row, whatever the step holds.
    Once,
}

/// A dense matrix product of `rows x inputs` by `inputs x outputs`, run `batch` times side by side (once per head).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gemm {
    /// Columns of the result on this rank.
    pub outputs: u64,
    /// Inner dimension on this rank.
    pub inputs: u64,
    /// Independent products of that size.
    pub batch: u64,
    /// Format of the weights.
    pub dtype: WeightDtype,
    /// What it runs on.
    pub rows: Rows,
}

/// The routed experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Experts of the layer, on all ranks together, second copies included.
    pub experts: u64,
    /// Ranks that share the experts, whole ones each.
    pub expert_ranks: u64,
    /// Ranks that share the width of each expert.
    pub slices: u64,
    /// Experts that each token uses.
    pub experts_per_token: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Width of one expert on this rank.
    pub intermediate_size: u64,
    /// Matrices of an expert: 3 with a gate, 2 without.
    pub matrices: u64,
    /// Format of the weights.
    pub dtype: WeightDtype,
}

/// Attention over the KV cache on this rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionKernel {
    /// Query heads on this rank.
    pub heads: u64,
    /// Key and value heads on this rank; 1 for latent attention.
    pub kv_heads: u64,
    /// Elements of a head.
    pub head_dim: u64,
    /// Whether it is multi-head latent attention.
    pub is_latent: bool,
    /// Multiply-adds per head for one pair of a query and a context token, times 2.
    pub flops_per_pair_and_head: u64,
    /// Bits of KV cache that one context token has in one layer on this rank.
    pub kv_bits_per_token: u64,
    /// Query and output elements per new token.
    pub io_elements_per_token: u64,
    /// Tokens that a query looks back at most, or none for all.
    pub window_tokens: Option<u64>,
}

/// One kind of work on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A dense matrix product.
    Gemm(Gemm),
    /// Routed experts.
    Experts(Experts),
    /// Attention of prompt tokens.
    PrefillAttention(AttentionKernel),
    /// Attention of decoding requests.
    DecodeAttention(AttentionKernel),
    /// Reading and writing activations: norms, rotation, activation functions.
    Elementwise {
        /// Bytes moved per row.
        bytes_per_row: u64,
        /// What it runs on.
        rows: Rows,
    },
    /// Collecting the parts of the sampled positions' logits from the tensor-parallel group.
    LogitsGather {
        /// Bytes of all parts together, per sampled position.
        bytes_per_row: u64,
    },
    /// Summing a tensor over the tensor-parallel group.
    AllReduce {
        /// Bytes per token.
        bytes_per_token: u64,
    },
    /// Moving tokens between data-parallel ranks.
    Exchange {
        /// Which way, and by what.
        transfer: Transfer,
        /// Width of a token, in 16-bit values.
        hidden_size: u64,
        /// Experts that each token uses.
        experts_per_token: u64,
    },
    /// The data-parallel ranks tell each other the sizes of their batches (V-47).
    Agreement,
}

/// Work that a forward pass does `count` times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// What it is, for a person.
    pub name: &'static str,
    /// How often it runs in one pass.
    pub count: u64,
    /// The work of one run.
    pub work: Work,
}

/// Bytes of an activation element: 16-bit formats throughout.
const ACTIVATION_BYTES: u64 = 2;

/// Bytes that sampling moves per logit: 16-bit logits read and written in 32 bits, then three passes (scaling, softmax,
/// drawing) over those. Assumed; sorting for top-p is not counted.
const SAMPLING_BYTES_PER_LOGIT: u64 = 2 + 4 + 3 * 4;

/// Lists the operators of one pass through `layers` of `model` on one of the ranks of `layout`. The embedding belongs
/// to the first layer, final norm, head and sampling to the last. Copies of a model without experts know nothing of each
/// other (V-45).
pub fn operators(
    model: &ModelSpec,
    weights: &WeightPlan,
    kv: KvDtype,
    layout: &Layout,
    layers: Range<u32>,
) -> Vec<Operator> {
    let tensor_parallel = layout.parallel.tensor;
    let mut walk = Walk {
        layout: *layout,
        operators: Vec::new(),
        hidden: u64::from(model.hidden_size),
        ranks: u64::from(tensor_parallel.max(1)),
        weights,
        count: 1,
    };
    if layers.start == 0 {
        if layout.parallel.data > 1 && model.has_experts() {
            walk.add("data-parallel agreement", Work::Agreement);
        }
        walk.elementwise("embedding", 2 * walk.hidden * ACTIVATION_BYTES, Rows::Tokens);
    }
    let is_last = layers.end >= model.layers();
    for (kind, count) in model.layer_groups(layers) {
        walk.count = u64::from(count);
        walk.layer(&kind, kv, tensor_parallel, u64::from(model.norms_per_layer));
    }
    if is_last {
        walk.count = 1;
        walk.norms(1);
        let vocabulary = u64::from(model.vocabulary_size);
        walk.gemm("head", Part::Head, vocabulary.div_ceil(walk.ranks), walk.hidden, Rows::Sampled);
        if walk.ranks > 1 {
            walk.add("logits gather", Work::LogitsGather { bytes_per_row: vocabulary * ACTIVATION_BYTES });
        }
        walk.elementwise("sampling", vocabulary * SAMPLING_BYTES_PER_LOGIT, Rows::Sampled);
    }
    walk.operators
}

struct Walk<'a> {
    operators: Vec<Operator>,
    hidden: u64,
    ranks: u64,
    layout: Layout,
    weights: &'a WeightPlan,
    count: u64,
}

impl Walk<'_> {
    fn add(&mut self, name: &'static str, work: Work) {
        self.operators.push(Operator { name, count: self.count, work });
    }

    fn elementwise(&mut self, name: &'static str, bytes_per_row: u64, rows: Rows) {
        self.add(name, Work::Elementwise { bytes_per_row, rows });
    }

    fn gemm(&mut self, name: &'static str, part: Part, outputs: u64, inputs: u64, rows: Rows) {
        let dtype = self.weights.dtype(part);
        self.add(name, Work::Gemm(Gemm { outputs, inputs, batch: 1, dtype, rows }));
    }

    /// A fused add and norm reads and writes the stream and the residual.
    fn norms(&mut self, norms: u64) {
        self.elementwise("norm", norms * 4 * self.hidden * ACTIVATION_BYTES, Rows::Tokens);
    }

    fn all_reduce(&mut self, name: &'static str) {
        if self.ranks > 1 {
            self.add(name, Work::AllReduce { bytes_per_token: self.hidden * ACTIVATION_BYTES });
        }
    }

    fn layer(&mut self, kind: &LayerKind, kv: KvDtype, tensor_parallel: u32, norms: u64) {
        self.norms(norms);
        let kv_bits_per_token = kind.attention.kv_bits_per_token(kv, tensor_parallel).unwrap_or(0);
        match &kind.attention {
            Attention::Grouped(attention) => {
                let heads = u64::from(attention.heads).div_ceil(self.ranks);
                let kv_heads = (u64::from(attention.kv_heads) / self.ranks).max(1);
                let head_dim = u64::from(attention.head_dim);
                let qkv = (heads + 2 * kv_heads) * head_dim;
                self.gemm("qkv projection", Part::Attention, qkv, self.hidden, Rows::Tokens);
                self.elementwise("rotation and KV write", 2 * qkv * ACTIVATION_BYTES, Rows::Tokens);
                self.attention(AttentionKernel {
                    heads,
                    kv_heads,
                    head_dim,
                    is_latent: false,
                    flops_per_pair_and_head: 4 * head_dim,
                    kv_bits_per_token,
                    io_elements_per_token: 2 * heads * head_dim,
                    window_tokens: match attention.span {
                        AttentionSpan::Full => None,
                        AttentionSpan::SlidingWindow { tokens } | AttentionSpan::Chunked { tokens } => {
                            Some(u64::from(tokens))
                        }
                    },
                });
                self.gemm("output projection", Part::Attention, self.hidden, heads * head_dim, Rows::Tokens);
            }
            Attention::Latent(_) => self.latent_attention(&kind.attention, kv_bits_per_token),
        }
        self.all_reduce("attention all-reduce");
        match &kind.feed_forward {
            FeedForward::Dense(mlp) => self.mlp(mlp),
            FeedForward::Moe(moe) => self.moe(moe),
        }
        self.all_reduce("feed-forward all-reduce");
    }

    fn attention(&mut self, kernel: AttentionKernel) {
        self.add("prefill attention", Work::PrefillAttention(kernel));
        self.add("decode attention", Work::DecodeAttention(kernel));
    }

    /// MLA: prompts expand the latent to keys and values per head; decoding absorbs the expansion into the query and
    /// the output and attends over the latent itself (DeepSeek-V2, arXiv 2405.04434, section 2.1).
    fn latent_attention(&mut self, attention: &Attention, kv_bits_per_token: u64) {
        let Attention::Latent(mla) = attention else { return };
        let heads = u64::from(mla.heads).div_ceil(self.ranks);
        let (nope, rope) = (u64::from(mla.qk_nope_head_dim), u64::from(mla.qk_rope_head_dim));
        let (value, latent) = (u64::from(mla.v_head_dim), u64::from(mla.kv_lora_rank));
        let down = latent + rope;
        match mla.q_lora_rank.map(u64::from) {
            Some(rank) => {
                self.gemm("query and KV down", Part::Attention, rank + down, self.hidden, Rows::Tokens);
                self.gemm("query up", Part::Attention, heads * (nope + rope), rank, Rows::Tokens);
            }
            None => {
                let outputs = heads * (nope + rope) + down;
                self.gemm("query and KV down", Part::Attention, outputs, self.hidden, Rows::Tokens);
            }
        }
        self.elementwise("rotation and KV write", 2 * down * ACTIVATION_BYTES, Rows::Tokens);
        self.gemm("KV up", Part::Attention, heads * (nope + value), latent, Rows::PrefillTokens);
        self.add(
            "prefill attention",
            Work::PrefillAttention(AttentionKernel {
                heads,
                kv_heads: 1,
                head_dim: nope + rope,
                is_latent: true,
                flops_per_pair_and_head: 2 * (nope + rope) + 2 * value,
                kv_bits_per_token,
                io_elements_per_token: heads * (nope + rope + value),
                window_tokens: None,
            }),
        );
        let dtype = self.weights.dtype(Part::Attention);
        let absorbed = |outputs, inputs| {
            Work::Gemm(Gemm { outputs, inputs, batch: heads, dtype, rows: Rows::DecodeRequests })
        };
        self.add("query absorption", absorbed(latent, nope));
        self.add(
            "decode attention",
            Work::DecodeAttention(AttentionKernel {
                heads,
                kv_heads: 1,
                head_dim: latent + rope,
                is_latent: true,
                flops_per_pair_and_head: 2 * (latent + rope) + 2 * latent,
                kv_bits_per_token,
                io_elements_per_token: heads * (2 * latent + rope),
                window_tokens: None,
            }),
        );
        self.add("value expansion", absorbed(value, latent));
        self.gemm("output projection", Part::Attention, self.hidden, heads * value, Rows::Tokens);
    }

    fn mlp(&mut self, mlp: &DenseMlp) {
        let width = u64::from(mlp.intermediate_size).div_ceil(self.ranks);
        self.dense_feed_forward(Part::DenseMlp, width, mlp.gated);
    }

    fn dense_feed_forward(&mut self, part: Part, width: u64, gated: bool) {
        let projections = if gated { 2 } else { 1 };
        self.gemm("gate and up projection", part, projections * width, self.hidden, Rows::Tokens);
        let bytes_per_token = (projections + 1) * width * ACTIVATION_BYTES;
        self.elementwise("activation", bytes_per_token, Rows::Tokens);
        self.gemm("down projection", part, self.hidden, width, Rows::Tokens);
    }

    fn moe(&mut self, moe: &MixtureOfExperts) {
        self.gemm("router", Part::Router, u64::from(moe.experts), self.hidden, Rows::Tokens);
        let Layout { parallel, exchange } = self.layout;
        let experts_per_token = u64::from(moe.experts_per_token);
        let slices = u64::from(parallel.expert_slices());
        let experts = Work::Experts(Experts {
            experts: u64::from(moe.experts + parallel.redundant_experts),
            expert_ranks: u64::from(parallel.expert.max(1)),
            slices,
            experts_per_token,
            hidden_size: self.hidden,
            intermediate_size: u64::from(moe.expert_intermediate_size).div_ceil(slices),
            matrices: if moe.gated { 3 } else { 2 },
            dtype: self.weights.dtype(Part::Experts),
        });
        if parallel.data > 1 {
            let [there, back] = exchange.both_ways().map(|(name, transfer)| {
                (name, Work::Exchange { transfer, hidden_size: self.hidden, experts_per_token })
            });
            self.add(there.0, there.1);
            self.add("experts", experts);
            self.add(back.0, back.1);
        } else {
            self.add("experts", experts);
        }
        if moe.shared_intermediate_size > 0 {
            let width = u64::from(moe.shared_intermediate_size).div_ceil(self.ranks);
            self.dense_feed_forward(Part::SharedExperts, width, moe.gated);
        }
    }
}
