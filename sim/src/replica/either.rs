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
pub(crate) enum EitherReplica {
    Aggregated(Box<AggregatedReplica>),
    Ahead(Box<AheadReplica>),
    Plain(Box<Replica>),
    Pipelined(Box<PipelinedReplica>),
    Lockstep(Box<LockstepReplica>),
    Copies(Copies),
}

impl EitherReplica {
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
            return EitherReplica::Lockstep(Box::new(replica));
        }
        let engine = |index| EitherReplica::new(index, config, path, is_shared, Arc::clone(cost));
        EitherReplica::Copies(Copies::new((first..first + ranks).map(engine).collect()))
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
                EitherReplica::Ahead(Box::new(AheadReplica::new(index, config, is_shared, cost)))
            }
            StepPath::Aggregated => {
                EitherReplica::Aggregated(Box::new(AggregatedReplica::new(index, config, is_shared, cost)))
            }
            StepPath::Plain | StepPath::Lockstep => {
                EitherReplica::Plain(Box::new(Replica::new(index, config, cost)))
            }
            StepPath::Pipelined => {
                EitherReplica::Pipelined(Box::new(PipelinedReplica::new(index, config, cost)))
            }
        }
    }

    /// Says how drafts are accepted; without it none holds. The aggregated paths have none, nor have common steps.
    pub fn speculate(&mut self, draws: AcceptanceDraws) {
        match self {
            EitherReplica::Aggregated(_) | EitherReplica::Ahead(_) | EitherReplica::Lockstep(_) => {}
            EitherReplica::Copies(copies) => copies.speculate(&draws),
            EitherReplica::Plain(replica) => replica.speculate(draws),
            EitherReplica::Pipelined(replica) => replica.delivery.draws = Some(draws),
        }
    }

    /// When something happens in it next; never while it has nothing to do.
    pub fn next_at(&self, now: SimTime) -> SimTime {
        match self {
            EitherReplica::Aggregated(replica) => replica.step_end(),
            EitherReplica::Ahead(replica) => replica.next_at(now),
            EitherReplica::Plain(replica) => replica.next_at(),
            EitherReplica::Pipelined(replica) => replica.next_at(now),
            EitherReplica::Lockstep(replica) => replica.step_end(),
            EitherReplica::Copies(copies) => copies.next_at(now),
        }
    }

    /// Queues an accepted request; gives the number of its engine among all.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) -> u32 {
        match self {
            EitherReplica::Aggregated(replica) => {
                replica.enqueue(request);
                replica.index()
            }
            EitherReplica::Ahead(replica) => {
                replica.enqueue(request);
                replica.index()
            }
            EitherReplica::Plain(replica) => {
                replica.scheduler.enqueue(request);
                replica.index
            }
            EitherReplica::Pipelined(replica) => {
                replica.wake();
                replica.scheduler.enqueue(request);
                replica.index()
            }
            EitherReplica::Lockstep(replica) => replica.enqueue(request),
            EitherReplica::Copies(copies) => copies.enqueue(request),
        }
    }

    /// What it says of itself to a router or a front end.
    pub fn load(&self) -> ReplicaLoad {
        match self {
            EitherReplica::Aggregated(replica) => ReplicaLoad::of_aggregated(&replica.scheduler),
            EitherReplica::Ahead(replica) => ReplicaLoad::of_aggregated(&replica.scheduler),
            EitherReplica::Plain(replica) => ReplicaLoad::of(&replica.scheduler),
            EitherReplica::Pipelined(replica) => ReplicaLoad::of(&replica.scheduler),
            EitherReplica::Lockstep(replica) => replica.load(),
            EitherReplica::Copies(copies) => copies.load(),
        }
    }

    /// Ends the step that ends now, if one does: its tokens become visible. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        match self {
            EitherReplica::Aggregated(replica) if replica.step_end() == now => replica.end_step(now, table),
            EitherReplica::Ahead(replica) => replica.end_step(now, table),
            EitherReplica::Plain(replica) if replica.step_end() == now => replica.end_step(now, table).len(),
            EitherReplica::Pipelined(replica) => replica.end_step(now, table),
            EitherReplica::Lockstep(replica) if replica.step_end() == now => replica.end_step(now, table),
            EitherReplica::Copies(copies) => copies.end_step(now, table),
            EitherReplica::Aggregated(_) | EitherReplica::Plain(_) | EitherReplica::Lockstep(_) => 0,
        }
    }

    /// Appends the requests that finished with the step that ended last.
    pub fn append_finished(&self, finished: &mut Vec<RequestId>) {
        match self {
            EitherReplica::Aggregated(replica) => finished.extend(replica.finished().iter().map(|d| d.id)),
            EitherReplica::Ahead(replica) => finished.extend(replica.finished().iter().map(|d| d.id)),
            EitherReplica::Plain(replica) => finished.extend_from_slice(replica.finished()),
            EitherReplica::Pipelined(replica) => finished.extend_from_slice(replica.finished()),
            EitherReplica::Lockstep(replica) => finished.extend_from_slice(replica.finished()),
            EitherReplica::Copies(copies) => finished.extend_from_slice(copies.finished()),
        }
    }

    /// Shows the pools that tell of their content; none where requests share nothing.
    pub fn each_shared_pool(&mut self, show: &mut dyn FnMut(&mut BlockPool)) {
        match self {
            EitherReplica::Aggregated(replica) => replica.scheduler.shared_pool().into_iter().for_each(show),
            EitherReplica::Ahead(replica) => replica.scheduler.shared_pool().into_iter().for_each(show),
            EitherReplica::Plain(replica) => replica.scheduler.pool_mut().into_iter().for_each(show),
            EitherReplica::Pipelined(replica) => replica.scheduler.pool_mut().into_iter().for_each(show),
            EitherReplica::Lockstep(replica) => replica.pools().for_each(show),
            EitherReplica::Copies(copies) => copies.each_shared_pool(show),
        }
    }

    /// The tiers beside its GPU, to listen to their events, where its blocks have the same names as theirs.
    pub fn tiers(&mut self) -> Option<&mut Tiers> {
        let scheduler = match self {
            EitherReplica::Plain(replica) => &mut replica.scheduler,
            EitherReplica::Pipelined(replica) => &mut replica.scheduler,
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
            EitherReplica::Aggregated(replica) => {
                if let Some(step) = replica.start_step(now, table) {
                    watch(&step);
                }
            }
            EitherReplica::Ahead(replica) => {
                while let Some(step) = replica.start_step(now, table) {
                    watch(&step);
                }
            }
            EitherReplica::Plain(replica) => {
                if let Some(step) = replica.start_step(now, table) {
                    watch(&step);
                }
            }
            EitherReplica::Pipelined(replica) => {
                while let Some(step) = replica.start_step(now, table) {
                    watch(&step);
                }
            }
            EitherReplica::Lockstep(replica) => replica.start_step(now, table, watch),
            EitherReplica::Copies(copies) => copies.start_step(now, table, watch),
        }
    }

    /// Starts the next step if there is work and none is in flight, and may end it and start further ones, as long as
    /// only tokens of decoding requests come of it and each ends before `horizon`, when the next request arrives.
    pub fn start_steps(&mut self, now: SimTime, horizon: SimTime, table: &mut RequestTable) {
        match self {
            EitherReplica::Aggregated(replica) => replica.start_steps(now, horizon, table),
            EitherReplica::Ahead(replica) => replica.start_steps(now, horizon, table),
            _ => self.start_step(now, table, &mut |_| {}),
        }
    }

    /// Sums over the steps so far of each of its engines.
    pub fn totals(&self) -> Vec<StepTotals> {
        match self {
            EitherReplica::Aggregated(replica) => vec![replica.totals().clone()],
            EitherReplica::Ahead(replica) => vec![replica.totals().clone()],
            EitherReplica::Plain(replica) => vec![replica.totals()],
            EitherReplica::Pipelined(replica) => vec![replica.totals()],
            EitherReplica::Lockstep(replica) => replica.totals().cloned().collect(),
            EitherReplica::Copies(copies) => copies.totals(),
        }
    }

    /// KV blocks that its requests hold.
    pub fn held_blocks(&self) -> u64 {
        match self {
            EitherReplica::Aggregated(replica) => {
                u64::from(replica.scheduler.usable_blocks() - replica.scheduler.free_blocks())
            }
            EitherReplica::Ahead(replica) => {
                u64::from(replica.scheduler.usable_blocks() - replica.scheduler.free_blocks())
            }
            EitherReplica::Plain(replica) => u64::from(replica.scheduler().used_blocks()),
            EitherReplica::Pipelined(replica) => u64::from(replica.scheduler.used_blocks()),
            EitherReplica::Lockstep(replica) => replica.held_blocks(),
            EitherReplica::Copies(copies) => copies.held_blocks(),
        }
    }

    /// The gaps between tokens that it produced.
    pub fn into_gaps(self) -> DurationCounts {
        match self {
            EitherReplica::Aggregated(replica) => replica.into_gaps(),
            EitherReplica::Ahead(replica) => replica.into_gaps(),
            EitherReplica::Plain(replica) => replica.into_gaps(),
            EitherReplica::Pipelined(replica) => replica.into_gaps(),
            EitherReplica::Lockstep(replica) => replica.into_gaps(),
            EitherReplica::Copies(copies) => copies.into_gaps(),
        }
    }
}
