//! The same model with another attention: what MHA, GQA, MQA or MLA would make of its KV cache.

use crate::cost::experts_touched;
use crate::error::{Error, Result};
use crate::model::{
    Attention, AttentionSpan, GroupedAttention, KvDtype, LatentAttention, ModelSpec, QkNorm, WeightPlan,
};
use std::fmt;

/// Another attention for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionChange {
    /// The model as it is.
    AsPublished,
    /// As many KV heads as query heads.
    Mha,
    /// This many KV heads.
    Gqa(u32),
    /// One KV head.
    Mqa,
    /// One compressed vector for all heads, and one key with rotation that all heads share.
    Mla {
        /// Elements of the compressed vector.
        latent: u32,
        /// Elements with rotation.
        rope: u32,
    },
}

/// DeepSeek-V2's and V3's compressed vector (arXiv 2405.04434 and 2412.19437).
const MLA_LATENT: u32 = 512;
/// Their part with rotation.
const MLA_ROPE: u32 = 64;
/// What [`AttentionChange::parse`] reads.
const ALLOWED: &str = "mha, gqa:N (N KV heads), mqa, mla or mla:LATENT+ROPE (512+64 without)";

impl AttentionChange {
    /// Reads `mha`, `gqa:8`, `mqa`, `mla` or `mla:512+64`.
    pub fn parse(text: &str) -> std::result::Result<AttentionChange, String> {
        let wrong = || format!("found the attention `{text}`, expected {ALLOWED}");
        let number = |digits: &str| match digits.parse::<u32>() {
            Ok(value) if (1..=65_536).contains(&value) => Ok(value),
            _ => Err(wrong()),
        };
        match text.split_once(':') {
            None => match text {
                "as-published" => Ok(AttentionChange::AsPublished),
                "mha" => Ok(AttentionChange::Mha),
                "mqa" => Ok(AttentionChange::Mqa),
                "mla" => Ok(AttentionChange::Mla { latent: MLA_LATENT, rope: MLA_ROPE }),
                _ => Err(wrong()),
            },
            Some(("gqa", heads)) => Ok(AttentionChange::Gqa(number(heads)?)),
            Some(("mla", sizes)) => {
                let (latent, rope) = sizes.split_once('+').ok_or_else(wrong)?;
                Ok(AttentionChange::Mla { latent: number(latent)?, rope: number(rope)? })
            }
            Some(_) => Err(wrong()),
        }
    }

    /// The model with this attention in every layer. Windows stay where keys and values are per head; latent attention
    /// sees everything. A latent model that is given keys and values per head gets heads of its value's size (as table 1
    /// of arXiv 2405.04434 compares them).
    pub fn apply(&self, model: &ModelSpec) -> Result<ModelSpec> {
        let mut changed = model.clone();
        for kind in &mut changed.layer_kinds {
            kind.attention = self.attention(&kind.attention, &model.name)?;
        }
        Ok(changed)
    }

    fn attention(&self, old: &Attention, model: &str) -> Result<Attention> {
        let heads = old.heads();
        let kv_heads = match *self {
            AttentionChange::AsPublished => return Ok(*old),
            AttentionChange::Mla { latent, rope } => {
                return Ok(Attention::Latent(latent_attention(old, latent, rope)));
            }
            AttentionChange::Mha => heads,
            AttentionChange::Gqa(kv_heads) => kv_heads,
            AttentionChange::Mqa => 1,
        };
        if kv_heads > heads || !heads.is_multiple_of(kv_heads) {
            return Err(Error::new(format!(
                "found {kv_heads} KV heads, expected a divisor of the {heads} query heads of {model}"
            )));
        }
        let grouped = match *old {
            Attention::Grouped(grouped) => GroupedAttention { kv_heads, ..grouped },
            Attention::Latent(latent) => GroupedAttention {
                heads,
                kv_heads,
                head_dim: latent.v_head_dim,
                span: AttentionSpan::Full,
                qk_norm: QkNorm::None,
                qkv_bias: false,
                output_bias: false,
                sinks: false,
            },
        };
        Ok(Attention::Grouped(grouped))
    }
}

fn latent_attention(old: &Attention, latent: u32, rope: u32) -> LatentAttention {
    match *old {
        Attention::Latent(old) => LatentAttention { kv_lora_rank: latent, qk_rope_head_dim: rope, ..old },
        Attention::Grouped(old) => LatentAttention {
            heads: old.heads,
            q_lora_rank: None,
            kv_lora_rank: latent,
            qk_nope_head_dim: old.head_dim,
            qk_rope_head_dim: rope,
            v_head_dim: old.head_dim,
        },
    }
}

impl fmt::Display for AttentionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttentionChange::AsPublished => f.write_str("as published"),
            AttentionChange::Mha => f.write_str("MHA"),
            AttentionChange::Gqa(heads) => write!(f, "GQA {heads}"),
            AttentionChange::Mqa => f.write_str("MQA"),
            AttentionChange::Mla { latent, rope } => write!(f, "MLA {latent}+{rope}"),
        }
    }
}

/// What the attention of a model is called: `GQA 8`, `MLA 512+64`; `mixed` when layers differ.
pub fn attention_name(model: &ModelSpec) -> String {
    let name = |attention: &Attention| match attention {
        Attention::Grouped(a) if a.kv_heads == a.heads => "MHA".to_string(),
        Attention::Grouped(a) if a.kv_heads == 1 => "MQA".to_string(),
        Attention::Grouped(a) => format!("GQA {}", a.kv_heads),
        Attention::Latent(a) => format!("MLA {}+{}", a.kv_lora_rank, a.qk_rope_head_dim),
    };
    let mut names: Vec<String> = model.layer_kinds.iter().map(|kind| name(&kind.attention)).collect();
    names.dedup();
    if names.len() == 1 { names.remove(0) } else { "mixed".to_string() }
}

/// Bytes of KV cache that one decoded token reads when `context_tokens` stand before it: each layer all that it sees,
/// counted once, however many GPUs hold a copy.
pub fn kv_bytes_read_per_token(model: &ModelSpec, kv: KvDtype, context_tokens: u64) -> Result<u64> {
    let mut bits = 0u64;
    for (kind, layers) in model.layer_groups(model.all_layers()) {
        let seen = match kind.attention.span() {
            AttentionSpan::Full => context_tokens,
            // Of a chunk it is the most: on average the current one is half full.
            AttentionSpan::SlidingWindow { tokens } | AttentionSpan::Chunked { tokens } => {
                context_tokens.min(u64::from(tokens))
            }
        };
        let each = kind.attention.kv_bits_per_token(kv, 1)?;
        bits = bits.saturating_add(each.saturating_mul(seen).saturating_mul(u64::from(layers)));
    }
    Ok(bits.div_ceil(8))
}

/// Bytes of weights that a decoding step of `batch` requests reads: everything once, of the experts those that are
/// picked (uniformly, as [`experts_touched`] counts them), of the embedding table nothing but where it is the head.
pub fn weight_bytes_read_per_step(model: &ModelSpec, plan: &WeightPlan, batch: u64) -> u64 {
    let mut bytes = 0.0;
    let mut add = |tensor: &crate::model::WeightTensor, layers: u32| {
        let copies = match tensor.copies {
            1 => 1.0,
            many => experts_touched(many as f64, tensor.active_copies as f64, batch as f64),
        };
        let each = plan.dtype(tensor.part).matrix_bytes(tensor.outputs, tensor.inputs);
        bytes += copies * each as f64 * f64::from(layers);
    };
    for (kind, layers) in model.layer_groups(model.all_layers()) {
        for tensor in model.layer_tensors(&kind) {
            add(&tensor, layers);
        }
    }
    for tensor in model.final_tensors() {
        add(&tensor, 1);
    }
    if model.tied_embeddings {
        add(&model.embedding_tensor(), 1);
    }
    bytes.round() as u64
}
