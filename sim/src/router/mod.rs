//! The router in front of the replicas: which of them gets a request. Policies are a closed set (rules );
//! docs/scenarios.md lists them with their parameters.
//!
//! Policies that go by the requests alone (`BlindRouter`) leave the replicas independent of each other. The others
//! know what they sent and what was answered at once, and what the replicas tell them late.

mod blind;
mod bucket;
mod config;
mod homes;
mod index;
mod informed;
mod lately;
mod outstanding;
mod resolve;
mod score;
mod signals;
mod spec;
mod tier_index;

pub(crate) use blind::BlindRouter;
pub use config::{BucketConfig, BusyConfig, GroupSize, KvAwareConfig, KvSource, RouterConfig, Staleness};
pub(crate) use informed::{InformedRouter, Verdict};
pub use signals::ReplicaLoad;
pub use spec::{
    Assignment, HashKey, PrefixSource, RouterPolicy, RouterSection, SaturationSection, ScorerWeights,
    WhenSaturated,
};

use rand::Rng;
use rand_pcg::Pcg64;

/// The router of a run.
pub(crate) enum Router {
    /// Looks at requests only.
    Blind(BlindRouter),
    /// Looks at what it sent and at what the replicas tell.
    Informed(Box<InformedRouter>),
}

impl Router {
    /// A router over `replicas` whose KV blocks have `block_size` tokens. Draws come from its own stream of `seed`.
    pub fn new(config: &RouterConfig, replicas: usize, block_size: u32, seed: u64) -> Router {
        let random = crate::rng::stream(seed, "router");
        match BlindRouter::new(config, replicas, random.clone()) {
            Some(router) => Router::Blind(router),
            None => Router::Informed(Box::new(InformedRouter::new(config, replicas, block_size, random))),
        }
    }

    /// The informed one, if it is.
    pub fn informed(&mut self) -> Option<&mut InformedRouter> {
        match self {
            Router::Blind(_) => None,
            Router::Informed(router) => Some(router),
        }
    }
}

/// A whole number below `count`, each equally likely to within 2^-64 of its share.
fn below(random: &mut Pcg64, count: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(count)) >> 64) as u64
}

/// A number from 0 up to and without 1.
fn unit(random: &mut Pcg64) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The index of the largest value, drawn among those that are equal.
fn best_at_random(values: &[f64], random: &mut Pcg64) -> usize {
    let (mut best, mut ties) = (0, 0u64);
    for (index, value) in values.iter().enumerate() {
        if ties == 0 || *value > values[best] {
            (best, ties) = (index, 1);
        } else if *value == values[best] {
            ties += 1;
            if below(random, ties) == 0 {
                best = index;
            }
        }
    }
    best
}

#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;
