//! What the `router:` section comes to: a policy with all of its parameters.

use super::{Assignment, SaturationSection, ScorerWeights};
use crate::units::SimDuration;

/// When what the replicas say reaches the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Staleness {
    /// Between two readings; zero reads at every request.
    pub period: SimDuration,
    /// From a reading to its use.
    pub delay: SimDuration,
}

/// Above what a replica of `kv_aware` is busy; what is absent does not count.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BusyConfig {
    /// Share of its KV blocks that prompts sent there take.
    pub decode_blocks_share: Option<f64>,
    /// Prompt tokens that it has still to compute.
    pub prefill_tokens: Option<u64>,
}

/// Parameters of `kv_aware`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvAwareConfig {
    /// Weight of the prompt blocks to compute.
    pub prefill_load_scale: f64,
    /// Credit for each block found.
    pub overlap_score_credit: f64,
    /// How fast the credit decays.
    pub overlap_decay: f64,
    /// Credit for each further block found in the host's memory.
    pub host_overlap_credit: f64,
    /// Credit for each further block found on NVMe.
    pub nvme_overlap_credit: f64,
    /// Cost of each request not answered.
    pub active_request_weight: f64,
    /// Of the softmax; 0 takes the cheapest.
    pub temperature: f64,
}

/// A policy with its parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum RouterConfig {
    /// In turn; weights per replica where they differ.
    RoundRobin(Option<Vec<u32>>),
    /// At random; weights per replica where they differ.
    Random(Option<Vec<u32>>),
    /// Fewest requests not answered.
    LeastOutstandingRequests,
    /// Fewest prompt tokens not answered.
    LeastOutstandingTokens,
    /// The better of two at random.
    PowerOfTwo,
    /// Sessions stay where they began.
    SessionAffinity,
    /// A hash ring.
    ConsistentHash {
        /// Tokens of the prompt that are hashed; none hashes the session.
        prefix_tokens: Option<u32>,
        /// Points per replica.
        virtual_nodes: u32,
    },
    /// A hash ring, unless the replica has too much to do (R-2 `prefix_hash`).
    BoundedHash {
        /// Tokens of the prompt that are hashed; none hashes the session.
        prefix_tokens: Option<u32>,
        /// Points per replica.
        virtual_nodes: u32,
        /// Times the mean of requests not answered that a replica may have.
        load_factor: f64,
    },
    /// Sessions stay where they were put, until they are silent (R-2 `manual`).
    Manual {
        /// Where new ones go.
        assignment: Assignment,
        /// After what silence they are forgotten.
        max_idle: SimDuration,
        /// How often silence is looked for.
        eviction_interval: SimDuration,
    },
    /// The longest prefix sent before.
    PrefixAware {
        /// Tokens per chunk.
        chunk_tokens: u32,
    },
    /// The best match, unless the load is uneven.
    CacheAware {
        /// Tokens per chunk.
        chunk_tokens: u32,
        /// Share of the prompt that must match.
        cache_threshold: f64,
        /// Difference of loads, in requests.
        balance_abs_threshold: u64,
        /// Ratio of loads.
        balance_rel_threshold: f64,
        /// Between two cuts of the trees.
        eviction_interval: SimDuration,
        /// Tokens per tree.
        max_tree_tokens: u64,
    },
    /// The longest prefix in the caches.
    KvLookup {
        /// Prompt tokens that may be missing.
        threshold_tokens: u32,
        /// How late the caches are known.
        delay: SimDuration,
        /// Points per replica on the ring over sessions by which the rest goes; without it the rest goes where the fewest
        /// requests were sent lately.
        session_nodes: Option<u32>,
    },
    /// Blocks to compute and in use, less those found.
    KvAware {
        /// The weights.
        weights: KvAwareConfig,
        /// How late the caches are known; or, remembered by itself, for how long.
        source: KvSource,
        /// Which replicas get nothing.
        busy: BusyConfig,
    },
    /// A weighted sum of scores.
    Scored {
        /// The weights.
        weights: ScorerWeights,
        /// When queues and KV use are read.
        staleness: Staleness,
        /// How late the caches are known, from events; otherwise what was sent is remembered.
        events_delay: Option<SimDuration>,
        /// Tokens per chunk of what was sent.
        chunk_tokens: u32,
        /// Chunks that are remembered per replica.
        lru_entries: u32,
        /// Chunks of a prompt that are looked at.
        max_prefix_chunks: u32,
        /// When requests are turned away or wait.
        saturation: Option<SaturationSection>,
    },
    /// Queues and KV use of the last snapshot.
    VllmDp {
        /// When they are read.
        staleness: Staleness,
    },
    /// By the length of the prompt.
    Bucket(BucketConfig),
}

/// Parameters of `bucket`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BucketConfig {
    /// Difference of the prompt tokens sent lately.
    pub balance_abs_tokens: u64,
    /// Ratio of them.
    pub balance_rel_threshold: f64,
    /// Between two looks at the ranges, and how long what was sent counts.
    pub interval: SimDuration,
    /// Tokens that the ranges divide at the start.
    pub initial_tokens: u32,
}

/// Where `kv_aware` learns of the caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvSource {
    /// From events, which take so long.
    Events(SimDuration),
    /// From what it sent, remembered for so long.
    Dispatch(SimDuration),
}

/// A group of equal replicas, as the router needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct GroupSize<'a> {
    /// Its name; empty where the replicas are not grouped.
    pub name: &'a str,
    /// Its replicas.
    pub replicas: u32,
}

impl RouterConfig {
    /// Whether it compares prompts, so that the workload must say which tokens are equal.
    pub fn needs_prefixes(&self) -> bool {
        match self {
            RouterConfig::ConsistentHash { prefix_tokens, .. }
            | RouterConfig::BoundedHash { prefix_tokens, .. } => prefix_tokens.is_some(),
            RouterConfig::PrefixAware { .. }
            | RouterConfig::CacheAware { .. }
            | RouterConfig::KvLookup { .. }
            | RouterConfig::KvAware { .. } => true,
            RouterConfig::Scored { weights, .. } => weights.prefix > 0.0,
            _ => false,
        }
    }

    /// Whether it goes by sessions.
    pub fn needs_sessions(&self) -> bool {
        matches!(
            self,
            RouterConfig::SessionAffinity
                | RouterConfig::ConsistentHash { prefix_tokens: None, .. }
                | RouterConfig::BoundedHash { prefix_tokens: None, .. }
                | RouterConfig::Manual { .. }
                | RouterConfig::KvLookup { session_nodes: Some(_), .. }
        )
    }

    /// Whether it may turn requests away or let them wait.
    pub fn may_refuse(&self) -> bool {
        match self {
            RouterConfig::Scored { saturation, .. } => saturation.is_some(),
            RouterConfig::KvAware { busy, .. } => *busy != BusyConfig::default(),
            _ => false,
        }
    }

    /// How late it learns of the blocks in the replicas' caches; none where it is not told of them.
    pub fn kv_events_delay(&self) -> Option<SimDuration> {
        match self {
            RouterConfig::KvLookup { delay, .. } => Some(*delay),
            RouterConfig::KvAware { source: KvSource::Events(delay), .. } => Some(*delay),
            RouterConfig::Scored { events_delay, weights, .. } => {
                events_delay.filter(|_| weights.prefix > 0.0)
            }
            _ => None,
        }
    }
}
