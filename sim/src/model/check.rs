//! The limits that every model must keep, so that no later arithmetic can overflow.

use super::{Attention, AttentionSpan, FeedForward, ModelSpec};

/// The largest model that is read, in parameters: a thousand times today's largest.
const MOST_PARAMETERS: u128 = 1_000_000_000_000_000;
/// Most layers.
pub(super) const MOST_LAYERS: u32 = 10_000;
/// Largest hidden, intermediate and latent widths.
pub(super) const MOST_WIDTH: u32 = 1 << 22;
/// Most heads, of queries or of KV.
pub(super) const MOST_HEADS: u32 = 1 << 14;
/// Largest head.
pub(super) const MOST_HEAD_DIM: u32 = 1 << 14;
/// Most experts.
pub(super) const MOST_EXPERTS: u32 = 1 << 16;
/// Largest vocabulary.
pub(super) const MOST_VOCABULARY: u32 = 1 << 26;
/// Longest sequence, and longest window.
pub(super) const MOST_POSITIONS: u32 = 1 << 30;

/// A problem: the key that it is about, and what is wrong.
pub(super) type Problem = (&'static str, String);

/// Checks a model whose numbers have been read. Keys are named as both formats name them.
pub(super) fn check(model: &ModelSpec) -> Result<(), Problem> {
    range("hidden_size", model.hidden_size, MOST_WIDTH)?;
    range("vocabulary_size", model.vocabulary_size, MOST_VOCABULARY)?;
    range("max_positions", model.max_positions, MOST_POSITIONS)?;
    range("norms_per_layer", model.norms_per_layer, 16)?;
    if model.layer_order.is_empty() || model.layer_order.len() > MOST_LAYERS as usize {
        let found = model.layer_order.len();
        return Err(("layers", format!("found {found} layers, expected 1 to {MOST_LAYERS}")));
    }
    for kind in &model.layer_kinds {
        check_attention(&kind.attention)?;
        check_feed_forward(&kind.feed_forward)?;
    }
    // Counted again in 128 bits: each factor is within its limit, so this cannot overflow.
    let mut total = 0u128;
    let hidden = u128::from(model.hidden_size);
    total += 2 * u128::from(model.vocabulary_size) * hidden;
    for (kind, count) in model.layer_groups(model.all_layers()) {
        for tensor in model.layer_tensors(&kind) {
            let one = u128::from(tensor.outputs) * u128::from(tensor.inputs);
            total += one * u128::from(tensor.copies) * u128::from(count);
        }
    }
    if total > MOST_PARAMETERS {
        return Err((
            "",
            format!("these sizes make {total} parameters, at most {MOST_PARAMETERS} are modelled"),
        ));
    }
    Ok(())
}

fn range(key: &'static str, value: u32, most: u32) -> Result<(), Problem> {
    if value == 0 || value > most {
        return Err((key, format!("found {value}, expected a whole number from 1 to {most}")));
    }
    Ok(())
}

fn check_attention(attention: &Attention) -> Result<(), Problem> {
    match attention {
        Attention::Grouped(grouped) => {
            range("heads", grouped.heads, MOST_HEADS)?;
            range("kv_heads", grouped.kv_heads, MOST_HEADS)?;
            range("head_dim", grouped.head_dim, MOST_HEAD_DIM)?;
            if !grouped.heads.is_multiple_of(grouped.kv_heads) {
                return Err((
                    "kv_heads",
                    format!(
                        "found {} KV heads for {} attention heads, expected a divisor of them",
                        grouped.kv_heads, grouped.heads
                    ),
                ));
            }
            match grouped.span {
                AttentionSpan::Full => Ok(()),
                AttentionSpan::SlidingWindow { tokens } => range("sliding_window", tokens, MOST_POSITIONS),
                AttentionSpan::Chunked { tokens } => range("chunk_size", tokens, MOST_POSITIONS),
            }
        }
        Attention::Latent(latent) => {
            range("heads", latent.heads, MOST_HEADS)?;
            if let Some(rank) = latent.q_lora_rank {
                range("q_lora_rank", rank, MOST_WIDTH)?;
            }
            range("kv_lora_rank", latent.kv_lora_rank, MOST_WIDTH)?;
            range("qk_nope_head_dim", latent.qk_nope_head_dim, MOST_HEAD_DIM)?;
            range("qk_rope_head_dim", latent.qk_rope_head_dim, MOST_HEAD_DIM)?;
            range("v_head_dim", latent.v_head_dim, MOST_HEAD_DIM)
        }
    }
}

fn check_feed_forward(feed_forward: &FeedForward) -> Result<(), Problem> {
    match feed_forward {
        FeedForward::Dense(mlp) => range("intermediate_size", mlp.intermediate_size, MOST_WIDTH),
        FeedForward::Moe(moe) => {
            range("experts", moe.experts, MOST_EXPERTS)?;
            range("expert_intermediate_size", moe.expert_intermediate_size, MOST_WIDTH)?;
            if moe.shared_intermediate_size > 0 {
                range("shared_intermediate_size", moe.shared_intermediate_size, MOST_WIDTH)?;
            }
            if moe.experts_per_token == 0 || moe.experts_per_token > moe.experts {
                return Err((
                    "experts_per_token",
                    format!("found {}, expected 1 to the {} experts", moe.experts_per_token, moe.experts),
                ));
            }
            Ok(())
        }
    }
}
