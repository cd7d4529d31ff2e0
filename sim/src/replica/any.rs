//! A replica of any kind: one that steps one request at a time, all decoding requests as one, or several steps at once;
//! or several engines behind one front end.

use super::aggregated::AggregatedReplica;
use super::ahead::AheadReplica;
use super::copies::Copies;
use super::lockstep::LockstepReplica;
use super::pipelined::PipelinedReplica;
use super::{Replica, StepRecord, StepTotals};
use crate::block_pool::BlockPool;
use crate::cost::CostModel;
use crate::durations::DurationCounts;
use crate::offload::Tiers;
use crate::request::{RequestId, RequestTable};
use crate::router::ReplicaLoad;
use crate::scheduler::aggregated::AggregatedScheduler;
use crate::scheduler::{NewRequest, SchedulerConfig};
use crate::speculation::AcceptanceDraws;
use crate::units::SimTime;
use serde::Serialize;
use std::sync::Arc;

/// How the steps of a run are computed. The results are equal; the time that it takes is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepPath {
    /// All decoding requests of a replica as one.
    Aggregated,
    /// Each request by itself: the reference, and the path of every setting that the other does not accept.
    Plain,
    /// Each request by itself, with several steps in flight: asynchronous scheduling or pipeline stages.
    Pipelined,
    /// Each request by itself, the data-parallel ranks of a model with experts in common steps.
    Lockstep,
}

/// Engines inside each replica, each with requests and a KV cache of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataParallel {
    /// How many.
    pub ranks: u32,
    /// Whether they step together, as experts make them (V-46), or are engines of their own (V-45).
    pub is_lockstep: bool,
}

impl StepPath {
    /// The fastest path for engines with these settings.
    pub fn best(config: &SchedulerConfig) -> StepPath {
        match config.async_scheduling {
            _ if AggregatedScheduler::accepts(config) => StepPath::Aggregated,
            true => StepPath::Pipelined,
            false => StepPath::Plain,
        }
    }
}

/// One replica on either path.
pub(crate) enum AnyReplica {
    Aggregated(Box<AggregatedReplica>),
    Ahead(Box<AheadReplica>),
    Plain(Box<Replica>),
    Pipelined(Box<PipelinedReplica>),
    Lockstep(Box<LockstepReplica>),
    Copies(Copies),
}

impl AnyReplica {
    /// The idle engines of one replica; `first` is the number of the first of them among all engines.
    pub fn data_parallel(
        first: u32,
        engines: DataParallel,
        config: SchedulerConfig,
        path: StepPath,
        is_shared: bool,
        cost: &Arc<dyn CostModel>,
    ) -> Self {
        let ranks = engines.ranks.max(1);
        if engines.is_lockstep {
            let replica = LockstepReplica::new(first, ranks, config, Arc::clone(cost));
            return AnyReplica::Lockstep(Box::new(replica));
        }
        let engine = |index| AnyReplica::new(index, config, path, is_shared, Arc::clone(cost));
        AnyReplica::Copies(Copies::new((first..first + ranks).map(engine).collect()))
    }

    /// An idle replica; `is_shared` as in [`AggregatedScheduler::new`].
    pub fn new(
        index: u32,
        config: SchedulerConfig,
        path: StepPath,
        is_shared: bool,
        cost: Arc<dyn CostModel>,
    ) -> Self {
        match path {
            StepPath::Aggregated if config.async_scheduling => {
                AnyReplica::Ahead(Box::new(AheadReplica::new(index, config, is_shared, cost)))
            }
            StepPath::Aggregated => {
                AnyReplica::Aggregated(Box::new(AggregatedReplica::new(index, config, is_shared, cost)))
            }
            StepPath::Plain | StepPath::Lockstep => {
                AnyReplica::Plain(Box::new(Replica::new(index, config, cost)))
            }
            StepPath::Pipelined => {
                AnyReplica::Pipelined(Box::new(PipelinedReplica::new(index, config, cost)))
            }
        }
    }

    /// Says how drafts are accepted; without it none holds. The aggregated paths have none, nor have common steps.
    pub fn speculate(&mut self, draws: AcceptanceDraws) {
        match self {
            AnyReplica::Aggregated(_) | AnyReplica::Ahead(_) | AnyReplica::Lockstep(_) => {}
            AnyReplica::Copies(copies) => copies.speculate(&draws),
            AnyReplica::Plain(replica) => replica.engine.delivery.draws = Some(draws),
            AnyReplica::Pipelined(replica) => replica.engine.delivery.draws = Some(draws),
        }
    }

    /// When something happens in it next; never while it has nothing to do.
    pub fn next_at(&self, now: SimTime) -> SimTime {
        match self {
            AnyReplica::Aggregated(replica) => replica.step_end(),
            AnyReplica::Ahead(replica) => replica.next_at(now),
            AnyReplica::Plain(replica) => replica.next_at(),
            AnyReplica::Pipelined(replica) => replica.next_at(now),
            AnyReplica::Lockstep(replica) => replica.step_end(),
            AnyReplica::Copies(copies) => copies.next_at(now),
        }
    }

    /// Queues an accepted request; gives the number of its engine among all.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) -> u32 {
        match self {
            AnyReplica::Aggregated(replica) => {
                replica.engine.scheduler.enqueue(request);
                replica.engine.index
            }
            AnyReplica::Ahead(replica) => {
                replica.enqueue(request);
                replica.engine.index
            }
            AnyReplica::Plain(replica) => {
                replica.engine.scheduler.enqueue(request);
                replica.engine.index
            }
            AnyReplica::Pipelined(replica) => {
                replica.enqueue(request);
                replica.engine.index
            }
            AnyReplica::Lockstep(replica) => replica.enqueue(request),
            AnyReplica::Copies(copies) => copies.enqueue(request),
        }
    }

    /// What it says of itself to a router or a front end.
    pub fn load(&self) -> ReplicaLoad {
        match self {
            AnyReplica::Aggregated(replica) => ReplicaLoad::of_aggregated(&replica.engine.scheduler),
            AnyReplica::Ahead(replica) => ReplicaLoad::of_aggregated(&replica.engine.scheduler),
            AnyReplica::Plain(replica) => ReplicaLoad::of(&replica.engine.scheduler),
            AnyReplica::Pipelined(replica) => ReplicaLoad::of(&replica.engine.scheduler),
            AnyReplica::Lockstep(replica) => replica.load(),
            AnyReplica::Copies(copies) => copies.load(),
        }
    }

    /// Ends the step that ends now, if one does: its tokens become visible. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        match self {
            AnyReplica::Aggregated(replica) if replica.step_end() == now => replica.end_step(now, table),
            AnyReplica::Ahead(replica) => replica.end_step(now, table),
            AnyReplica::Plain(replica) if replica.step_end() == now => replica.end_step(now, table).len(),
            AnyReplica::Pipelined(replica) => replica.end_step(now, table),
            AnyReplica::Lockstep(replica) if replica.step_end() == now => replica.end_step(now, table),
            AnyReplica::Copies(copies) => copies.end_step(now, table),
            AnyReplica::Aggregated(_) | AnyReplica::Plain(_) | AnyReplica::Lockstep(_) => 0,
        }
    }

    /// Appends the requests that finished with the step that ended last.
    pub fn append_finished(&self, finished: &mut Vec<RequestId>) {
        match self {
            AnyReplica::Aggregated(replica) => finished.extend(replica.finished().iter().map(|d| d.id)),
            AnyReplica::Ahead(replica) => finished.extend(replica.finished().iter().map(|d| d.id)),
            AnyReplica::Plain(replica) => finished.extend_from_slice(&replica.engine.finished),
            AnyReplica::Pipelined(replica) => finished.extend_from_slice(&replica.engine.finished),
            AnyReplica::Lockstep(replica) => finished.extend_from_slice(replica.finished()),
            AnyReplica::Copies(copies) => finished.extend_from_slice(copies.finished()),
        }
    }

    /// Shows the pools that tell of their content; none where requests share nothing.
    pub fn each_shared_pool(&mut self, show: &mut dyn FnMut(&mut BlockPool)) {
        match self {
            AnyReplica::Aggregated(replica) => {
                replica.engine.scheduler.shared_pool().into_iter().for_each(show);
            }
            AnyReplica::Ahead(replica) => replica.engine.scheduler.shared_pool().into_iter().for_each(show),
            AnyReplica::Plain(replica) => replica.engine.scheduler.pool_mut().into_iter().for_each(show),
            AnyReplica::Pipelined(replica) => replica.engine.scheduler.pool_mut().into_iter().for_each(show),
            AnyReplica::Lockstep(replica) => replica.pools().for_each(show),
            AnyReplica::Copies(copies) => copies.each_shared_pool(show),
        }
    }

    /// The tiers beside its GPU, to listen to their events, where its blocks have the same names as theirs.
    pub fn tiers(&mut self) -> Option<&mut Tiers> {
        let scheduler = match self {
            AnyReplica::Plain(replica) => &mut replica.engine.scheduler,
            AnyReplica::Pipelined(replica) => &mut replica.engine.scheduler,
            _ => return None,
        };
        scheduler.pool_mut()?;
        scheduler.tiers_mut()
    }

    /// Starts the steps for which there is work and room; `watch` sees each.
    pub fn start_step(
        &mut self,
        now: SimTime,
        table: &mut RequestTable,
        watch: &mut dyn FnMut(&StepRecord<'_>),
    ) {
        match self {
            AnyReplica::Aggregated(replica) => {
                if let Some(step) = replica.start_step(now, table) {
                    watch(&step);
                }
            }
            AnyReplica::Ahead(replica) => {
                while let Some(step) = replica.start_step(now, table) {
                    watch(&step);
                }
            }
            AnyReplica::Plain(replica) => {
                if let Some(step) = replica.start_step(now, table) {
                    watch(&step);
                }
            }
            AnyReplica::Pipelined(replica) => {
                while let Some(step) = replica.start_step(now, table) {
                    watch(&step);
                }
            }
            AnyReplica::Lockstep(replica) => replica.start_step(now, table, watch),
            AnyReplica::Copies(copies) => copies.start_step(now, table, watch),
        }
    }

    /// Starts the next step if there is work and none is in flight, and may end it and start further ones, as long as
    /// only tokens of decoding requests come of it and each ends before `horizon`, when the next request arrives.
    pub fn start_steps(&mut self, now: SimTime, horizon: SimTime, table: &mut RequestTable) {
        match self {
            AnyReplica::Aggregated(replica) => replica.start_steps(now, horizon, table),
            AnyReplica::Ahead(replica) => replica.start_steps(now, horizon, table),
            _ => self.start_step(now, table, &mut |_| {}),
        }
    }

    /// Sums over the steps so far of each of its engines.
    pub fn totals(&self) -> Vec<StepTotals> {
        match self {
            AnyReplica::Aggregated(replica) => vec![replica.engine.totals.clone()],
            AnyReplica::Ahead(replica) => vec![replica.engine.totals.clone()],
            AnyReplica::Plain(replica) => vec![replica.engine.totals()],
            AnyReplica::Pipelined(replica) => vec![replica.engine.totals()],
            AnyReplica::Lockstep(replica) => replica.totals(),
            AnyReplica::Copies(copies) => copies.totals(),
        }
    }

    /// KV blocks that its requests hold.
    pub fn held_blocks(&self) -> u64 {
        match self {
            AnyReplica::Aggregated(replica) => u64::from(replica.engine.held_blocks()),
            AnyReplica::Ahead(replica) => u64::from(replica.engine.held_blocks()),
            AnyReplica::Plain(replica) => u64::from(replica.engine.scheduler.used_blocks()),
            AnyReplica::Pipelined(replica) => u64::from(replica.engine.scheduler.used_blocks()),
            AnyReplica::Lockstep(replica) => replica.held_blocks(),
            AnyReplica::Copies(copies) => copies.held_blocks(),
        }
    }

    /// The gaps between tokens that it produced.
    pub fn into_gaps(self) -> DurationCounts {
        match self {
            AnyReplica::Aggregated(replica) => replica.engine.gaps,
            AnyReplica::Ahead(replica) => replica.engine.gaps,
            AnyReplica::Plain(replica) => replica.engine.delivery.gaps,
            AnyReplica::Pipelined(replica) => replica.engine.delivery.gaps,
            AnyReplica::Lockstep(replica) => replica.into_gaps(),
            AnyReplica::Copies(copies) => copies.into_gaps(),
        }
    }
}
