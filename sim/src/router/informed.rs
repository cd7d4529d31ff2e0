//! Policies that look at what they sent, at what was answered, and at what the replicas tell them.

use super::blind::{hash_of_start, on_ring, ring, session_key};
use super::homes::Homes;
use super::index::{KvIndex, SentIndex};
use super::lately::SentLately;
use super::outstanding::{Outstanding, Sent};
use super::score::{KvCost, ScoreInput, dp_score, is_uneven, saturation, scores, softmax_of_costs};
use super::signals::Signals;
use super::tier_index::{TierBlocks, TierIndex};
use super::{
    BusyConfig, KvAwareConfig, KvSource, ReplicaLoad, RouterConfig, WhenSaturated, below, best_at_random,
    unit,
};
use crate::block_pool::KvEvent;
use crate::identity::TokenIdentity;
use crate::offload::TierEvent;
use crate::request::{RequestId, RequestTable};
use crate::units::{SimDuration, SimTime};
use crate::workload::Arrival;
use rand_pcg::Pcg64;

/// What the router knows of the caches.
#[derive(Debug)]
enum Caches {
    Unknown,
    /// Chunks sent to each replica, and what limits them.
    Sent(SentIndex, Limit),
    Told(KvIndex),
}

/// What becomes of a request at the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is sent.
    Send,
    /// It waits.
    Wait,
    /// It is turned away.
    Shed,
}

/// How `kv_lookup` sends what has no match, and what other policies without an index go by.
#[derive(Debug)]
enum Fallback {
    /// By session or start of the prompt, on a ring.
    Ring(Vec<(u64, u32)>),
    /// Where the fewest were sent lately.
    Rate(SentLately),
    /// Where the session lives.
    Home(Box<Homes>),
}

/// What makes the router forget what it sent.
#[derive(Debug, Clone, Copy)]
enum Limit {
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

/// Chooses by what is known.
#[derive(Debug)]
pub(crate) struct InformedRouter {
    config: RouterConfig,
    replicas: usize,
    random: Pcg64,
    outstanding: Outstanding,
    /// What the request that was routed last will add to the load.
    routed: Sent,
    signals: Option<Signals>,
    caches: Caches,
    /// What it knows of the tiers behind them, where it asks.
    tiers: Option<TierIndex>,
    /// Tokens by which prompts are compared.
    chunk_tokens: u32,
    /// Chunks of a prompt that are looked at.
    most_chunks: usize,
    block_size: u32,
    identity: TokenIdentity,
    /// Leading chunks of the request being routed that each replica has.
    matched: Vec<u32>,
    values: Vec<f64>,
    inputs: Vec<ScoreInput>,
    /// Where the next scan starts (V-49).
    scan_from: usize,
    /// Which replicas are busy; all false where no threshold is set.
    busy: Vec<bool>,
    fallback: Fallback,
}

impl InformedRouter {
    /// A router of a policy that is not blind.
    pub fn new(config: &RouterConfig, replicas: usize, block_size: u32, random: Pcg64) -> InformedRouter {
        let sent = |limit| Caches::Sent(SentIndex::new(replicas), limit);
        let told = |delay| Caches::Told(KvIndex::new(replicas, delay));
        let (caches, chunk_tokens, most_chunks) = match config {
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
        };
        let signals = match config {
            RouterConfig::Scored { staleness, .. } | RouterConfig::VllmDp { staleness } => {
                Some(Signals::new(replicas, *staleness))
            }
            _ => None,
        };
        InformedRouter {
            config: config.clone(),
            replicas,
            random,
            outstanding: Outstanding::new(replicas, matches!(config, RouterConfig::KvAware { .. })),
            routed: Sent::default(),
            signals,
            caches,
            tiers: None,
            chunk_tokens,
            most_chunks,
            block_size,
            identity: TokenIdentity::default(),
            matched: vec![0; replicas],
            values: Vec::with_capacity(replicas),
            inputs: Vec::with_capacity(replicas),
            scan_from: 0,
            busy: vec![false; replicas],
            fallback: match config {
                RouterConfig::KvLookup { session_nodes: Some(nodes), .. }
                | RouterConfig::BoundedHash { virtual_nodes: nodes, .. } => {
                    Fallback::Ring(ring(replicas, *nodes))
                }
                RouterConfig::Manual { assignment, max_idle, eviction_interval } => {
                    Fallback::Home(Box::new(Homes::new(replicas, *assignment, *max_idle, *eviction_interval)))
                }
                _ => Fallback::Rate(SentLately::new(replicas)),
            },
        }
    }

    /// Whether the replicas tell it of their blocks.
    pub fn hears_kv_events(&self) -> bool {
        matches!(self.caches, Caches::Told(_))
    }

    /// The replicas tell it of their tiers, whose chunks have so many blocks; false if it does not ask.
    pub fn hear_tiers_of(&mut self, chunk_blocks: Vec<Option<u32>>) -> bool {
        if let RouterConfig::KvAware { source: KvSource::Events(delay), .. } = self.config
            && chunk_blocks.iter().any(Option::is_some)
        {
            self.tiers = Some(TierIndex::new(chunk_blocks, delay));
        }
        self.tiers.is_some()
    }

    /// A replica tells of a chunk in one of its tiers at `now`.
    pub fn hear_tier(&mut self, now: SimTime, replica: usize, event: TierEvent) {
        if let Some(tiers) = &mut self.tiers {
            tiers.hear(now, replica, event);
        }
    }

    /// Whether it matters at which instant between two requests a replica does what it does.
    pub fn needs_each_step(&self) -> bool {
        let lets_wait = matches!(
            &self.config,
            RouterConfig::Scored { saturation: Some(limits), .. } if limits.others == WhenSaturated::Queue
        );
        lets_wait || matches!(&self.caches, Caches::Told(index) if index.is_late())
    }

    /// When it reads the replicas next.
    pub fn next_reading(&self) -> SimTime {
        self.signals.as_ref().map_or(SimTime::NEVER, Signals::due)
    }

    /// Reads the replicas, which is due at `now` or before, without anything having happened in between.
    pub fn read(&mut self, now: SimTime, load: &dyn Fn(usize) -> ReplicaLoad) {
        if let Some(signals) = &mut self.signals {
            signals.read(now, load);
        }
    }

    /// A replica tells of a block at `now`.
    pub fn hear(&mut self, now: SimTime, replica: usize, event: KvEvent) {
        if let Caches::Told(index) = &mut self.caches {
            index.hear(now, replica, event);
        }
    }

    /// Whether requests may wait here or be turned away.
    pub fn may_refuse(&self) -> bool {
        self.config.may_refuse()
    }

    /// What becomes of a request of this priority, above 0 of which it is sheddable, `now`.
    pub fn verdict(
        &mut self,
        now: SimTime,
        priority: i32,
        table: &RequestTable,
        load: &dyn Fn(usize) -> ReplicaLoad,
    ) -> Verdict {
        match (&self.config, &mut self.signals) {
            (RouterConfig::Scored { saturation: Some(limits), .. }, Some(signals)) => {
                signals.advance(now, load);
                match (limits.others, saturation(signals.latest(), limits) >= 1.0) {
                    (_, true) if priority > 0 => Verdict::Shed,
                    (WhenSaturated::Queue, true) => Verdict::Wait,
                    _ => Verdict::Send,
                }
            }
            (RouterConfig::KvAware { busy, .. }, _) if *busy != BusyConfig::default() => {
                let limits = *busy;
                self.find_busy(&limits, table, load);
                if self.busy.iter().all(|busy| *busy) { Verdict::Shed } else { Verdict::Send }
            }
            _ => Verdict::Send,
        }
    }

    /// When what is known of the replicas changes next, but for what they answer.
    pub fn next_news(&self) -> SimTime {
        self.signals.as_ref().map_or(SimTime::NEVER, Signals::next_news)
    }

    /// Marks the replicas that have as much as they should.
    fn find_busy(&mut self, limits: &BusyConfig, table: &RequestTable, load: &dyn Fn(usize) -> ReplicaLoad) {
        self.outstanding.settle_prefills(table);
        for (replica, busy) in self.busy.iter_mut().enumerate() {
            let blocks = self.outstanding.blocks(replica) as f64;
            let usable = f64::from(load(replica).usable_blocks);
            *busy = limits.decode_blocks_share.is_some_and(|share| blocks > share * usable)
                || limits.prefill_tokens.is_some_and(|most| self.outstanding.prefill_tokens(replica) > most);
        }
    }

    /// The replica of request number `number`, which comes to the router `now`.
    pub fn route(
        &mut self,
        now: SimTime,
        number: u64,
        arrival: &Arrival,
        table: &RequestTable,
        load: &dyn Fn(usize) -> ReplicaLoad,
    ) -> usize {
        if let Some(signals) = &mut self.signals {
            signals.advance(now, load);
        }
        self.match_prefix(now, number, arrival);
        let replica = self.choose(now, number, arrival, table);
        self.remember_sent(replica, now);
        if let Some(signals) = &mut self.signals {
            signals.send(replica);
        }
        let found_tokens = self.matched[replica].saturating_mul(self.chunk_tokens);
        self.routed = Sent {
            prompt_tokens: arrival.prompt_tokens,
            prefill_tokens: arrival.prompt_tokens.saturating_sub(found_tokens),
            blocks: arrival.prompt_tokens.div_ceil(self.block_size),
            replica: replica as u32,
            serial: 0,
        };
        replica
    }

    /// The request that was routed last was accepted.
    pub fn sent(&mut self, id: RequestId) {
        self.outstanding.send(id, self.routed);
        if let Fallback::Home(homes) = &mut self.fallback {
            homes.sent(id);
        }
    }

    /// A request was answered.
    pub fn finished(&mut self, id: RequestId) {
        self.outstanding.finish(id);
        if let Fallback::Home(homes) = &mut self.fallback {
            homes.finished(id);
        }
    }

    /// Finds out how much of the prompt each replica is believed to have.
    fn match_prefix(&mut self, now: SimTime, number: u64, arrival: &Arrival) {
        if matches!(self.caches, Caches::Unknown) {
            return;
        }
        self.identity.reset(&arrival.runs, arrival.prompt_tokens, number, None);
        let most_tokens = self.most_chunks.saturating_mul(self.chunk_tokens as usize);
        let tokens = most_tokens.min(arrival.prompt_tokens as usize) as u32;
        self.identity.extend(tokens, self.chunk_tokens);
        let chain = self.identity.hashes();
        match &mut self.caches {
            Caches::Unknown => {}
            Caches::Sent(index, limit) => {
                forget(index, limit, now);
                index.matched(chain, &mut self.matched);
            }
            Caches::Told(index) => {
                index.advance(now);
                index.matched(chain, &mut self.matched);
                if let Some(tiers) = &mut self.tiers {
                    tiers.advance(now);
                }
            }
        }
    }

    fn remember_sent(&mut self, replica: usize, now: SimTime) {
        let Caches::Sent(index, limit) = &mut self.caches else { return };
        index.enter(replica, self.identity.hashes(), now);
        if let Limit::Chunks(most) = limit {
            index.trim(replica, *most);
        }
    }

    fn choose(&mut self, now: SimTime, number: u64, arrival: &Arrival, table: &RequestTable) -> usize {
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
            // The blind ones are not made here.
            _ => match &mut self.fallback {
                Fallback::Home(homes) => {
                    homes.route(now, arrival.session, &self.outstanding, &mut self.random)
                }
                _ => self.outstanding.fewest_requests(),
            },
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

/// Forgets what the limit says at `now`.
fn forget(index: &mut SentIndex, limit: &mut Limit, now: SimTime) {
    match limit {
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
