//! A replica of any kind: one that steps one request at a time, all decoding requests as one, or several steps at once.

use super::aggregated::AggregatedReplica;
use super::pipelined::PipelinedReplica;
use super::{Replica, StepRecord, StepTotals};
use crate::block_pool::BlockPool;
use crate::cost::CostModel;
use crate::durations::DurationCounts;
use crate::request::{RequestId, RequestTable};
use crate::router::ReplicaLoad;
use crate::scheduler::aggregated::AggregatedScheduler;
use crate::scheduler::{NewRequest, Scheduler, SchedulerConfig};
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
}

impl StepPath {
    /// The fastest path for engines with these settings.
    pub fn best(config: &SchedulerConfig) -> StepPath {
        if AggregatedScheduler::accepts(config) { StepPath::Aggregated } else { StepPath::Plain }
    }
}

/// One replica on either path.
pub(crate) enum EitherReplica {
    Aggregated(Box<AggregatedReplica>),
    Plain(Box<Replica>),
    Pipelined(Box<PipelinedReplica>),
}

impl EitherReplica {
    /// An idle replica; `is_shared` as in [`AggregatedScheduler::new`].
    pub fn new(
        index: u32,
        config: SchedulerConfig,
        path: StepPath,
        is_shared: bool,
        cost: Arc<dyn CostModel>,
    ) -> Self {
        match path {
            StepPath::Aggregated => {
                EitherReplica::Aggregated(Box::new(AggregatedReplica::new(index, config, is_shared, cost)))
            }
            StepPath::Plain => EitherReplica::Plain(Box::new(Replica::new(index, config, cost))),
            StepPath::Pipelined => {
                EitherReplica::Pipelined(Box::new(PipelinedReplica::new(index, config, cost)))
            }
        }
    }

    /// When something happens in it next; never while it has nothing to do.
    pub fn next_at(&self, now: SimTime) -> SimTime {
        match self {
            EitherReplica::Aggregated(replica) => replica.step_end(),
            EitherReplica::Plain(replica) => replica.step_end(),
            EitherReplica::Pipelined(replica) => replica.next_at(now),
        }
    }

    /// Queues an accepted request.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) {
        match self {
            EitherReplica::Aggregated(replica) => replica.enqueue(request),
            EitherReplica::Plain(replica) => replica.scheduler.enqueue(request),
            EitherReplica::Pipelined(replica) => {
                replica.wake();
                replica.scheduler.enqueue(request);
            }
        }
    }

    /// Ends the step that ends now, if one does: its tokens become visible. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        match self {
            EitherReplica::Aggregated(replica) if replica.step_end() == now => replica.end_step(now, table),
            EitherReplica::Plain(replica) if replica.step_end() == now => replica.end_step(now, table).len(),
            EitherReplica::Pipelined(replica) => replica.end_step(now, table),
            EitherReplica::Aggregated(_) | EitherReplica::Plain(_) => 0,
        }
    }

    /// Appends the requests that finished with the step that ended last.
    pub fn append_finished(&self, finished: &mut Vec<RequestId>) {
        match self {
            EitherReplica::Aggregated(replica) => {
                finished.extend(replica.finished().iter().map(|departure| departure.id));
            }
            EitherReplica::Plain(replica) => finished.extend_from_slice(replica.finished()),
            EitherReplica::Pipelined(replica) => finished.extend_from_slice(replica.finished()),
        }
    }

    /// What it says of itself to a router.
    pub fn load(&self) -> ReplicaLoad {
        let (waiting, running, free, usable) = match self {
            EitherReplica::Aggregated(replica) => {
                let scheduler = &replica.scheduler;
                let (free, usable) = (scheduler.free_blocks(), scheduler.usable_blocks());
                (scheduler.waiting_requests(), scheduler.running_requests(), free, usable)
            }
            EitherReplica::Plain(replica) => load_of(&replica.scheduler),
            EitherReplica::Pipelined(replica) => load_of(&replica.scheduler),
        };
        ReplicaLoad {
            waiting_requests: waiting as u32,
            running_requests: running as u32,
            used_blocks: usable - free,
            usable_blocks: usable,
        }
    }

    /// The pool that tells of its content; none where requests share nothing.
    pub fn shared_pool(&mut self) -> Option<&mut BlockPool> {
        match self {
            EitherReplica::Aggregated(replica) => replica.scheduler.shared_pool(),
            EitherReplica::Plain(replica) => Some(replica.scheduler.pool_mut()),
            EitherReplica::Pipelined(replica) => Some(replica.scheduler.pool_mut()),
        }
    }

    /// Starts the next step if there is work and none is in flight.
    pub fn start_step(&mut self, now: SimTime, table: &mut RequestTable) -> Option<StepRecord<'_>> {
        match self {
            EitherReplica::Aggregated(replica) => replica.start_step(now, table),
            EitherReplica::Plain(replica) => replica.start_step(now, table),
            EitherReplica::Pipelined(replica) => replica.start_step(now, table),
        }
    }

    /// Starts the next step if there is work and none is in flight, and may end it and start further ones, as long as
    /// only tokens of decoding requests come of it and each ends before `horizon`, when the next request arrives.
    pub fn start_steps(&mut self, now: SimTime, horizon: SimTime, table: &mut RequestTable) {
        match self {
            EitherReplica::Aggregated(replica) => replica.start_steps(now, horizon, table),
            EitherReplica::Plain(replica) => {
                replica.start_step(now, table);
            }
            EitherReplica::Pipelined(replica) => while replica.start_step(now, table).is_some() {},
        }
    }

    /// Sums over its steps so far.
    pub fn totals(&self) -> &StepTotals {
        match self {
            EitherReplica::Aggregated(replica) => replica.totals(),
            EitherReplica::Plain(replica) => replica.totals(),
            EitherReplica::Pipelined(replica) => replica.totals(),
        }
    }

    /// KV blocks that its requests hold.
    pub fn held_blocks(&self) -> u32 {
        match self {
            EitherReplica::Aggregated(replica) => {
                replica.scheduler.usable_blocks() - replica.scheduler.free_blocks()
            }
            EitherReplica::Plain(replica) => replica.scheduler().pool().used_blocks(),
            EitherReplica::Pipelined(replica) => replica.scheduler.pool().used_blocks(),
        }
    }

    /// The gaps between tokens that it produced.
    pub fn into_gaps(self) -> DurationCounts {
        match self {
            EitherReplica::Aggregated(replica) => replica.into_gaps(),
            EitherReplica::Plain(replica) => replica.into_gaps(),
            EitherReplica::Pipelined(replica) => replica.into_gaps(),
        }
    }
}

/// Waiting and running requests, free and usable blocks.
fn load_of(scheduler: &Scheduler) -> (usize, usize, u32, u32) {
    let pool = scheduler.pool();
    (scheduler.waiting_requests(), scheduler.running_requests(), pool.free_blocks(), pool.usable_blocks())
}
