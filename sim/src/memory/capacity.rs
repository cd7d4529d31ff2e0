//! What fits into the KV cache: requests of a context, and the longest context.

use super::{MemoryPlan, MemoryRequest};
use crate::error::{Error, Result};
use crate::model::{AttentionSpan, KvLayout, ModelSpec};
use serde::Serialize;

/// Steps in flight when the engine schedules ahead (V-38: two with asynchronous scheduling, one without). The
/// simulator's engines schedule synchronously.
const STEPS_IN_FLIGHT: u64 = 1;

/// What fits into the KV cache of one deployment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capacity {
    /// Tokens of one request, prompt and answer together.
    pub context_tokens: u64,
    /// KV bytes that such a request holds on all GPUs together while it decodes.
    pub request_bytes: u64,
    /// Requests of this context that decode at the same time.
    pub requests: u64,
    /// Such requests while their prompts are still being computed: layers with a window hold more then (V-38). It is the
    /// `Maximum concurrency` of vLLM's log.
    pub requests_at_admission: u64,
    /// The longest request that fits alone, and at most what the model was made for.
    pub longest_context_tokens: u64,
    /// Whether the model and not the memory limits it.
    pub longest_is_the_models: bool,
    /// The least number of such requests whose KV takes more bytes than the weights, on the GPU that limits.
    pub requests_to_outgrow_weights: u64,
}

/// Refuses a context that the model was not made for.
pub fn check_context(model: &ModelSpec, context_tokens: u64) -> Result<()> {
    if context_tokens == 0 || context_tokens > u64::from(model.max_positions) {
        return Err(Error::new(format!(
            "found a context of {context_tokens} tokens, expected 1 to the {} that {} was made for",
            model.max_positions, model.name
        )));
    }
    Ok(())
}

/// What fits under `plan`, made for `request`: the least of any pipeline stage.
pub fn capacity(request: &MemoryRequest<'_>, plan: &MemoryPlan, context_tokens: u64) -> Result<Capacity> {
    check_context(request.model, context_tokens)?;
    let in_flight = STEPS_IN_FLIGHT * u64::from(request.limits.max_num_batched_tokens);
    let copies = u64::from(request.parallel.data);
    let models = u64::from(request.model.max_positions);
    let mut fit = Capacity {
        context_tokens,
        request_bytes: 0,
        requests: u64::MAX,
        requests_at_admission: u64::MAX,
        longest_context_tokens: models,
        longest_is_the_models: false,
        requests_to_outgrow_weights: 0,
    };
    let stages = request.parallel.stages(request.model.layers());
    for (stage, layers) in (0..).zip(stages) {
        let layout =
            request.model.kv_layout(request.kv, request.parallel.tensor, request.block_size, layers)?;
        // The null block is not usable (A.9.1, point 6).
        let pool = (u64::from(plan.num_blocks) * layout.groups.len() as u64).saturating_sub(1);
        let decoding = blocks_held(&layout, context_tokens, 0);
        let admitted = blocks_held(&layout, context_tokens, in_flight);
        fit.requests = fit.requests.min(pool / decoding.max(1));
        fit.requests_at_admission = fit.requests_at_admission.min(pool / admitted.max(1));
        let longest = longest(&layout, pool, models, in_flight);
        fit.longest_context_tokens = fit.longest_context_tokens.min(longest);
        for rank in plan.ranks.iter().filter(|rank| rank.stage == stage) {
            let bytes = decoding.saturating_mul(rank.block_bytes);
            let gpus = u64::from(rank.gpus);
            fit.request_bytes = fit.request_bytes.saturating_add(bytes.saturating_mul(gpus));
            if (rank.block_bytes, rank.weight_bytes) == (plan.block_bytes, plan.weight_bytes) {
                fit.requests_to_outgrow_weights = plan.weight_bytes / bytes.max(1) + 1;
            }
        }
    }
    fit.request_bytes /= copies;
    fit.requests = fit.requests.saturating_mul(copies);
    fit.requests_at_admission = fit.requests_at_admission.saturating_mul(copies);
    fit.longest_is_the_models = fit.longest_context_tokens == models;
    Ok(fit)
}

/// Blocks that a request of `tokens` tokens holds, all groups together: everything where layers see everything, and what
/// the window or chunk still reaches elsewhere (V-37). `in_flight` tokens that are being computed are held as well
/// (V-38).
pub fn blocks_held(layout: &KvLayout, tokens: u64, in_flight: u64) -> u64 {
    let size = u64::from(layout.block_size.max(1));
    let full = tokens.div_ceil(size);
    let of = |span: AttentionSpan| match span {
        AttentionSpan::Full => full,
        AttentionSpan::SlidingWindow { tokens: window } => {
            let reach = (u64::from(window).saturating_sub(1) + in_flight).min(tokens);
            (reach.div_ceil(size) + 1).min(full)
        }
        AttentionSpan::Chunked { tokens: chunk } => {
            (u64::from(chunk) + in_flight).min(tokens).div_ceil(size).min(full)
        }
    };
    layout.groups.iter().map(|group| of(group.span)).fold(0, u64::saturating_add)
}

/// The longest request that `pool` blocks hold while its prompt is computed, at most `most`; found by bisection, since
/// blocks never fall with length.
fn longest(layout: &KvLayout, pool: u64, most: u64, in_flight: u64) -> u64 {
    let (mut fits, mut fails) = (0, most + 1);
    while fails - fits > 1 {
        let middle = fits + (fails - fits) / 2;
        if blocks_held(layout, middle, in_flight) <= pool {
            fits = middle;
        } else {
            fails = middle;
        }
    }
    fits
}
