//! Policies that look at what they sent, at what was answered, and at what the replicas tell them: what they know of each
//! replica is gathered here, and [`choose`] has how each of them chooses by it.

mod caches;
mod choose;

use super::outstanding::{Outstanding, Sent};
use super::score::{ScoreInput, saturation};
use super::signals::Signals;
use super::tier_index::TierIndex;
use super::{BusyConfig, KvSource, ReplicaLoad, RouterConfig, WhenSaturated};
use crate::block_pool::KvEvent;
use crate::identity::TokenIdentity;
use crate::offload::TierEvent;
use crate::request::{RequestId, RequestTable};
use crate::units::SimTime;
use crate::workload::Arrival;
use caches::{Caches, Limit};
use choose::Fallback;
use rand_pcg::Pcg64;

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
        let (caches, chunk_tokens, most_chunks) = Caches::of(config, replicas, block_size);
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
            fallback: Fallback::of(config, replicas),
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
                limit.forget(index, now);
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
}
