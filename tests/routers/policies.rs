//! The policies that are tried.

use sim::router::{
    Assignment, BucketConfig, BusyConfig, KvAwareConfig, KvSource, RouterConfig, SaturationSection,
    ScorerWeights, Staleness, WhenSaturated,
};
use sim::units::SimDuration;

/// Every policy, with times that fit the small scenarios, in ns.
pub fn routers() -> Vec<RouterConfig> {
    let kv = KvAwareConfig {
        prefill_load_scale: 1.0,
        overlap_score_credit: 1.0,
        overlap_decay: 0.5,
        host_overlap_credit: 0.75,
        nvme_overlap_credit: 0.25,
        active_request_weight: 0.1,
        temperature: 0.0,
    };
    let stale = |period, delay| Staleness { period: SimDuration(period), delay: SimDuration(delay) };
    let scored = |staleness, events_delay| RouterConfig::Scored {
        weights: ScorerWeights {
            running: 1.0,
            active_requests: 0.5,
            token_load: 1.0,
            ..ScorerWeights::default()
        },
        staleness,
        events_delay,
        chunk_tokens: 4,
        lru_entries: 20,
        max_prefix_chunks: 6,
        saturation: None,
    };
    let refusing = |others| RouterConfig::Scored {
        weights: ScorerWeights::default(),
        staleness: stale(1_500, 400),
        events_delay: None,
        chunk_tokens: 4,
        lru_entries: 20,
        max_prefix_chunks: 6,
        saturation: Some(SaturationSection { queue_depth: 2.0, kv_utilization: 0.5, others }),
    };
    let manual = |assignment| RouterConfig::Manual {
        assignment,
        max_idle: SimDuration(5_000),
        eviction_interval: SimDuration(2_000),
    };
    let kv_aware = |weights, source| RouterConfig::KvAware { weights, source, busy: BusyConfig::default() };
    vec![
        RouterConfig::RoundRobin(None),
        RouterConfig::RoundRobin(Some(vec![2, 1, 0])),
        RouterConfig::Random(None),
        RouterConfig::Random(Some(vec![1, 0, 3])),
        RouterConfig::LeastOutstandingRequests,
        RouterConfig::LeastOutstandingTokens,
        RouterConfig::PowerOfTwo,
        RouterConfig::SessionAffinity,
        RouterConfig::ConsistentHash { prefix_tokens: None, virtual_nodes: 7 },
        RouterConfig::ConsistentHash { prefix_tokens: Some(9), virtual_nodes: 7 },
        RouterConfig::BoundedHash { prefix_tokens: None, virtual_nodes: 7, load_factor: 1.25 },
        RouterConfig::BoundedHash { prefix_tokens: Some(9), virtual_nodes: 7, load_factor: 1.0 },
        manual(Assignment::Random),
        manual(Assignment::MinLoad),
        manual(Assignment::MinGroup),
        RouterConfig::PrefixAware { chunk_tokens: 4 },
        RouterConfig::CacheAware {
            chunk_tokens: 3,
            cache_threshold: 0.2,
            balance_abs_threshold: 3,
            balance_rel_threshold: 1.2,
            eviction_interval: SimDuration(5_000),
            max_tree_tokens: 60,
        },
        RouterConfig::KvLookup { threshold_tokens: 15, delay: SimDuration::ZERO, session_nodes: None },
        RouterConfig::KvLookup { threshold_tokens: 15, delay: SimDuration(3_000), session_nodes: Some(7) },
        kv_aware(kv, KvSource::Events(SimDuration::ZERO)),
        kv_aware(kv, KvSource::Events(SimDuration(700))),
        kv_aware(KvAwareConfig { temperature: 0.5, ..kv }, KvSource::Dispatch(SimDuration(9_000))),
        RouterConfig::KvAware {
            weights: KvAwareConfig { temperature: 0.2, ..kv },
            source: KvSource::Events(SimDuration::ZERO),
            busy: BusyConfig { decode_blocks_share: Some(0.6), prefill_tokens: Some(30) },
        },
        refusing(WhenSaturated::Pass),
        refusing(WhenSaturated::Queue),
        RouterConfig::Bucket(BucketConfig {
            balance_abs_tokens: 30,
            balance_rel_threshold: 1.2,
            interval: SimDuration(4_000),
            initial_tokens: 60,
        }),
        scored(stale(0, 0), None),
        scored(stale(1_500, 400), None),
        scored(stale(1_500, 0), Some(SimDuration(200))),
        RouterConfig::VllmDp { staleness: stale(2_500, 0) },
        RouterConfig::VllmDp { staleness: stale(0, 0) },
    ]
}
