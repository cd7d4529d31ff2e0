//! The formulas of and V-49, each over plain numbers.

use super::{KvAwareConfig, ReplicaLoad, SaturationSection, ScorerWeights};

/// Whether loads are so uneven that a match does not count.
pub(super) fn is_uneven(least: u64, most: u64, abs_threshold: u64, rel_threshold: f64) -> bool {
    most - least > abs_threshold && most as f64 > rel_threshold * least as f64
}

/// What R-3 knows of one replica, in blocks but for the requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct KvCost {
    /// Prompt of the request.
    pub request_blocks: f64,
    /// Prompts that are queued there already.
    pub queued_blocks: f64,
    /// Blocks of the prompt that are in the cache.
    pub overlap_blocks: f64,
    /// Further blocks of the prompt that are in the host's memory.
    pub host_blocks: f64,
    /// And on NVMe.
    pub nvme_blocks: f64,
    /// Blocks in use, the request's included.
    pub decode_blocks: f64,
    /// Requests not answered.
    pub active_requests: f64,
}

impl KvCost {
    /// The cost of sending the request there; lower is better.
    pub fn cost(&self, weights: &KvAwareConfig) -> f64 {
        let decay = 1.0 / (1.0 + weights.overlap_decay * self.queued_blocks / self.request_blocks.max(1.0));
        let credit = weights.overlap_score_credit * decay * self.overlap_blocks
            + weights.host_overlap_credit * self.host_blocks
            + weights.nvme_overlap_credit * self.nvme_blocks;
        weights.prefill_load_scale * (self.request_blocks + self.queued_blocks - credit).max(0.0)
            + self.decode_blocks
            + weights.active_request_weight * self.active_requests
    }
}

/// How full the replicas are on average, by waiting requests or KV use, whichever is more; 1 is saturated.
pub(super) fn saturation(loads: &[ReplicaLoad], limits: &SaturationSection) -> f64 {
    let fullness = |load: &ReplicaLoad| {
        (f64::from(load.waiting_requests) / limits.queue_depth).max(load.kv_usage() / limits.kv_utilization)
    };
    loads.iter().map(fullness).sum::<f64>() / loads.len().max(1) as f64
}

/// Chances in proportion to `exp(-cost / temperature)` of costs normalised to 0 to 1; none for one that is infinite.
pub(super) fn softmax_of_costs(costs: &[f64], temperature: f64) -> Vec<f64> {
    let finite = || costs.iter().copied().filter(|cost| cost.is_finite());
    let least = finite().fold(f64::INFINITY, f64::min);
    let most = finite().fold(f64::NEG_INFINITY, f64::max);
    let range = most - least;
    let chance = |cost: &f64| {
        if cost.is_infinite() {
            return 0.0;
        }
        let normal = if range > 0.0 { (cost - least) / range } else { 0.0 };
        libm::exp(-normal / temperature)
    };
    costs.iter().map(chance).collect()
}

/// What R-4 knows of one replica.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScoreInput {
    /// Its latest reading.
    pub load: ReplicaLoad,
    /// Share of the prompt believed to be in its cache.
    pub prefix_share: f64,
    /// Requests not answered.
    pub active_requests: u64,
    /// Prompt tokens of those.
    pub active_tokens: u64,
}

/// Prompt tokens at which the token load scores nothing.
const MOST_TOKENS: f64 = 4_194_304.0;

/// The weighted score of each replica; higher is better.
pub(super) fn scores(inputs: &[ScoreInput], weights: &ScorerWeights, out: &mut Vec<f64>) {
    let range = |value: fn(&ScoreInput) -> u64| {
        let values = inputs.iter().map(value);
        (values.clone().min().unwrap_or(0), values.max().unwrap_or(0))
    };
    let waiting = range(|input| u64::from(input.load.waiting_requests));
    let running = range(|input| u64::from(input.load.running_requests));
    let active = range(|input| input.active_requests);
    // 1 if all are equal.
    let less = |value: u64, (least, most): (u64, u64)| {
        if most == least { 1.0 } else { (most - value) as f64 / (most - least) as f64 }
    };
    out.clear();
    out.extend(inputs.iter().map(|input| {
        let idle =
            if active.1 == 0 { 1.0 } else { (active.1 - input.active_requests) as f64 / active.1 as f64 };
        let clamp = |score: f64| score.clamp(0.0, 1.0);
        weights.queue * less(u64::from(input.load.waiting_requests), waiting)
            + weights.kv_utilization * clamp(1.0 - input.load.kv_usage())
            + weights.prefix * clamp(input.prefix_share)
            + weights.running * less(u64::from(input.load.running_requests), running)
            + weights.active_requests * idle
            + weights.token_load * clamp(1.0 - input.active_tokens as f64 / MOST_TOKENS)
    }));
}

/// The score of an engine in vLLM's data-parallel balancer (V-49); lower is better. `sent_since` requests went there
/// since the reading and count as waiting; one front end has `in_flight` there.
pub(super) fn dp_score(load: ReplicaLoad, sent_since: u32, in_flight: u64) -> f64 {
    let waiting = f64::from(load.waiting_requests) + f64::from(sent_since);
    let queued = waiting + f64::from(load.running_requests);
    let pressure = if waiting > 0.0 { waiting * 6.0 * (load.kv_usage() - 0.5).max(0.0) } else { 0.0 };
    queued.max(in_flight as f64) + pressure
}
