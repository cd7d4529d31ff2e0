//! What each architecture's config.json means: the layers that its class builds from the keys. The defaults are those of
//! the classes in Hugging Face transformers.

use super::check::{MOST_EXPERTS, MOST_HEAD_DIM, MOST_HEADS, MOST_LAYERS, MOST_POSITIONS, MOST_WIDTH};
use super::config_json::Config;
use super::{
    Attention, AttentionSpan, DenseMlp, FeedForward, GroupedAttention, LatentAttention, LayerKind,
    MixtureOfExperts, QkNorm,
};
use crate::error::Result;

/// Architectures that read their keys alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Llama4,
    Mistral,
    Mixtral,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    MiMo,
    Gemma2,
    Gemma3,
    Phi3,
    DeepSeek,
    GptOss,
    Glm4Moe,
    MiniMaxM2,
}

/// Class, `model_type`, family. Where several classes share a `model_type` the first is meant.
const ARCHITECTURES: [(&str, &str, Family); 20] = [
    ("LlamaForCausalLM", "llama", Family::Llama),
    ("Llama4ForConditionalGeneration", "llama4", Family::Llama4),
    ("Llama4ForCausalLM", "llama4_text", Family::Llama4),
    ("MistralForCausalLM", "mistral", Family::Mistral),
    ("MixtralForCausalLM", "mixtral", Family::Mixtral),
    ("Qwen2ForCausalLM", "qwen2", Family::Qwen2),
    ("Qwen3ForCausalLM", "qwen3", Family::Qwen3),
    ("Qwen3MoeForCausalLM", "qwen3_moe", Family::Qwen3Moe),
    ("MiMoForCausalLM", "mimo", Family::MiMo),
    ("Gemma2ForCausalLM", "gemma2", Family::Gemma2),
    ("Gemma3ForConditionalGeneration", "gemma3", Family::Gemma3),
    ("Gemma3ForCausalLM", "gemma3_text", Family::Gemma3),
    ("Phi3ForCausalLM", "phi3", Family::Phi3),
    ("DeepseekV2ForCausalLM", "deepseek_v2", Family::DeepSeek),
    ("DeepseekV3ForCausalLM", "deepseek_v3", Family::DeepSeek),
    ("DeepseekV3ForCausalLM", "kimi_k2", Family::DeepSeek),
    ("KimiK25ForConditionalGeneration", "kimi_k25", Family::DeepSeek),
    ("GptOssForCausalLM", "gpt_oss", Family::GptOss),
    ("Glm4MoeForCausalLM", "glm4_moe", Family::Glm4Moe),
    ("MiniMaxM2ForCausalLM", "minimax_m2", Family::MiniMaxM2),
];

impl Family {
    pub(super) fn of(architecture: &str) -> Option<Family> {
        ARCHITECTURES.iter().find(|row| row.0 == architecture).map(|row| row.2)
    }

    pub(super) fn architecture_of(model_type: &str) -> Option<&'static str> {
        ARCHITECTURES.iter().find(|row| row.1 == model_type).map(|row| row.0)
    }

    pub(super) fn architectures() -> Vec<&'static str> {
        let mut names: Vec<&str> = ARCHITECTURES.iter().map(|row| row.0).collect();
        names.dedup();
        names
    }

    pub(super) fn tied_by_default(self) -> bool {
        matches!(self, Family::Gemma2 | Family::Gemma3)
    }

    pub(super) fn norms_per_layer(self) -> u32 {
        if matches!(self, Family::Gemma2 | Family::Gemma3) { 4 } else { 2 }
    }

    /// Gemma 3's own files leave out what equals the class's default.
    pub(super) fn default_vocabulary(self) -> Option<u32> {
        (self == Family::Gemma3).then_some(262_208)
    }

    pub(super) fn default_max_positions(self) -> Option<u32> {
        (self == Family::Gemma3).then_some(131_072)
    }
}

/// Layers for multi-token prediction.
pub(super) fn mtp_layers(config: &Config) -> Result<u32> {
    Ok(config.count("num_nextn_predict_layers", MOST_LAYERS)?.unwrap_or(0))
}

/// Every layer in order.
pub(super) fn layers(config: &Config, family: Family, max_positions: u32) -> Result<Vec<LayerKind>> {
    let default_layers = (family == Family::Gemma3).then_some(26);
    let count = config.size_or("num_hidden_layers", MOST_LAYERS, default_layers)?;
    let attention: Vec<Attention> = match family {
        Family::DeepSeek => vec![Attention::Latent(latent(config)?); count as usize],
        _ => {
            let common = grouped(config, family)?;
            let spans = spans(config, family, count, max_positions)?;
            spans.into_iter().map(|span| Attention::Grouped(GroupedAttention { span, ..common })).collect()
        }
    };
    let mut layers = Vec::with_capacity(attention.len());
    for (index, attention) in (0..count).zip(attention) {
        layers.push(LayerKind { attention, feed_forward: feed_forward(config, family, index)? });
    }
    Ok(layers)
}

fn grouped(config: &Config, family: Family) -> Result<GroupedAttention> {
    let default_heads = (family == Family::Gemma3).then_some(8);
    let heads = config.size_or("num_attention_heads", MOST_HEADS, default_heads)?;
    let default_kv_heads = if family == Family::Gemma3 { 4 } else { heads };
    let kv_heads = config.optional_size("num_key_value_heads", MOST_HEADS)?.unwrap_or(default_kv_heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(config.error(
            "num_key_value_heads",
            format!("found {kv_heads} KV heads for {heads} attention heads, expected a divisor of them"),
        ));
    }
    let head_dim = match config.optional_size("head_dim", MOST_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None => default_head_dim(config, family, heads)?,
    };
    let bias = config.flag("attention_bias", family == Family::GptOss)?;
    let (qkv_bias, output_bias) = match family {
        Family::Qwen2 => (true, false),
        Family::MiMo | Family::Glm4Moe => (bias, false),
        Family::Mistral | Family::Mixtral | Family::Phi3 | Family::MiniMaxM2 => (false, false),
        _ => (bias, bias),
    };
    let qk_norm = match family {
        Family::Qwen3 | Family::Qwen3Moe | Family::Gemma3 => QkNorm::PerHead,
        Family::Glm4Moe if config.flag("use_qk_norm", false)? => QkNorm::PerHead,
        Family::MiniMaxM2 if config.flag("use_qk_norm", true)? => QkNorm::AllHeads,
        _ => QkNorm::None,
    };
    let (span, sinks) = (AttentionSpan::Full, family == Family::GptOss);
    Ok(GroupedAttention { heads, kv_heads, head_dim, span, qk_norm, qkv_bias, output_bias, sinks })
}

fn default_head_dim(config: &Config, family: Family, heads: u32) -> Result<u32> {
    match family {
        Family::Gemma2 | Family::Gemma3 => return Ok(256),
        Family::GptOss => return Ok(64),
        Family::Qwen3 => return Ok(128),
        _ => {}
    }
    let hidden = config.size("hidden_size", MOST_WIDTH)?;
    if !hidden.is_multiple_of(heads) {
        return Err(config.error(
            "num_attention_heads",
            format!(
                "found {heads}, which does not divide the hidden size {hidden}, and there is no head_dim"
            ),
        ));
    }
    Ok(hidden / heads)
}

/// How far back each layer looks.
fn spans(config: &Config, family: Family, layers: u32, max_positions: u32) -> Result<Vec<AttentionSpan>> {
    // A window as long as the longest sequence hides nothing.
    let span_of = |tokens: Option<u32>| {
        tokens.map(|tokens| match tokens {
            tokens if tokens >= max_positions => AttentionSpan::Full,
            tokens => AttentionSpan::SlidingWindow { tokens },
        })
    };
    let default_window = match family {
        Family::Gemma2 | Family::Gemma3 => Some(4096),
        Family::GptOss => Some(128),
        _ => None,
    };
    let window = config.optional_size("sliding_window", MOST_POSITIONS)?.or(default_window);
    let window = span_of(window);
    if family == Family::Llama4 {
        return chunked_spans(config, layers, max_positions);
    }
    if let Some(spans) = config.layer_types(layers, window, None)? {
        return Ok(spans);
    }
    let full = AttentionSpan::Full;
    let sliding = window.unwrap_or(full);
    let by_layer = |is_sliding: &dyn Fn(u32) -> bool| {
        (0..layers).map(|layer| if is_sliding(layer) { sliding } else { full }).collect()
    };
    Ok(match family {
        Family::Mistral | Family::Mixtral | Family::Phi3 => by_layer(&|_| true),
        Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe | Family::MiMo
            if config.flag("use_sliding_window", false)? =>
        {
            let full_below = config.count("max_window_layers", MOST_LAYERS)?.unwrap_or(28);
            by_layer(&|layer| layer >= full_below)
        }
        Family::Gemma2 | Family::GptOss => by_layer(&|layer| layer % 2 == 0),
        Family::Gemma3 => {
            let pattern = config.optional_size("sliding_window_pattern", MOST_LAYERS)?;
            let pattern = pattern.or(config.optional_size("_sliding_window_pattern", MOST_LAYERS)?);
            let pattern = pattern.unwrap_or(6);
            by_layer(&|layer| !(layer + 1).is_multiple_of(pattern))
        }
        _ => by_layer(&|_| false),
    })
}

/// Llama 4: layers with rotary positions attend within their chunk, every fourth layer (without them) to everything.
fn chunked_spans(config: &Config, layers: u32, max_positions: u32) -> Result<Vec<AttentionSpan>> {
    let chunk = config.optional_size("attention_chunk_size", MOST_POSITIONS)?;
    let chunked = match chunk {
        Some(tokens) if tokens < max_positions => AttentionSpan::Chunked { tokens },
        _ => AttentionSpan::Full,
    };
    if let Some(spans) = config.layer_types(layers, None, Some(chunked))? {
        return Ok(spans);
    }
    let listed = config.numbers("no_rope_layers")?.filter(|list| !list.is_empty());
    if listed.as_ref().is_some_and(|list| list.len() != layers as usize) {
        return Err(
            config.error("no_rope_layers", format!("expected one number for each of {layers} layers"))
        );
    }
    let interval = config.optional_size("no_rope_layer_interval", MOST_LAYERS)?.unwrap_or(4);
    let rotary: Vec<bool> = match listed {
        Some(list) => list.iter().map(|flag| *flag != 0).collect(),
        None => (1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect(),
    };
    Ok(rotary.into_iter().map(|rotary| if rotary { chunked } else { AttentionSpan::Full }).collect())
}

fn latent(config: &Config) -> Result<LatentAttention> {
    if config.flag("attention_bias", false)? {
        return Err(config.error("attention_bias", "biases in latent attention (MLA) are not modelled"));
    }
    Ok(LatentAttention {
        heads: config.size("num_attention_heads", MOST_HEADS)?,
        q_lora_rank: config.optional_size("q_lora_rank", MOST_WIDTH)?,
        kv_lora_rank: config.size("kv_lora_rank", MOST_WIDTH)?,
        qk_nope_head_dim: config.size("qk_nope_head_dim", MOST_HEAD_DIM)?,
        qk_rope_head_dim: config.size("qk_rope_head_dim", MOST_HEAD_DIM)?,
        v_head_dim: config.size("v_head_dim", MOST_HEAD_DIM)?,
    })
}

fn dense(config: &Config, key: &str, bias: bool) -> Result<FeedForward> {
    let intermediate_size = config.size(key, MOST_WIDTH)?;
    Ok(FeedForward::Dense(DenseMlp { intermediate_size, gated: true, bias }))
}

fn feed_forward(config: &Config, family: Family, layer: u32) -> Result<FeedForward> {
    match family {
        Family::Llama => dense(config, "intermediate_size", config.flag("mlp_bias", false)?),
        Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::MiMo => {
            dense(config, "intermediate_size", false)
        }
        Family::Gemma2 | Family::Gemma3 | Family::Phi3 => dense(config, "intermediate_size", false),
        Family::Mixtral | Family::MiniMaxM2 | Family::GptOss => {
            let router_bias = match family {
                Family::MiniMaxM2 => config.flag("use_routing_bias", false)?,
                _ => family == Family::GptOss,
            };
            let expert_bias = family == Family::GptOss;
            let moe = experts(config, "num_local_experts", "intermediate_size")?;
            if config.count("shared_intermediate_size", MOST_WIDTH)?.unwrap_or(0) > 0 {
                return Err(config.error("shared_intermediate_size", "is not modelled for this architecture"));
            }
            Ok(FeedForward::Moe(MixtureOfExperts { expert_bias, router_bias, ..moe }))
        }
        Family::Qwen3Moe => {
            let step = config.optional_size("decoder_sparse_step", MOST_LAYERS)?.unwrap_or(1);
            let dense_only = config.numbers("mlp_only_layers")?.unwrap_or_default();
            if dense_only.contains(&u64::from(layer)) || !(layer + 1).is_multiple_of(step) {
                return dense(config, "intermediate_size", false);
            }
            Ok(FeedForward::Moe(experts(config, "num_experts", "moe_intermediate_size")?))
        }
        Family::DeepSeek | Family::Glm4Moe => deepseek_feed_forward(config, family, layer),
        Family::Llama4 => llama4_feed_forward(config, layer),
    }
}

fn experts(config: &Config, experts_key: &str, width_key: &str) -> Result<MixtureOfExperts> {
    let experts = config.size(experts_key, MOST_EXPERTS)?;
    let experts_per_token = config.size("num_experts_per_tok", MOST_EXPERTS)?;
    if experts_per_token > experts {
        return Err(config.error(
            "num_experts_per_tok",
            format!("found {experts_per_token}, expected 1 to the {experts} experts"),
        ));
    }
    Ok(MixtureOfExperts {
        experts,
        experts_per_token,
        expert_intermediate_size: config.size(width_key, MOST_WIDTH)?,
        shared_intermediate_size: 0,
        gated: true,
        expert_bias: false,
        router_bias: false,
    })
}

fn deepseek_feed_forward(config: &Config, family: Family, layer: u32) -> Result<FeedForward> {
    let first_dense = config.count("first_k_dense_replace", MOST_LAYERS)?.unwrap_or(0);
    let every = config.optional_size("moe_layer_freq", MOST_LAYERS)?.unwrap_or(1);
    if layer < first_dense || !layer.is_multiple_of(every) {
        return dense(config, "intermediate_size", false);
    }
    let moe = experts(config, "n_routed_experts", "moe_intermediate_size")?;
    let shared = config.count("n_shared_experts", MOST_EXPERTS)?.unwrap_or(0);
    let Some(shared_intermediate_size) = shared.checked_mul(moe.expert_intermediate_size) else {
        return Err(config.error("n_shared_experts", format!("found {shared}, which is too many")));
    };
    let corrected = config.map.get("topk_method").and_then(serde_json::Value::as_str) == Some("noaux_tc");
    let router_bias = corrected || family == Family::Glm4Moe;
    Ok(FeedForward::Moe(MixtureOfExperts { shared_intermediate_size, router_bias, ..moe }))
}

/// Llama 4: every n-th layer has experts, one of them shared and as wide as the others.
fn llama4_feed_forward(config: &Config, layer: u32) -> Result<FeedForward> {
    let step = config.optional_size("interleave_moe_layer_step", MOST_LAYERS)?.unwrap_or(1);
    let listed = config.numbers("moe_layers")?.filter(|list| !list.is_empty());
    let has_experts = match listed {
        Some(list) => list.contains(&u64::from(layer)),
        None => (layer + 1).is_multiple_of(step),
    };
    if !has_experts {
        return dense(config, "intermediate_size_mlp", false);
    }
    let moe = experts(config, "num_local_experts", "intermediate_size")?;
    let shared_intermediate_size = moe.expert_intermediate_size;
    Ok(FeedForward::Moe(MixtureOfExperts { shared_intermediate_size, ..moe }))
}
