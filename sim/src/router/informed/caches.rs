//! What a router knows of the caches: by what it sent, or by what the replicas tell.

use crate::router::index::{KvIndex, SentIndex};
use crate::router::{KvSource, RouterConfig};
use crate::units::{SimDuration, SimTime};

/// What the router knows of the caches.
#[derive(Debug)]
pub(super) enum Caches {
    Unknown,
    /// Chunks sent to each replica, and what limits them.
    Sent(SentIndex, Limit),
    Told(KvIndex),
}

/// What makes the router forget what it sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    None,
    /// Chunks per replica.
    Chunks(usize),
    /// Time since the last use.
    Age(SimDuration),
    /// Chunks per replica, cut at times: the next of them, and the span between.
    CutAt {
        chunks: usize,
        next: SimTime,
        every: SimDuration,
    },
}

impl Caches {
    /// Of a policy in front of replicas with KV blocks of `block_size`; with the tokens by which it compares prompts, and
    /// how many times as many of a prompt it looks at.
    pub fn of(config: &RouterConfig, replicas: usize, block_size: u32) -> (Caches, u32, usize) {
        let sent = |limit| Caches::Sent(SentIndex::new(replicas), limit);
        let told = |delay| Caches::Told(KvIndex::new(replicas, delay));
        match config {
            RouterConfig::PrefixAware { chunk_tokens } => (sent(Limit::None), *chunk_tokens, usize::MAX),
            RouterConfig::CacheAware { chunk_tokens, eviction_interval, max_tree_tokens, .. } => {
                let chunks = (max_tree_tokens / u64::from(*chunk_tokens)) as usize;
                let next = SimTime::ZERO + *eviction_interval;
                (sent(Limit::CutAt { chunks, next, every: *eviction_interval }), *chunk_tokens, usize::MAX)
            }
            RouterConfig::KvLookup { delay, .. } => (told(*delay), block_size, usize::MAX),
            RouterConfig::KvAware { source: KvSource::Events(delay), .. } => {
                (told(*delay), block_size, usize::MAX)
            }
            RouterConfig::KvAware { source: KvSource::Dispatch(age), .. } => {
                (sent(Limit::Age(*age)), block_size, usize::MAX)
            }
            RouterConfig::Scored { weights, .. } if weights.prefix == 0.0 => (Caches::Unknown, block_size, 0),
            RouterConfig::Scored { events_delay: Some(delay), max_prefix_chunks, .. } => {
                (told(*delay), block_size, *max_prefix_chunks as usize)
            }
            RouterConfig::Scored { chunk_tokens, lru_entries, max_prefix_chunks, .. } => {
                let limit = Limit::Chunks(*lru_entries as usize);
                (sent(limit), *chunk_tokens, *max_prefix_chunks as usize)
            }
            _ => (Caches::Unknown, block_size, 0),
        }
    }
}

impl Limit {
    /// Forgets what it says at `now`.
    pub fn forget(&mut self, index: &mut SentIndex, now: SimTime) {
        match self {
            Limit::None | Limit::Chunks(_) => {}
            Limit::Age(age) => {
                index.forget_before(SimTime(now.0.saturating_sub(age.0)));
            }
            Limit::CutAt { chunks, next, every } => {
                if now >= *next {
                    index.trim_all(*chunks);
                    let past = (now - *next).0 / every.0;
                    *next = *next + SimDuration(every.0.saturating_mul(past + 1));
                }
            }
        }
    }
}
