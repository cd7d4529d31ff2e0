//! What no traffic can beat: bounds from the step times alone, before anything is simulated. They hold as far as the
//! step's time never falls with more work in it, which a fitted cost model keeps only to its error; so a search starts
//! from them, and only what misses its goal by more than [`SLACK`] is left out for them.

use sim::scenario::Scenario;
use sim::step::StepShape;

/// What a bound may be wrong by.
pub const SLACK: f64 = 1.1;

/// Requests that are looked at to know the workload.
const REQUESTS_SEEN: usize = 20_000;

/// Bounds of one deployment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// No more requests per second than this.
    pub rate_per_s: f64,
    /// No gap between tokens is shorter than this, in ms.
    pub gap_ms: f64,
    /// Mean tokens of an answer.
    pub output_tokens: f64,
}

/// Bounds of `scenario`; none when no request arrives by itself.
///
/// A request needs its decode tokens, each at least the time per token of the fullest possible decode step, and its
/// prompt tokens, each at least the time per token of a full prefill step; a step that does both takes at least as long
/// as either part. So the rate per engine (each data-parallel rank of a replica is one) is at most 1 over the larger of the
/// two sums; with pipeline stages as many steps as stages are in flight, which multiplies it at most by their number.
pub fn bounds(scenario: &Scenario) -> Option<Bounds> {
    let mut workload = scenario.workload().clone();
    let (mut count, mut prompt_tokens, mut output_tokens) = (0u64, 0u64, 0u64);
    while let Some(arrival) = workload.next() {
        count += 1;
        prompt_tokens += u64::from(arrival.prompt_tokens);
        output_tokens += u64::from(arrival.output_tokens);
        if count as usize == REQUESTS_SEEN {
            break;
        }
    }
    if count == 0 {
        return None;
    }
    let (prompt, output) = (prompt_tokens as f64 / count as f64, output_tokens as f64 / count as f64);
    let finds_prefixes = scenario.engine.scheduler.prefix_caching && workload.has_prefix_identity();
    let prefill_s = if finds_prefixes { 0.0 } else { prompt * prefill_seconds_per_token(scenario, prompt) };
    // With drafts a step may give so many tokens, and takes at least as long as one without.
    let most_tokens = 1.0 + f64::from(scenario.engine.scheduler.draft_tokens);
    let decode_s =
        (output - 1.0).max(0.0) * decode_seconds_per_token(scenario, prompt + output / 2.0) / most_tokens;
    let pipelines = f64::from(scenario.engines()) * f64::from(scenario.file.deployment.pipeline_parallel);
    let busiest_s = prefill_s.max(decode_s).max(1e-9);
    Some(Bounds {
        rate_per_s: pipelines / busiest_s,
        gap_ms: scenario.step_duration(&decode_shape(1, 1)).milliseconds() / most_tokens,
        output_tokens: output,
    })
}

fn decode_shape(requests: u64, context_tokens: u64) -> StepShape {
    StepShape {
        decode_requests: requests,
        decode_context_tokens: context_tokens,
        sampled_requests: requests,
        ..StepShape::default()
    }
}

/// Of the fullest decode step that seats and KV cache allow.
fn decode_seconds_per_token(scenario: &Scenario, context_tokens: f64) -> f64 {
    let config = &scenario.engine.scheduler;
    let kv_tokens = f64::from(config.total_blocks) * f64::from(config.block_size);
    let fitting = (kv_tokens / context_tokens.max(1.0)).max(1.0);
    let requests = fitting.min(f64::from(config.max_num_seqs)).floor();
    let shape = decode_shape(requests as u64, (requests * context_tokens) as u64);
    scenario.step_duration(&shape).seconds() / requests
}

/// Of a step that is full of prompts of mean length.
fn prefill_seconds_per_token(scenario: &Scenario, prompt_tokens: f64) -> f64 {
    let tokens = f64::from(scenario.engine.scheduler.max_num_batched_tokens);
    let requests = (tokens / prompt_tokens).max(1.0);
    let shape = StepShape {
        prefill_requests: requests as u64,
        prefill_tokens: tokens as u64,
        prefill_context_tokens: tokens as u64,
        prefill_attention_pairs: (tokens * prompt_tokens.min(tokens) / 2.0) as u64,
        sampled_requests: requests as u64,
        ..StepShape::default()
    };
    scenario.step_duration(&shape).seconds() / tokens
}
