//! The `router:` section of a scenario, as written, and what it comes to.

use crate::error::Result;
use crate::units::{SimDuration, Span};
use crate::workload::Locate;
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

/// Where the router learns what the replicas' caches hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefixSource {
    /// The replicas tell it of each block that they enter or forget.
    Events,
    /// It remembers what it sent where.
    Dispatch,
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
    /// consistent_hash: what is hashed; the session unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<HashKey>,
    /// consistent_hash: tokens of the prompt that are hashed (256).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_tokens: Option<u32>,
    /// consistent_hash: points of each replica on the ring (100).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_nodes: Option<u32>,
    /// prefix_aware (32), cache_aware, scored (16): tokens by which prompts are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_tokens: Option<u32>,
    /// cache_aware: share of the prompt that a match must exceed (0.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_threshold: Option<f64>,
    /// cache_aware: requests by which the fullest may exceed the emptiest replica (64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_abs_threshold: Option<u64>,
    /// cache_aware: the same as a factor; both must be exceeded (1.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_rel_threshold: Option<f64>,
    /// cache_aware: how often trees are cut to their size (60s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction_interval: Option<Span>,
    /// cache_aware: tokens that the tree of a replica may have (16,777,216).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tree_tokens: Option<u64>,
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
    /// kv_aware: cost of each request not answered, in blocks (0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_request_weight: Option<f64>,
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
    /// scored (50ms), vllm_dp (100ms): how often the router reads the replicas' queues and KV use; 0s is always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_period: Option<Span>,
    /// kv_lookup, kv_aware, scored, vllm_dp: how long what a replica tells takes to reach the router (0s).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_delay: Option<Span>,
}

/// When what the replicas say reaches the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Staleness {
    /// Between two readings; zero reads at every request.
    pub period: SimDuration,
    /// From a reading to its use.
    pub delay: SimDuration,
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
    },
    /// Blocks to compute and in use, less those found.
    KvAware {
        /// The weights.
        weights: KvAwareConfig,
        /// How late the caches are known; or, remembered by itself, for how long.
        source: KvSource,
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
    },
    /// Queues and KV use of the last snapshot.
    VllmDp {
        /// When they are read.
        staleness: Staleness,
    },
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

impl RouterSection {
    /// Checks the section and fills in what is left out. `locate` makes an error about a key such as `router.weights`.
    pub fn resolve(&self, groups: &[GroupSize<'_>], locate: Locate) -> Result<RouterConfig> {
        self.check_keys(locate)?;
        self.check_values(locate)?;
        let delay = self.signal_delay.map_or(SimDuration::ZERO, SimDuration::from);
        let staleness = |period: SimDuration| Staleness {
            period: self.signal_period.map_or(period, SimDuration::from),
            delay,
        };
        let seconds = |s: u64| SimDuration(s * 1_000_000_000);
        let ms = |ms: u64| SimDuration(ms * 1_000_000);
        Ok(match self.policy {
            RouterPolicy::RoundRobin => RouterConfig::RoundRobin(self.replica_weights(groups, locate)?),
            RouterPolicy::Random => RouterConfig::Random(self.replica_weights(groups, locate)?),
            RouterPolicy::LeastOutstandingRequests => RouterConfig::LeastOutstandingRequests,
            RouterPolicy::LeastOutstandingTokens => RouterConfig::LeastOutstandingTokens,
            RouterPolicy::PowerOfTwo => RouterConfig::PowerOfTwo,
            RouterPolicy::SessionAffinity => RouterConfig::SessionAffinity,
            RouterPolicy::ConsistentHash => RouterConfig::ConsistentHash {
                prefix_tokens: (self.key == Some(HashKey::Prefix))
                    .then_some(self.prefix_tokens.unwrap_or(256)),
                virtual_nodes: self.virtual_nodes.unwrap_or(100),
            },
            RouterPolicy::PrefixAware => {
                RouterConfig::PrefixAware { chunk_tokens: self.chunk_tokens.unwrap_or(32) }
            }
            RouterPolicy::CacheAware => RouterConfig::CacheAware {
                chunk_tokens: self.chunk_tokens.unwrap_or(16),
                cache_threshold: self.cache_threshold.unwrap_or(0.3),
                balance_abs_threshold: self.balance_abs_threshold.unwrap_or(64),
                balance_rel_threshold: self.balance_rel_threshold.unwrap_or(1.5),
                eviction_interval: self.eviction_interval.map_or(seconds(60), SimDuration::from),
                max_tree_tokens: self.max_tree_tokens.unwrap_or(1 << 24),
            },
            RouterPolicy::KvLookup => {
                RouterConfig::KvLookup { threshold_tokens: self.threshold_tokens.unwrap_or(2000), delay }
            }
            RouterPolicy::KvAware => RouterConfig::KvAware {
                weights: KvAwareConfig {
                    prefill_load_scale: self.prefill_load_scale.unwrap_or(1.0),
                    overlap_score_credit: self.overlap_score_credit.unwrap_or(1.0),
                    overlap_decay: self.overlap_decay.unwrap_or(0.0),
                    active_request_weight: self.active_request_weight.unwrap_or(0.0),
                    temperature: self.temperature.unwrap_or(0.0),
                },
                source: match self.index {
                    Some(PrefixSource::Dispatch) => {
                        KvSource::Dispatch(self.index_ttl.map_or(seconds(120), SimDuration::from))
                    }
                    _ => KvSource::Events(delay),
                },
            },
            RouterPolicy::Scored => RouterConfig::Scored {
                weights: self.scorers.unwrap_or_default(),
                staleness: staleness(ms(50)),
                events_delay: (self.index == Some(PrefixSource::Events)).then_some(delay),
                chunk_tokens: self.chunk_tokens.unwrap_or(16),
                lru_entries: self.lru_entries.unwrap_or(31_250),
                max_prefix_chunks: self.max_prefix_chunks.unwrap_or(256),
            },
            RouterPolicy::VllmDp => RouterConfig::VllmDp { staleness: staleness(ms(100)) },
        })
    }

    /// Every parameter belongs to the policy.
    fn check_keys(&self, locate: Locate) -> Result<()> {
        use RouterPolicy::{CacheAware, ConsistentHash, KvAware, KvLookup, PrefixAware, Random, RoundRobin};
        use RouterPolicy::{Scored, VllmDp};
        // Every field is named, so that a new one is decided on here.
        let RouterSection {
            policy,
            weights,
            key,
            prefix_tokens,
            virtual_nodes,
            chunk_tokens,
            cache_threshold,
            balance_abs_threshold,
            balance_rel_threshold,
            eviction_interval,
            max_tree_tokens,
            threshold_tokens,
            prefill_load_scale,
            overlap_score_credit,
            overlap_decay,
            active_request_weight,
            temperature,
            index,
            index_ttl,
            lru_entries,
            max_prefix_chunks,
            scorers,
            signal_period,
            signal_delay,
        } = self;
        let keys: [(&str, bool, &[RouterPolicy]); 23] = [
            ("weights", weights.is_some(), &[RoundRobin, Random]),
            ("key", key.is_some(), &[ConsistentHash]),
            ("prefix_tokens", prefix_tokens.is_some(), &[ConsistentHash]),
            ("virtual_nodes", virtual_nodes.is_some(), &[ConsistentHash]),
            ("chunk_tokens", chunk_tokens.is_some(), &[PrefixAware, CacheAware, Scored]),
            ("cache_threshold", cache_threshold.is_some(), &[CacheAware]),
            ("balance_abs_threshold", balance_abs_threshold.is_some(), &[CacheAware]),
            ("balance_rel_threshold", balance_rel_threshold.is_some(), &[CacheAware]),
            ("eviction_interval", eviction_interval.is_some(), &[CacheAware]),
            ("max_tree_tokens", max_tree_tokens.is_some(), &[CacheAware]),
            ("threshold_tokens", threshold_tokens.is_some(), &[KvLookup]),
            ("prefill_load_scale", prefill_load_scale.is_some(), &[KvAware]),
            ("overlap_score_credit", overlap_score_credit.is_some(), &[KvAware]),
            ("overlap_decay", overlap_decay.is_some(), &[KvAware]),
            ("active_request_weight", active_request_weight.is_some(), &[KvAware]),
            ("temperature", temperature.is_some(), &[KvAware]),
            ("index", index.is_some(), &[KvAware, Scored]),
            ("index_ttl", index_ttl.is_some(), &[KvAware]),
            ("lru_entries", lru_entries.is_some(), &[Scored]),
            ("max_prefix_chunks", max_prefix_chunks.is_some(), &[Scored]),
            ("scorers", scorers.is_some(), &[Scored]),
            ("signal_period", signal_period.is_some(), &[Scored, VllmDp]),
            ("signal_delay", signal_delay.is_some(), &[KvLookup, KvAware, Scored, VllmDp]),
        ];
        let name = |policy: RouterPolicy| policy.name();
        for (key, is_set, owners) in keys {
            if is_set && !owners.contains(policy) {
                let owners: Vec<&str> = owners.iter().map(|policy| name(*policy)).collect();
                let message = format!(
                    "is no parameter of policy {}; it belongs to {}",
                    name(*policy),
                    owners.join(", ")
                );
                return Err(locate(&format!("router.{key}"), message));
            }
        }
        Ok(())
    }

    fn check_values(&self, locate: Locate) -> Result<()> {
        let whole = |key: &str, value: Option<u64>, most: u64| match value {
            Some(value) if !(1..=most).contains(&value) => {
                Err(locate(&format!("router.{key}"), format!("found {value}, expected 1 to {most}")))
            }
            _ => Ok(()),
        };
        whole("prefix_tokens", self.prefix_tokens.map(u64::from), 1 << 24)?;
        whole("virtual_nodes", self.virtual_nodes.map(u64::from), 10_000)?;
        whole("chunk_tokens", self.chunk_tokens.map(u64::from), 1 << 16)?;
        whole("max_tree_tokens", self.max_tree_tokens, 1 << 40)?;
        whole("lru_entries", self.lru_entries.map(u64::from), 1 << 28)?;
        whole("max_prefix_chunks", self.max_prefix_chunks.map(u64::from), 1 << 24)?;
        whole("eviction_interval", self.eviction_interval.map(|span| span.0), u64::MAX)?;
        let scorers = self.scorers.unwrap_or_default();
        let figures = [
            ("cache_threshold", self.cache_threshold, 1.0),
            ("balance_rel_threshold", self.balance_rel_threshold, 1e6),
            ("prefill_load_scale", self.prefill_load_scale, 1e6),
            ("overlap_score_credit", self.overlap_score_credit, 1e6),
            ("overlap_decay", self.overlap_decay, 1e6),
            ("active_request_weight", self.active_request_weight, 1e6),
            ("temperature", self.temperature, 1e6),
            ("scorers.queue", Some(scorers.queue), 1e6),
            ("scorers.kv_utilization", Some(scorers.kv_utilization), 1e6),
            ("scorers.prefix", Some(scorers.prefix), 1e6),
            ("scorers.running", Some(scorers.running), 1e6),
            ("scorers.active_requests", Some(scorers.active_requests), 1e6),
            ("scorers.token_load", Some(scorers.token_load), 1e6),
        ];
        for (key, value, most) in figures {
            if let Some(value) = value.filter(|value| !(0.0..=most).contains(value)) {
                return Err(locate(&format!("router.{key}"), format!("found {value}, expected 0 to {most}")));
            }
        }
        // Readings on their way are kept, each with a figure per replica.
        let (period, delay) =
            (self.signal_period.map_or(50_000_000, |p| p.0), self.signal_delay.map_or(0, |d| d.0));
        if self.signal_period.is_some_and(|period| period.0 == 0) && delay > 0 {
            let message = "needs a signal_period above 0s: replicas that are always read cannot be read late";
            return Err(locate("router.signal_delay", message.to_string()));
        }
        if self.signal_period.is_some() && delay > 1000 * period {
            let message = "is more than 1,000 times signal_period; make it shorter, or the period longer";
            return Err(locate("router.signal_delay", message.to_string()));
        }
        Ok(())
    }

    /// The weight of each replica, in order; none where all are equal.
    fn replica_weights(&self, groups: &[GroupSize<'_>], locate: Locate) -> Result<Option<Vec<u32>>> {
        let Some(weights) = &self.weights else { return Ok(None) };
        for (name, weight) in weights {
            let key = format!("router.weights.{name}");
            if !groups.iter().any(|group| group.name == name) {
                let known: Vec<&str> =
                    groups.iter().map(|group| group.name).filter(|name| !name.is_empty()).collect();
                let known = if known.is_empty() {
                    "the scenario has no replica_groups".to_string()
                } else {
                    format!("the groups are {}", known.join(", "))
                };
                return Err(locate(&key, format!("unknown replica group `{name}`; {known}")));
            }
            if *weight > 1_000_000 {
                return Err(locate(&key, format!("found {weight}, expected 0 to 1000000")));
            }
        }
        let weight = |group: &GroupSize<'_>| weights.get(group.name).copied().unwrap_or(1);
        let all: Vec<u32> = groups
            .iter()
            .flat_map(|group| std::iter::repeat_n(weight(group), group.replicas as usize))
            .collect();
        if all.iter().all(|weight| *weight == 0) {
            return Err(locate(
                "router.weights",
                "every weight is 0, so that no replica takes requests".into(),
            ));
        }
        Ok(Some(all))
    }
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
            RouterPolicy::ConsistentHash => "consistent_hash",
            RouterPolicy::PrefixAware => "prefix_aware",
            RouterPolicy::CacheAware => "cache_aware",
            RouterPolicy::KvLookup => "kv_lookup",
            RouterPolicy::KvAware => "kv_aware",
            RouterPolicy::Scored => "scored",
            RouterPolicy::VllmDp => "vllm_dp",
        }
    }
}

impl RouterConfig {
    /// Whether it compares prompts, so that the workload must say which tokens are equal.
    pub fn needs_prefixes(&self) -> bool {
        match self {
            RouterConfig::ConsistentHash { prefix_tokens, .. } => prefix_tokens.is_some(),
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
            RouterConfig::SessionAffinity | RouterConfig::ConsistentHash { prefix_tokens: None, .. }
        )
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
