//! A model as its published dimensions describe it: layers, attention, feed-forward parts, and how its weights are
//! stored. Parameters, weight bytes and KV bytes follow from it by exact integer arithmetic.

mod catalogue_yaml;
mod check;
mod config_json;
mod families;
pub mod kv;
pub mod parameters;
mod quantization;
pub mod weight_dtype;
pub mod weights;

pub use kv::{KvDtype, KvGroup, KvLayout};
pub use parameters::{ParameterCounts, Part, Split, WeightTensor};
pub use weight_dtype::{WeightDtype, WeightPlan};
pub use weights::{Placement, WeightBytes};

use std::ops::Range;

/// Everything that the planner knows about a model. Made by [`ModelSpec::from_config_json`],
/// [`ModelSpec::from_catalogue_yaml`] or [`crate::catalogue::find_model`], which check every number.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The catalogue's name, or the one that the file's path suggests: `llama-3.1-8b`.
    pub name: String,
    /// Other names for it, such as its id on the Hugging Face hub.
    pub aliases: Vec<String>,
    /// Where the dimensions were published; empty for a bare config.json.
    pub source: String,
    /// The licence that the model's publisher states; empty for a bare config.json.
    pub licence: String,
    /// The parameter count that its publisher states, when known.
    pub published: Option<PublishedParameters>,
    /// The class that runs it: `LlamaForCausalLM`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Rows of the embedding table.
    pub vocabulary_size: u32,
    /// Whether the output head is the embedding table itself.
    pub tied_embeddings: bool,
    /// The longest sequence in tokens that the model was made for.
    pub max_positions: u32,
    /// Normalisation vectors of `hidden_size` in each layer: 2, or 4 in Gemma 2 and 3. One more stands at the end.
    pub norms_per_layer: u32,
    /// The distinct kinds of layers.
    pub layer_kinds: Vec<LayerKind>,
    /// For each layer from first to last, its index in `layer_kinds`.
    pub layer_order: Vec<u16>,
    /// How the published checkpoint stores its weights.
    pub weights: WeightPlan,
    /// Layers for multi-token prediction that come with the model and are not part of it when it is served plainly.
    /// They are in no count here.
    pub mtp_layers: u32,
    /// Whether the model has an image tower, which is in no count here.
    pub vision_tower: bool,
}

/// A parameter count as its publisher states it.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishedParameters {
    /// The stated count.
    pub total: u64,
    /// How many of these belong to parts that [`ModelSpec`] does not count (image tower, multi-token prediction).
    pub not_counted: u64,
}

/// One kind of transformer layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerKind {
    /// Its attention.
    pub attention: Attention,
    /// What follows the attention.
    pub feed_forward: FeedForward,
}

/// How a layer attends, and with it what it keeps per token in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Keys and values per head: MHA, GQA or MQA by the number of KV heads.
    Grouped(GroupedAttention),
    /// Multi-head latent attention (MLA): one compressed vector for all heads (DeepSeek-V2, arXiv 2405.04434).
    Latent(LatentAttention),
}

/// MHA, GQA (arXiv 2305.13245) and MQA (arXiv 1911.02150).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupedAttention {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads: `heads` for MHA, 1 for MQA, between them for GQA.
    pub kv_heads: u32,
    /// Elements of one head's key, and of its value.
    pub head_dim: u32,
    /// How far back a token looks.
    pub span: AttentionSpan,
    /// Normalisation of queries and keys that has weights.
    pub qk_norm: QkNorm,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Whether each head has a learned sink (gpt-oss).
    pub sinks: bool,
}

/// How far back a token looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionSpan {
    /// To the first token.
    Full,
    /// To the last `tokens` tokens, itself included.
    SlidingWindow {
        /// The window's length.
        tokens: u32,
    },
    /// To the start of its own chunk of `tokens` tokens (Llama 4).
    Chunked {
        /// The chunk's length.
        tokens: u32,
    },
}

/// Normalisation of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None, or one without weights (Llama 4).
    None,
    /// One vector of `head_dim` for all query heads and one for all key heads (Qwen 3, Gemma 3).
    PerHead,
    /// One vector over all query heads together and one over all key heads together (MiniMax M2).
    AllHeads,
}

/// Multi-head latent attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentAttention {
    /// Query heads.
    pub heads: u32,
    /// Width of the compressed query; `None` when queries are projected directly.
    pub q_lora_rank: Option<u32>,
    /// Width of the compressed keys and values: what the cache holds for each token, with the part below.
    pub kv_lora_rank: u32,
    /// Elements of a head's query and key without rotation.
    pub qk_nope_head_dim: u32,
    /// Elements of a head's query, and of the one key shared by all heads, with rotation.
    pub qk_rope_head_dim: u32,
    /// Elements of a head's value.
    pub v_head_dim: u32,
}

/// What follows the attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    /// One multi-layer perceptron.
    Dense(DenseMlp),
    /// A mixture of experts.
    Moe(MixtureOfExperts),
}

/// A multi-layer perceptron.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseMlp {
    /// Width between its projections.
    pub intermediate_size: u32,
    /// Whether a gate stands beside the first projection: three matrices instead of two.
    pub gated: bool,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// A mixture of experts with a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MixtureOfExperts {
    /// Routed experts.
    pub experts: u32,
    /// Routed experts that each token uses.
    pub experts_per_token: u32,
    /// Width of one expert.
    pub expert_intermediate_size: u32,
    /// Width of all shared experts together; 0 without any.
    pub shared_intermediate_size: u32,
    /// Whether experts have a gate: three matrices instead of two.
    pub gated: bool,
    /// Whether the experts' projections have biases.
    pub expert_bias: bool,
    /// Whether the router has one bias per expert, of any kind.
    pub router_bias: bool,
}

impl ModelSpec {
    /// Whether any layer routes tokens to experts.
    pub fn has_experts(&self) -> bool {
        self.layer_kinds.iter().any(|kind| matches!(kind.feed_forward, FeedForward::Moe(_)))
    }

    /// The number of layers.
    pub fn layers(&self) -> u32 {
        self.layer_order.len() as u32
    }

    /// All layers of the model, from the first to the last.
    pub fn all_layers(&self) -> Range<u32> {
        0..self.layers()
    }

    /// The kinds found among `layers`, each with its number of layers there. Layers past the end do not exist.
    pub fn layer_groups(&self, layers: Range<u32>) -> Vec<(LayerKind, u32)> {
        let mut counts = vec![0; self.layer_kinds.len()];
        for kind in self.layer_order.iter().take(layers.end as usize).skip(layers.start as usize) {
            if let Some(count) = counts.get_mut(usize::from(*kind)) {
                *count += 1;
            }
        }
        let groups = self.layer_kinds.iter().copied().zip(counts);
        groups.filter(|(_, count)| *count > 0).collect()
    }

    /// What belongs to the published model and is not in any count, in words, for a report.
    pub fn not_counted(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.vision_tower {
            words.push("the image tower: text layers only".to_string());
        }
        if self.mtp_layers > 0 {
            words.push(format!("{} layer(s) for multi-token prediction", self.mtp_layers));
        }
        words
    }
}

impl Attention {
    /// Query heads.
    pub fn heads(&self) -> u32 {
        match self {
            Attention::Grouped(attention) => attention.heads,
            Attention::Latent(attention) => attention.heads,
        }
    }

    /// How far back a token looks. Latent attention always looks to the first token.
    pub fn span(&self) -> AttentionSpan {
        match self {
            Attention::Grouped(attention) => attention.span,
            Attention::Latent(_) => AttentionSpan::Full,
        }
    }
}

#[cfg(test)]
mod config_tests;
#[cfg(test)]
mod tests;
