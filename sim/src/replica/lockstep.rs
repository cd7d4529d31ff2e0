//! The data-parallel ranks of a model with experts: schedulers with requests and KV caches of their own that step
//! together, because the experts are spread over all of them (V-46, V-47).

use super::balancer::Balancer;
use super::engine::Engine;
use super::{StepRecord, StepTotals};
use crate::block_pool::BlockPool;
use crate::cost::CostModel;
use crate::durations::DurationCounts;
use crate::request::{RequestId, RequestTable};
use crate::router::ReplicaLoad;
use crate::scheduler::{NewRequest, SchedulerConfig};
use crate::step::{ScheduledBatch, StepShape};
use crate::units::{SimDuration, SimTime};
use std::sync::Arc;

/// Steps between two times that the ranks ask each other whether anybody has work left (V-46).
const SYNC_INTERVAL: u64 = 16;

/// One rank.
struct Rank {
    engine: Engine,
    batch: ScheduledBatch,
    shape: StepShape,
}

/// The ranks of one replica.
pub(crate) struct LockstepReplica {
    ranks: Vec<Rank>,
    cost: Arc<dyn CostModel>,
    /// Whether the engine's time on the CPU passes while the GPU works (V-42b); that results come a step later then is
    /// left out.
    hides_host: bool,
    balancer: Balancer,
    /// End of the step in flight, or never.
    step_end: SimTime,
    /// Whether the ranks step: from a first request until they have agreed that none is left.
    is_awake: bool,
    /// Steps since they woke.
    steps_awake: u64,
    finished: Vec<RequestId>,
}

impl LockstepReplica {
    /// Idle ranks; `first` is the number of the first among all engines.
    pub fn new(first: u32, ranks: u32, config: SchedulerConfig, cost: Arc<dyn CostModel>) -> Self {
        let hides_host = config.async_scheduling;
        let config = SchedulerConfig { async_scheduling: false, ..config };
        let rank = |number| Rank {
            engine: Engine::new(first + number, &config, 1),
            batch: ScheduledBatch::default(),
            shape: StepShape::default(),
        };
        LockstepReplica {
            ranks: (0..ranks.max(1)).map(rank).collect(),
            cost,
            hides_host,
            balancer: Balancer::new(ranks),
            step_end: SimTime::NEVER,
            is_awake: false,
            steps_awake: 0,
            finished: Vec::new(),
        }
    }

    /// When the step of all ranks ends; never while they sleep.
    pub fn step_end(&self) -> SimTime {
        self.step_end
    }

    /// Queues an accepted request at the rank that the front end chooses; gives the rank's number among all engines.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) -> u32 {
        let chosen = self.balancer.choose(request.arrival);
        let engine = &mut self.ranks[chosen].engine;
        engine.scheduler.enqueue(request);
        engine.index
    }

    /// Ends the step of all ranks: their tokens become visible now. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        self.step_end = SimTime::NEVER;
        self.finished.clear();
        for (number, rank) in self.ranks.iter_mut().enumerate() {
            let finished = rank.engine.complete(&rank.batch, now, table);
            self.finished.extend_from_slice(finished);
            self.balancer.finish(number, finished.len());
            self.balancer.publish(now, number, rank.load());
        }
        self.steps_awake += 1;
        if self.steps_awake == 1 || self.steps_awake.is_multiple_of(SYNC_INTERVAL) {
            self.is_awake = self.ranks.iter().any(|rank| !rank.engine.scheduler.is_idle());
        }
        self.finished.len()
    }

    /// What all ranks together say of themselves.
    pub fn load(&self) -> ReplicaLoad {
        self.ranks.iter().map(Rank::load).sum()
    }

    /// The KV blocks of each rank.
    pub fn pools(&mut self) -> impl Iterator<Item = &mut BlockPool> {
        self.ranks.iter_mut().filter_map(|rank| rank.engine.scheduler.pool_mut())
    }

    /// The requests that finished with the step that ended last.
    pub fn finished(&self) -> &[RequestId] {
        &self.finished
    }

    /// Starts the next step of all ranks if they are awake or have work, and none is in flight: form the batches, ask
    /// their cost. Shows the steps of the ranks that have something to do.
    pub fn start_step(
        &mut self,
        now: SimTime,
        table: &mut RequestTable,
        watch: &mut dyn FnMut(&StepRecord<'_>),
    ) {
        if self.step_end != SimTime::NEVER {
            return;
        }
        if !self.is_awake {
            if self.ranks.iter().all(|rank| rank.engine.scheduler.is_idle()) {
                return;
            }
            self.is_awake = true;
            self.steps_awake = 0;
        }
        for rank in &mut self.ranks {
            rank.form_batch(now, table);
        }
        let (duration, slowest) = self.agree(self.cost.epoch(now).0);
        self.step_end = now + duration;
        for (number, rank) in self.ranks.iter_mut().enumerate() {
            if rank.batch.requests.is_empty() {
                rank.engine.totals.dummy_steps += 1;
                continue;
            }
            watch(&rank.engine.record_step(&rank.batch, rank.shape, now, duration, number == slowest));
        }
    }

    /// Tells every rank what all compute together (V-47). The step takes as long as the slowest rank's, after the CPU
    /// that takes longest; gives that and which rank with work is slowest.
    fn agree(&mut self, epoch: u32) -> (SimDuration, usize) {
        let tokens = |rank: &Rank| rank.shape.new_tokens();
        let group_tokens = self.ranks.iter().map(tokens).sum();
        let group_largest_tokens = self.ranks.iter().map(tokens).max().unwrap_or(0);
        let (mut gpu, mut host) = (SimDuration::ZERO, SimDuration::ZERO);
        let (mut slowest, mut slowest_gpu) = (0, SimDuration::ZERO);
        for (number, rank) in self.ranks.iter_mut().enumerate() {
            rank.shape = StepShape { group_tokens, group_largest_tokens, epoch, ..rank.shape };
            let own = self.cost.step(&rank.shape);
            gpu = gpu.max(own);
            host = host.max(self.cost.host(&rank.shape));
            if !rank.batch.requests.is_empty() && own > slowest_gpu {
                (slowest, slowest_gpu) = (number, own);
            }
        }
        let step = if self.hides_host { gpu.max(host) } else { gpu + host };
        (step, slowest)
    }

    /// Sums over the steps of each rank so far.
    pub fn totals(&self) -> Vec<StepTotals> {
        self.ranks.iter().map(|rank| rank.engine.totals()).collect()
    }

    /// KV blocks that the requests of all ranks hold.
    pub fn held_blocks(&self) -> u64 {
        self.ranks.iter().map(|rank| u64::from(rank.engine.scheduler.used_blocks())).sum()
    }

    /// The gaps between tokens that the ranks produced.
    pub fn into_gaps(self) -> DurationCounts {
        let mut gaps = DurationCounts::default();
        for rank in self.ranks {
            gaps.merge(rank.engine.delivery.gaps);
        }
        gaps
    }
}

impl Rank {
    /// Forms the next batch, or a dummy of one token when there is nothing to compute.
    fn form_batch(&mut self, now: SimTime, table: &mut RequestTable) {
        self.batch.clear();
        self.engine.form_batch(&mut self.batch, now, table);
        self.shape = if self.batch.requests.is_empty() { StepShape::DUMMY } else { self.batch.shape() };
    }

    fn load(&self) -> ReplicaLoad {
        ReplicaLoad::of(&self.engine.scheduler)
    }
}
