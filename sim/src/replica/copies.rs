//! Data-parallel copies of a model without experts: engines of their own behind one front end (V-45).

use super::any::AnyReplica;
use super::balancer::Balancer;
use super::{StepRecord, StepTotals};
use crate::block_pool::BlockPool;
use crate::durations::DurationCounts;
use crate::request::{RequestId, RequestTable};
use crate::router::ReplicaLoad;
use crate::scheduler::NewRequest;
use crate::speculation::AcceptanceDraws;
use crate::units::SimTime;

/// The copies of one replica.
pub(crate) struct Copies {
    engines: Vec<AnyReplica>,
    balancer: Balancer,
    finished: Vec<RequestId>,
}

impl Copies {
    /// Idle engines behind a front end.
    pub fn new(engines: Vec<AnyReplica>) -> Copies {
        Copies { balancer: Balancer::new(engines.len() as u32), engines, finished: Vec::new() }
    }

    /// Says how drafts are accepted.
    pub fn speculate(&mut self, draws: &AcceptanceDraws) {
        self.engines.iter_mut().for_each(|engine| engine.speculate(draws.clone()));
    }

    /// When something happens in one of them next.
    pub fn next_at(&self, now: SimTime) -> SimTime {
        self.engines.iter().map(|engine| engine.next_at(now)).min().unwrap_or(SimTime::NEVER)
    }

    /// Queues an accepted request at the engine that the front end chooses; gives its number among all engines.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) -> u32 {
        let chosen = self.balancer.choose(request.arrival);
        self.engines[chosen].enqueue(request)
    }

    /// Ends the steps that end now. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        self.finished.clear();
        for (number, engine) in self.engines.iter_mut().enumerate() {
            if engine.next_at(now) != now {
                continue;
            }
            let finished = engine.end_step(now, table);
            if finished > 0 {
                engine.append_finished(&mut self.finished);
            }
            self.balancer.finish(number, finished);
            self.balancer.publish(now, number, engine.load());
        }
        self.finished.len()
    }

    /// What all engines together say of themselves.
    pub fn load(&self) -> ReplicaLoad {
        self.engines.iter().map(AnyReplica::load).sum()
    }

    /// Shows the pool of each engine whose requests share content.
    pub fn each_shared_pool(&mut self, show: &mut dyn FnMut(&mut BlockPool)) {
        self.engines.iter_mut().for_each(|engine| engine.each_shared_pool(show));
    }

    /// The requests that finished with the steps that ended last.
    pub fn finished(&self) -> &[RequestId] {
        &self.finished
    }

    /// Starts the next steps of the engines that have work and none in flight.
    pub fn start_step(
        &mut self,
        now: SimTime,
        table: &mut RequestTable,
        watch: &mut dyn FnMut(&StepRecord<'_>),
    ) {
        for engine in &mut self.engines {
            engine.start_step(now, table, watch);
        }
    }

    /// Sums over the steps of each engine so far.
    pub fn totals(&self) -> Vec<StepTotals> {
        self.engines.iter().flat_map(AnyReplica::totals).collect()
    }

    /// KV blocks that the requests of all engines hold.
    pub fn held_blocks(&self) -> u64 {
        self.engines.iter().map(AnyReplica::held_blocks).sum()
    }

    /// The gaps between tokens that the engines produced.
    pub fn into_gaps(self) -> DurationCounts {
        let mut gaps = DurationCounts::default();
        for engine in self.engines {
            gaps.merge(engine.into_gaps());
        }
        gaps
    }
}
