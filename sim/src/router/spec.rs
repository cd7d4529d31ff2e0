//! The `router:` section of a scenario, as written.

use crate::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How requests are spread over replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum RouterPolicy {
    /// In turn; with `weights`, in turn by weight.
    #[default]
    RoundRobin,
    /// At random; with `weights`, in proportion to them.
    Random,
    /// The fewest requests sent there and not answered.
    LeastOutstandingRequests,
    /// The fewest prompt tokens of requests sent there and not answered.
    LeastOutstandingTokens,
    /// Of two replicas drawn at random the one with fewer requests not answered.
    PowerOfTwo,
    /// New sessions in turn; later requests of a session where its first one went.
    SessionAffinity,
    /// New sessions by `assignment`; later requests of a session where its first one went, until it was silent for
    /// `max_idle` (R-2 `manual`).
    Manual,
    /// A hash ring over the session or the start of the prompt (R-1 `session`, R-2 `prefix_hash`).
    ConsistentHash,
    /// The longest prefix that the router has sent somewhere before (R-1 `prefixaware`).
    PrefixAware,
    /// The best match in a tree of what was sent where, unless the load is uneven (R-2 `cache_aware`).
    CacheAware,
    /// The longest prefix in the replicas' caches, if it leaves little to compute (R-1 `kvaware`).
    KvLookup,
    /// Prompt blocks still to compute and blocks in use, less the blocks found in the cache.
    KvAware,
    /// A weighted sum of scores.
    Scored,
    /// Waiting and running requests and KV use as of the last snapshot (R-5, V-49).
    VllmDp,
    /// By the length of the prompt, each replica a range; ranges follow what was sent lately (R-2 `bucket`).
    Bucket,
}

/// What a hash ring hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The session of the request.
    Session,
    /// The first `prefix_tokens` of the prompt.
    Prefix,
}

/// Which replica a new session of policy `manual` gets; of equals one at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    /// Any.
    #[default]
    Random,
    /// That with the fewest requests not answered.
    MinLoad,
    /// That with the fewest sessions that have requests not answered.
    MinGroup,
}

/// Where the router learns what the replicas' caches hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefixSource {
    /// The replicas tell it of each block that they enter or forget.
    Events,
    /// It remembers what it sent where.
    Dispatch,
}

/// What becomes of requests that are not sheddable while the replicas are saturated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum WhenSaturated {
    /// They are sent all the same.
    #[default]
    Pass,
    /// They wait at the router, by priority and age, until a reading says otherwise.
    Queue,
}

/// When the replicas of policy `scored` are saturated: the mean over them of the larger of waiting requests over
/// `queue_depth` and KV use over `kv_utilization` is 1 or more. Sheddable requests, those of a priority above 0, are then
/// turned away.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SaturationSection {
    /// Waiting requests of a replica that is full (5).
    pub queue_depth: f64,
    /// Share of the KV blocks in use on a replica that is full (0.8).
    pub kv_utilization: f64,
    /// What becomes of the other requests.
    pub others: WhenSaturated,
}

impl Default for SaturationSection {
    fn default() -> Self {
        SaturationSection { queue_depth: 5.0, kv_utilization: 0.8, others: WhenSaturated::Pass }
    }
}

/// Weights of the scores of policy `scored`, none negative.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScorerWeights {
    /// Fewer waiting requests than others: (max - waiting) / (max - min).
    pub queue: f64,
    /// Free KV blocks: 1 - share in use.
    pub kv_utilization: f64,
    /// Blocks of the prompt that are believed to be in the cache, as a share of the prompt.
    pub prefix: f64,
    /// Fewer running requests than others: (max - running) / (max - min).
    pub running: f64,
    /// Fewer requests not answered than others: (max - count) / max.
    pub active_requests: f64,
    /// Fewer prompt tokens not answered: 1 - tokens / 4,194,304.
    pub token_load: f64,
}

impl Default for ScorerWeights {
    fn default() -> Self {
        ScorerWeights {
            queue: 2.0,
            kv_utilization: 2.0,
            prefix: 3.0,
            running: 0.0,
            active_requests: 0.0,
            token_load: 0.0,
        }
    }
}

/// The `router:` section: a policy and the parameters of that policy; what is left out takes its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct RouterSection {
    /// How requests are spread over replicas.
    #[serde(default)]
    pub policy: RouterPolicy,
    /// round_robin, random: weight of each replica of a group, by the group's name; 1 where it is not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<BTreeMap<String, u32>>,
    /// consistent_hash: what is hashed; the session unless said otherwise. kv_lookup: `session` sends what has no match by
    /// a ring over sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<HashKey>,
    /// consistent_hash: tokens of the prompt that are hashed (256).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_tokens: Option<u32>,
    /// consistent_hash, kv_lookup: points of each replica on the ring (100).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_nodes: Option<u32>,
    /// consistent_hash: times the mean of requests not answered that a replica may have; above it the request goes where
    /// there are fewest. Without it the ring alone decides; SGLang's prefix_hash has 1.25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_factor: Option<f64>,
    /// manual: the replica of a new session (random).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Assignment>,
    /// manual: sessions that were silent for so long are new again (4h).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_idle: Option<Span>,
    /// prefix_aware (32), cache_aware, scored (16): tokens by which prompts are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_tokens: Option<u32>,
    /// cache_aware: share of the prompt that a match must exceed (0.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_threshold: Option<f64>,
    /// cache_aware: requests by which the fullest may exceed the emptiest replica (64); bucket: prompt tokens sent lately
    /// (8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_abs_threshold: Option<u64>,
    /// cache_aware (1.5), bucket (1.0001): the same as a factor; both must be exceeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_rel_threshold: Option<f64>,
    /// cache_aware: how often trees are cut to their size; manual: how often silent sessions are looked for (60s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction_interval: Option<Span>,
    /// cache_aware: tokens that the tree of a replica may have (16,777,216).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tree_tokens: Option<u64>,
    /// bucket: how often the ranges are looked at, and how long what was sent counts (5s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adjust_interval: Option<Span>,
    /// bucket: tokens that the ranges divide at the start (1,024).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_tokens: Option<u32>,
    /// kv_lookup: prompt tokens that may be missing from the longest match (2,000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_tokens: Option<u32>,
    /// kv_aware: weight of the prompt blocks to compute (1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_load_scale: Option<f64>,
    /// kv_aware: credit for each block found (1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_score_credit: Option<f64>,
    /// kv_aware: how fast the credit decays with the prompt blocks that are queued already (0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_decay: Option<f64>,
    /// kv_aware: credit for each further block found in the host's memory (0.75).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_overlap_credit: Option<f64>,
    /// kv_aware: credit for each further block found on NVMe (0.25).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvme_overlap_credit: Option<f64>,
    /// kv_aware: cost of each request not answered, in blocks (0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_request_weight: Option<f64>,
    /// kv_aware: share of its KV blocks, as prompts sent there take them, above which a replica is busy; busy ones get
    /// nothing, and when all are, requests are turned away. Without it none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_decode_blocks_threshold: Option<f64>,
    /// kv_aware: the same by prompt tokens that it has still to compute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_prefill_tokens_threshold: Option<u64>,
    /// kv_aware: 0 takes the cheapest; above, the choice is drawn by a softmax of the normalised costs (0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// kv_aware (events), scored (dispatch): where the router learns of the caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<PrefixSource>,
    /// kv_aware: how long it remembers what it sent, with `index: dispatch` (120s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_ttl: Option<Span>,
    /// scored: chunks that it remembers per replica, with `index: dispatch` (31,250).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lru_entries: Option<u32>,
    /// scored: chunks of a prompt that it looks at (256).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefix_chunks: Option<u32>,
    /// scored: weights of the scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scorers: Option<ScorerWeights>,
    /// scored: when requests are turned away or wait; without it never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturation: Option<SaturationSection>,
    /// scored (50ms), vllm_dp (100ms): how often the router reads the replicas' queues and KV use; 0s is always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_period: Option<Span>,
    /// kv_lookup, kv_aware, scored, vllm_dp: how long what a replica tells takes to reach the router (0s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_delay: Option<Span>,
}

impl RouterPolicy {
    /// As scenarios write it.
    pub fn name(self) -> &'static str {
        match self {
            RouterPolicy::RoundRobin => "round_robin",
            RouterPolicy::Random => "random",
            RouterPolicy::LeastOutstandingRequests => "least_outstanding_requests",
            RouterPolicy::LeastOutstandingTokens => "least_outstanding_tokens",
            RouterPolicy::PowerOfTwo => "power_of_two",
            RouterPolicy::SessionAffinity => "session_affinity",
            RouterPolicy::Manual => "manual",
            RouterPolicy::ConsistentHash => "consistent_hash",
            RouterPolicy::PrefixAware => "prefix_aware",
            RouterPolicy::CacheAware => "cache_aware",
            RouterPolicy::KvLookup => "kv_lookup",
            RouterPolicy::KvAware => "kv_aware",
            RouterPolicy::Scored => "scored",
            RouterPolicy::VllmDp => "vllm_dp",
            RouterPolicy::Bucket => "bucket",
        }
    }
}
