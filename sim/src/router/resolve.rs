//! Checks the `router:` section and fills in what it leaves out.

use super::{
    BucketConfig, BusyConfig, GroupSize, HashKey, KvAwareConfig, KvSource, PrefixSource, RouterConfig,
    RouterPolicy, RouterSection, Staleness,
};
use crate::error::Result;
use crate::units::{SimDuration, Span};
use crate::workload::Locate;

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
            RouterPolicy::Manual => RouterConfig::Manual {
                assignment: self.assignment.unwrap_or_default(),
                max_idle: self.max_idle.map_or(seconds(4 * 3600), SimDuration::from),
                eviction_interval: self.eviction_interval.map_or(seconds(60), SimDuration::from),
            },
            RouterPolicy::ConsistentHash => {
                let prefix_tokens =
                    (self.key == Some(HashKey::Prefix)).then_some(self.prefix_tokens.unwrap_or(256));
                let virtual_nodes = self.virtual_nodes.unwrap_or(100);
                match self.load_factor {
                    None => RouterConfig::ConsistentHash { prefix_tokens, virtual_nodes },
                    Some(load_factor) => {
                        RouterConfig::BoundedHash { prefix_tokens, virtual_nodes, load_factor }
                    }
                }
            }
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
                let session_nodes =
                    (self.key == Some(HashKey::Session)).then_some(self.virtual_nodes.unwrap_or(100));
                let threshold_tokens = self.threshold_tokens.unwrap_or(2000);
                RouterConfig::KvLookup { threshold_tokens, delay, session_nodes }
            }
            RouterPolicy::KvAware => self.kv_aware(delay),
            RouterPolicy::Scored => RouterConfig::Scored {
                weights: self.scorers.unwrap_or_default(),
                staleness: staleness(ms(50)),
                events_delay: (self.index == Some(PrefixSource::Events)).then_some(delay),
                chunk_tokens: self.chunk_tokens.unwrap_or(16),
                lru_entries: self.lru_entries.unwrap_or(31_250),
                max_prefix_chunks: self.max_prefix_chunks.unwrap_or(256),
                saturation: self.saturation,
            },
            RouterPolicy::VllmDp => RouterConfig::VllmDp { staleness: staleness(ms(100)) },
            // The original counts characters, four to a token here: 32, and 4,096.
            RouterPolicy::Bucket => RouterConfig::Bucket(BucketConfig {
                balance_abs_tokens: self.balance_abs_threshold.unwrap_or(8),
                balance_rel_threshold: self.balance_rel_threshold.unwrap_or(1.0001),
                interval: self.adjust_interval.map_or(seconds(5), SimDuration::from),
                initial_tokens: self.initial_tokens.unwrap_or(1024),
            }),
        })
    }

    fn kv_aware(&self, delay: SimDuration) -> RouterConfig {
        RouterConfig::KvAware {
            weights: KvAwareConfig {
                prefill_load_scale: self.prefill_load_scale.unwrap_or(1.0),
                overlap_score_credit: self.overlap_score_credit.unwrap_or(1.0),
                overlap_decay: self.overlap_decay.unwrap_or(0.0),
                host_overlap_credit: self.host_overlap_credit.unwrap_or(0.75),
                nvme_overlap_credit: self.nvme_overlap_credit.unwrap_or(0.25),
                active_request_weight: self.active_request_weight.unwrap_or(0.0),
                temperature: self.temperature.unwrap_or(0.0),
            },
            source: match self.index {
                Some(PrefixSource::Dispatch) => {
                    KvSource::Dispatch(self.index_ttl.map_or(SimDuration(120_000_000_000), SimDuration::from))
                }
                _ => KvSource::Events(delay),
            },
            busy: BusyConfig {
                decode_blocks_share: self.active_decode_blocks_threshold,
                prefill_tokens: self.active_prefill_tokens_threshold,
            },
        }
    }

    /// Every parameter belongs to the policy.
    fn check_keys(&self, locate: Locate) -> Result<()> {
        use RouterPolicy::{
            Bucket, CacheAware, ConsistentHash, KvAware, KvLookup, Manual, PrefixAware, Random, RoundRobin,
        };
        use RouterPolicy::{Scored, VllmDp};
        // Every field is named, so that a new one is decided on here.
        let RouterSection {
            policy,
            weights,
            key,
            prefix_tokens,
            virtual_nodes,
            load_factor,
            assignment,
            max_idle,
            chunk_tokens,
            cache_threshold,
            balance_abs_threshold,
            balance_rel_threshold,
            eviction_interval,
            max_tree_tokens,
            adjust_interval,
            initial_tokens,
            threshold_tokens,
            prefill_load_scale,
            overlap_score_credit,
            overlap_decay,
            host_overlap_credit,
            nvme_overlap_credit,
            active_request_weight,
            active_decode_blocks_threshold,
            active_prefill_tokens_threshold,
            temperature,
            index,
            index_ttl,
            lru_entries,
            max_prefix_chunks,
            scorers,
            saturation,
            signal_period,
            signal_delay,
        } = self;
        let keys: [(&str, bool, &[RouterPolicy]); 33] = [
            ("weights", weights.is_some(), &[RoundRobin, Random]),
            ("key", key.is_some(), &[ConsistentHash, KvLookup]),
            ("prefix_tokens", prefix_tokens.is_some(), &[ConsistentHash]),
            ("virtual_nodes", virtual_nodes.is_some(), &[ConsistentHash, KvLookup]),
            ("load_factor", load_factor.is_some(), &[ConsistentHash]),
            ("assignment", assignment.is_some(), &[Manual]),
            ("max_idle", max_idle.is_some(), &[Manual]),
            ("chunk_tokens", chunk_tokens.is_some(), &[PrefixAware, CacheAware, Scored]),
            ("cache_threshold", cache_threshold.is_some(), &[CacheAware]),
            ("balance_abs_threshold", balance_abs_threshold.is_some(), &[CacheAware, Bucket]),
            ("balance_rel_threshold", balance_rel_threshold.is_some(), &[CacheAware, Bucket]),
            ("eviction_interval", eviction_interval.is_some(), &[CacheAware, Manual]),
            ("max_tree_tokens", max_tree_tokens.is_some(), &[CacheAware]),
            ("adjust_interval", adjust_interval.is_some(), &[Bucket]),
            ("initial_tokens", initial_tokens.is_some(), &[Bucket]),
            ("threshold_tokens", threshold_tokens.is_some(), &[KvLookup]),
            ("prefill_load_scale", prefill_load_scale.is_some(), &[KvAware]),
            ("overlap_score_credit", overlap_score_credit.is_some(), &[KvAware]),
            ("overlap_decay", overlap_decay.is_some(), &[KvAware]),
            ("host_overlap_credit", host_overlap_credit.is_some(), &[KvAware]),
            ("nvme_overlap_credit", nvme_overlap_credit.is_some(), &[KvAware]),
            ("active_request_weight", active_request_weight.is_some(), &[KvAware]),
            ("active_decode_blocks_threshold", active_decode_blocks_threshold.is_some(), &[KvAware]),
            ("active_prefill_tokens_threshold", active_prefill_tokens_threshold.is_some(), &[KvAware]),
            ("temperature", temperature.is_some(), &[KvAware]),
            ("index", index.is_some(), &[KvAware, Scored]),
            ("index_ttl", index_ttl.is_some(), &[KvAware]),
            ("lru_entries", lru_entries.is_some(), &[Scored]),
            ("max_prefix_chunks", max_prefix_chunks.is_some(), &[Scored]),
            ("scorers", scorers.is_some(), &[Scored]),
            ("saturation", saturation.is_some(), &[Scored]),
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
        let positive = |key: &str, value: Option<Span>| match value {
            Some(Span(0)) => {
                Err(locate(&format!("router.{key}"), "found 0s, expected more than 0s".to_string()))
            }
            _ => Ok(()),
        };
        whole("prefix_tokens", self.prefix_tokens.map(u64::from), 1 << 24)?;
        whole("virtual_nodes", self.virtual_nodes.map(u64::from), 10_000)?;
        whole("chunk_tokens", self.chunk_tokens.map(u64::from), 1 << 16)?;
        whole("max_tree_tokens", self.max_tree_tokens, 1 << 40)?;
        whole("lru_entries", self.lru_entries.map(u64::from), 1 << 28)?;
        whole("max_prefix_chunks", self.max_prefix_chunks.map(u64::from), 1 << 24)?;
        whole("initial_tokens", self.initial_tokens.map(u64::from), 1 << 24)?;
        whole("active_prefill_tokens_threshold", self.active_prefill_tokens_threshold, 1 << 40)?;
        positive("adjust_interval", self.adjust_interval)?;
        positive("max_idle", self.max_idle)?;
        positive("eviction_interval", self.eviction_interval)?;
        let scorers = self.scorers.unwrap_or_default();
        let figures = [
            ("cache_threshold", self.cache_threshold, 1.0),
            ("balance_rel_threshold", self.balance_rel_threshold, 1e6),
            ("prefill_load_scale", self.prefill_load_scale, 1e6),
            ("overlap_score_credit", self.overlap_score_credit, 1e6),
            ("overlap_decay", self.overlap_decay, 1e6),
            ("host_overlap_credit", self.host_overlap_credit, 1e6),
            ("nvme_overlap_credit", self.nvme_overlap_credit, 1e6),
            ("active_request_weight", self.active_request_weight, 1e6),
            ("active_decode_blocks_threshold", self.active_decode_blocks_threshold, 1e3),
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
        if let Some(factor) = self.load_factor.filter(|factor| !(1.0..=1e6).contains(factor)) {
            return Err(locate("router.load_factor", format!("found {factor}, expected 1 to 1000000")));
        }
        let saturation = self.saturation.unwrap_or_default();
        for (key, value) in [
            ("saturation.queue_depth", saturation.queue_depth),
            ("saturation.kv_utilization", saturation.kv_utilization),
        ] {
            if !(1e-3..=1e6).contains(&value) {
                return Err(locate(
                    &format!("router.{key}"),
                    format!("found {value}, expected 0.001 to 1000000"),
                ));
            }
        }
        self.check_combinations(locate)
    }

    /// What goes together.
    fn check_combinations(&self, locate: Locate) -> Result<()> {
        if self.policy == RouterPolicy::KvLookup {
            if self.key == Some(HashKey::Prefix) {
                let message = "found prefix; kv_lookup goes by prefixes already, the rest may go by session";
                return Err(locate("router.key", message.to_string()));
            }
            if self.key.is_none() && self.virtual_nodes.is_some() {
                return Err(locate("router.virtual_nodes", "needs key: session with kv_lookup".to_string()));
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
