//! How each policy chooses by what is known.

use super::InformedRouter;
use super::caches::Caches;
use crate::request::RequestTable;
use crate::router::blind::{hash_of_start, on_ring, ring, session_key};
use crate::router::homes::Homes;
use crate::router::lately::SentLately;
use crate::router::score::{KvCost, ScoreInput, dp_score, is_uneven, scores, softmax_of_costs};
use crate::router::tier_index::TierBlocks;
use crate::router::{KvAwareConfig, RouterConfig, below, best_at_random, unit};
use crate::units::SimTime;
use crate::workload::Arrival;

/// How `kv_lookup` sends what has no match, and what other policies without an index go by.
#[derive(Debug)]
pub(super) enum Fallback {
    /// By session or start of the prompt, on a ring.
    Ring(Vec<(u64, u32)>),
    /// Where the fewest were sent lately.
    Rate(SentLately),
    /// Where the session lives.
    Home(Box<Homes>),
}

impl Fallback {
    /// What the policy's settings say.
    pub fn of(config: &RouterConfig, replicas: usize) -> Fallback {
        match config {
            RouterConfig::KvLookup { session_nodes: Some(nodes), .. }
            | RouterConfig::BoundedHash { virtual_nodes: nodes, .. } => {
                Fallback::Ring(ring(replicas, *nodes))
            }
            RouterConfig::Manual { assignment, max_idle, eviction_interval } => {
                Fallback::Home(Box::new(Homes::new(replicas, *assignment, *max_idle, *eviction_interval)))
            }
            _ => Fallback::Rate(SentLately::new(replicas)),
        }
    }
}

impl InformedRouter {
    /// The replica of the request `number`, which comes `now`.
    pub(super) fn choose(
        &mut self,
        now: SimTime,
        number: u64,
        arrival: &Arrival,
        table: &RequestTable,
    ) -> usize {
        match self.config.clone() {
            RouterConfig::BoundedHash { prefix_tokens, load_factor, .. } => {
                let key = match prefix_tokens {
                    None => session_key(arrival),
                    Some(tokens) => hash_of_start(&mut self.identity, arrival, number, tokens),
                };
                match &self.fallback {
                    Fallback::Ring(points) => self.outstanding.bounded(on_ring(points, key), load_factor),
                    _ => self.outstanding.fewest_requests(),
                }
            }
            RouterConfig::LeastOutstandingTokens => self.outstanding.fewest_tokens(),
            RouterConfig::PowerOfTwo => self.better_of_two(),
            RouterConfig::PrefixAware { .. } => {
                self.values.clear();
                self.values.extend(self.matched.iter().map(|chunks| f64::from(*chunks)));
                best_at_random(&self.values, &mut self.random)
            }
            RouterConfig::CacheAware {
                cache_threshold,
                balance_abs_threshold,
                balance_rel_threshold,
                ..
            } => {
                let least = self.outstanding.fewest_requests();
                let loads = (0..self.replicas).map(|replica| self.outstanding.requests(replica));
                let most = loads.max().unwrap_or(0);
                let fewest = self.outstanding.requests(least);
                if is_uneven(fewest, most, balance_abs_threshold, balance_rel_threshold) {
                    return least;
                }
                let (replica, tokens) = self.longest_match();
                if f64::from(tokens) > cache_threshold * f64::from(arrival.prompt_tokens) {
                    return replica;
                }
                self.smallest_tree()
            }
            RouterConfig::KvLookup { threshold_tokens, .. } => {
                let (longest, tokens) = self.longest_match();
                let is_match = tokens > 0 && tokens.saturating_add(threshold_tokens) >= arrival.prompt_tokens;
                match &mut self.fallback {
                    Fallback::Ring(points) if !is_match => on_ring(points, session_key(arrival)),
                    Fallback::Ring(_) | Fallback::Home(_) => longest,
                    Fallback::Rate(lately) => {
                        let replica = if is_match { longest } else { lately.fewest(now) };
                        lately.send(now, replica);
                        replica
                    }
                }
            }
            RouterConfig::KvAware { weights, .. } => self.cheapest(arrival, &weights, table),
            RouterConfig::Scored { weights, .. } => {
                self.gather(arrival);
                scores(&self.inputs, &weights, &mut self.values);
                best_at_random(&self.values, &mut self.random)
            }
            RouterConfig::VllmDp { .. } => self.least_dp_score(),
            RouterConfig::Manual { .. } => match &mut self.fallback {
                Fallback::Home(homes) => {
                    homes.route(now, arrival.session, &self.outstanding, &mut self.random)
                }
                Fallback::Ring(_) | Fallback::Rate(_) => self.outstanding.fewest_requests(),
            },
            // The blind ones are not made here.
            RouterConfig::RoundRobin(_)
            | RouterConfig::Random(_)
            | RouterConfig::LeastOutstandingRequests
            | RouterConfig::SessionAffinity
            | RouterConfig::ConsistentHash { .. }
            | RouterConfig::Bucket(_) => self.outstanding.fewest_requests(),
        }
    }

    /// Of two different replicas drawn at random the one with fewer requests, the first drawn of equals.
    fn better_of_two(&mut self) -> usize {
        let count = self.replicas as u64;
        let one = below(&mut self.random, count);
        if count < 2 {
            return one as usize;
        }
        let two = (one + 1 + below(&mut self.random, count - 1)) % count;
        let load = |replica: u64| self.outstanding.requests(replica as usize);
        if load(two) < load(one) { two as usize } else { one as usize }
    }

    /// The first replica with the longest match, and its tokens.
    fn longest_match(&self) -> (usize, u32) {
        let mut best = 0;
        for (replica, chunks) in self.matched.iter().enumerate() {
            if *chunks > self.matched[best] {
                best = replica;
            }
        }
        (best, self.matched[best].saturating_mul(self.chunk_tokens))
    }

    fn smallest_tree(&self) -> usize {
        match &self.caches {
            Caches::Sent(index, _) => (0..self.replicas).min_by_key(|&r| index.len(r)).unwrap_or(0),
            _ => 0,
        }
    }

    /// the cheapest, or a draw by the softmax of the costs.
    fn cheapest(&mut self, arrival: &Arrival, weights: &KvAwareConfig, table: &RequestTable) -> usize {
        self.outstanding.settle_prefills(table);
        let block = f64::from(self.block_size);
        let request_blocks = f64::from(arrival.prompt_tokens) / block;
        self.values.clear();
        for replica in 0..self.replicas {
            let chain = self.identity.hashes();
            let beside = self
                .tiers
                .as_ref()
                .map_or(TierBlocks::default(), |tiers| tiers.after(chain, self.matched[replica], replica));
            let cost = KvCost {
                request_blocks,
                host_blocks: f64::from(beside.host),
                nvme_blocks: f64::from(beside.nvme),
                queued_blocks: self.outstanding.prefill_tokens(replica) as f64 / block,
                overlap_blocks: f64::from(self.matched[replica]),
                decode_blocks: self.outstanding.blocks(replica) as f64 + request_blocks,
                active_requests: self.outstanding.requests(replica) as f64,
            };
            self.values.push(if self.busy[replica] { f64::NEG_INFINITY } else { -cost.cost(weights) });
        }
        if weights.temperature == 0.0 {
            return best_at_random(&self.values, &mut self.random);
        }
        self.values.iter_mut().for_each(|value| *value = -*value);
        let chances = softmax_of_costs(&self.values, weights.temperature);
        let mut left = unit(&mut self.random) * chances.iter().sum::<f64>();
        for (replica, chance) in chances.iter().enumerate() {
            left -= chance;
            if left < 0.0 {
                return replica;
            }
        }
        self.replicas - 1
    }

    /// What R-4 looks at.
    fn gather(&mut self, arrival: &Arrival) {
        let Some(signals) = &self.signals else { return };
        let whole = (arrival.prompt_tokens / self.chunk_tokens).min(self.most_chunks as u32).max(1);
        self.inputs.clear();
        for (replica, load) in signals.latest().iter().enumerate() {
            self.inputs.push(ScoreInput {
                load: *load,
                prefix_share: f64::from(self.matched[replica]) / f64::from(whole),
                active_requests: self.outstanding.requests(replica),
                active_tokens: self.outstanding.tokens(replica),
            });
        }
    }

    /// V-49: the first of the lowest scores, scanning from an index that moves on with every request.
    fn least_dp_score(&mut self) -> usize {
        let Some(signals) = &self.signals else { return 0 };
        let score = |replica: usize| {
            let (load, sent) = (signals.latest()[replica], signals.sent_since()[replica]);
            dp_score(load, sent, self.outstanding.requests(replica))
        };
        let mut best = self.scan_from;
        for replica in (self.scan_from..self.replicas).chain(0..self.scan_from) {
            if score(replica) < score(best) {
                best = replica;
            }
        }
        self.scan_from = (self.scan_from + 1) % self.replicas;
        best
    }
}
