//! A replica with several steps in flight: asynchronous scheduling, pipeline stages, or both (V-42a, V-42b, V-43). While
//! fewer than its depth are in flight and there is something to schedule, it schedules; results are applied as they come.

use super::StepRecord;
use super::engine::Engine;
use crate::cost::CostModel;
use crate::offload::StepGate;
use crate::request::RequestTable;
use crate::scheduler::{NewRequest, SchedulerConfig};
use crate::step::{ScheduledBatch, StepShape};
use crate::units::SimTime;
use std::collections::VecDeque;
use std::sync::Arc;

/// A step on its way.
#[derive(Debug)]
struct Flight {
    batch: ScheduledBatch,
    end: SimTime,
}

/// One engine with several steps in flight.
pub(crate) struct PipelinedReplica {
    pub(super) engine: Engine,
    cost: Arc<dyn CostModel>,
    /// Most steps in flight.
    depth: usize,
    in_flight: VecDeque<Flight>,
    /// Batches whose memory is used again.
    spare: Vec<ScheduledBatch>,
    /// Until when the engine's own work on the CPU takes.
    host_free: SimTime,
    /// Until when each stage is taken.
    stage_free: Vec<SimTime>,
    /// Nothing can be scheduled before a result or a request arrives.
    is_starved: bool,
}

impl PipelinedReplica {
    /// An idle replica. Its depth is the number of stages, and one more with asynchronous scheduling (V-42a).
    pub fn new(index: u32, config: SchedulerConfig, cost: Arc<dyn CostModel>) -> PipelinedReplica {
        let stages = cost.stages().max(1);
        PipelinedReplica {
            engine: Engine::new(index, &config, stages),
            cost,
            depth: stages + usize::from(config.async_scheduling),
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            host_free: SimTime::ZERO,
            stage_free: vec![SimTime::ZERO; stages],
            is_starved: false,
        }
    }

    /// When something happens next: the oldest step ends, or the CPU is free to schedule another.
    pub fn next_at(&self, now: SimTime) -> SimTime {
        // Without a step, the engine waits for what its tiers move; with one, for its result.
        let end = self.in_flight.front().map_or_else(|| self.engine.offload.next_end(), |flight| flight.end);
        let can_schedule =
            self.in_flight.len() < self.depth && !self.is_starved && !self.engine.scheduler.is_idle();
        if can_schedule && self.host_free > now { end.min(self.host_free) } else { end }
    }

    /// Queues an accepted request.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) {
        self.is_starved = false;
        self.engine.scheduler.enqueue(request);
    }

    /// Applies the oldest step's results if it ends now. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        if self.in_flight.front().is_none_or(|flight| flight.end != now) {
            return 0;
        }
        let Some(flight) = self.in_flight.pop_front() else { return 0 };
        self.is_starved = false;
        let finished = self.engine.complete(&flight.batch, now, table).len();
        self.spare.push(flight.batch);
        finished
    }

    /// Schedules the next step if there is room for one, the CPU is free and there is work.
    pub fn start_step(&mut self, now: SimTime, table: &mut RequestTable) -> Option<StepRecord<'_>> {
        if self.engine.end_transfers(now) && self.in_flight.is_empty() {
            self.is_starved = false;
        }
        if self.in_flight.len() >= self.depth || self.host_free > now || self.is_starved {
            return None;
        }
        let mut batch = self.spare.pop().unwrap_or_default();
        if let Some(gate) = self.engine.form_batch(&mut batch, now, table) {
            return Some(self.launch(batch, now, gate));
        }
        self.spare.push(batch);
        self.is_starved = !self.engine.scheduler.is_idle();
        None
    }

    /// Sends a batch through the stages: each takes it when the stage before has handed it on and it is free. The first
    /// needs the tokens that the batch goes on from: those of the step as many batches before as there are stages (V-8).
    /// With tiers there is one stage, and the step may wait for them.
    fn launch(&mut self, batch: ScheduledBatch, now: SimTime, gate: StepGate) -> StepRecord<'_> {
        let shape = StepShape { epoch: self.cost.epoch(now).0, ..batch.shape() };
        self.host_free = now + self.cost.host(&shape);
        let mut ready = self.host_free;
        if batch.follows_in_flight
            && let Some(index) = self.in_flight.len().checked_sub(self.stage_free.len())
        {
            ready = ready.max(self.in_flight[index].end);
        }
        for (stage, free) in self.stage_free.iter_mut().enumerate() {
            *free = self.engine.offload.step_end(gate, ready.max(*free), self.cost.stage(stage, &shape));
            ready = *free + self.cost.send(&shape);
        }
        let end = self.stage_free.last().copied().unwrap_or(ready);
        // Steps overlap: each counts for the time by which it moves the end of all work on.
        let previous_end = self.in_flight.back().map_or(now, |flight| flight.end.max(now));
        let duration = end - previous_end;
        self.in_flight.push_back(Flight { batch, end });
        let flight = &self.in_flight[self.in_flight.len() - 1];
        self.engine.record_step(&flight.batch, shape, previous_end, duration, true)
    }
}
