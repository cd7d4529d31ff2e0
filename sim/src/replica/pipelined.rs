//! A replica with several steps in flight: asynchronous scheduling, pipeline stages, or both (V-42a, V-42b, V-43). While
//! fewer than its depth are in flight and there is something to schedule, it schedules; results are applied as they come.

use super::delivery::Delivery;
use super::offload::Offload;
use super::{StepBatch, StepRecord, StepTotals};
use crate::cost::CostModel;
use crate::durations::DurationCounts;
use crate::offload::StepGate;
use crate::request::{RequestId, RequestTable};
use crate::scheduler::{Scheduler, SchedulerConfig};
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
    index: u32,
    pub(crate) scheduler: Scheduler,
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
    /// Requests that finished with the step that ended last.
    finished: Vec<RequestId>,
    totals: StepTotals,
    pub(super) delivery: Delivery,
    offload: Offload,
}

impl PipelinedReplica {
    /// An idle replica. Its depth is the number of stages, and one more with asynchronous scheduling (V-42a).
    pub fn new(index: u32, config: SchedulerConfig, cost: Arc<dyn CostModel>) -> PipelinedReplica {
        let stages = cost.stages().max(1);
        PipelinedReplica {
            index,
            scheduler: Scheduler::with_stages(config, stages),
            cost,
            depth: stages + usize::from(config.async_scheduling),
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            host_free: SimTime::ZERO,
            stage_free: vec![SimTime::ZERO; stages],
            is_starved: false,
            finished: Vec::new(),
            totals: StepTotals::default(),
            delivery: Delivery::default(),
            offload: Offload::new(&config),
        }
    }

    /// When something happens next: the oldest step ends, or the CPU is free to schedule another.
    pub fn next_at(&self, now: SimTime) -> SimTime {
        // Without a step, the engine waits for what its tiers move; with one, for its result.
        let end = self.in_flight.front().map_or_else(|| self.offload.next_end(), |flight| flight.end);
        let can_schedule = self.in_flight.len() < self.depth && !self.is_starved && !self.scheduler.is_idle();
        if can_schedule && self.host_free > now { end.min(self.host_free) } else { end }
    }

    /// A request was queued.
    pub fn wake(&mut self) {
        self.is_starved = false;
    }

    /// Applies the oldest step's results if it ends now. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        if self.in_flight.front().is_none_or(|flight| flight.end != now) {
            return 0;
        }
        let Some(flight) = self.in_flight.pop_front() else { return 0 };
        self.is_starved = false;
        self.finished.clear();
        self.offload.end_until(now, &mut self.scheduler);
        let (totals, finished) = (&mut self.totals.speculation, &mut self.finished);
        self.delivery.deliver(&mut self.scheduler, &flight.batch, now, table, totals, |id| finished.push(id));
        self.offload.begin(now, &mut self.scheduler);
        self.spare.push(flight.batch);
        self.finished.len()
    }

    /// The requests that finished with the step that ended last.
    pub fn finished(&self) -> &[RequestId] {
        &self.finished
    }

    /// Schedules the next step if there is room for one, the CPU is free and there is work.
    pub fn start_step(&mut self, now: SimTime, table: &mut RequestTable) -> Option<StepRecord<'_>> {
        if self.offload.end_until(now, &mut self.scheduler) && self.in_flight.is_empty() {
            self.is_starved = false;
        }
        if self.in_flight.len() >= self.depth || self.host_free > now || self.is_starved {
            return None;
        }
        // A batch may stay empty once, when the only running request preempted itself; then it is admitted again.
        for _ in 0..2 {
            if self.scheduler.is_idle() {
                return None;
            }
            let mut batch = self.spare.pop().unwrap_or_default();
            self.scheduler.form_batch(&mut batch);
            self.totals.record_decisions(batch.preempted.iter().copied(), &batch.admitted, now, table);
            let gate = self.offload.begin(now, &mut self.scheduler);
            if !batch.requests.is_empty() {
                return Some(self.launch(batch, now, gate));
            }
            self.spare.push(batch);
        }
        self.is_starved = true;
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
            *free = self.offload.step_end(gate, ready.max(*free), self.cost.stage(stage, &shape));
            ready = *free + self.cost.send(&shape);
        }
        let end = self.stage_free.last().copied().unwrap_or(ready);
        // Steps overlap: each counts for the time by which it moves the end of all work on.
        let previous_end = self.in_flight.back().map_or(now, |flight| flight.end.max(now));
        let held_blocks = self.scheduler.used_blocks();
        self.totals.record_step(&shape, end - previous_end, held_blocks);
        let (waiting, running) = (self.scheduler.waiting_requests(), self.scheduler.running_requests());
        self.totals.samples.offer(&shape, waiting, running);
        let preempted_requests = batch.preempted.len() as u32;
        self.in_flight.push_back(Flight { batch, end });
        let flight = &self.in_flight[self.in_flight.len() - 1];
        StepRecord {
            replica: self.index,
            start: previous_end,
            duration: end - previous_end,
            batch: StepBatch::Plain(&flight.batch),
            shape,
            sets_pace: true,
            preempted_requests,
            running_requests: self.scheduler.running_requests() as u32,
            waiting_requests: self.scheduler.waiting_requests() as u32,
            free_blocks: self.scheduler.free_blocks(),
        }
    }

    /// Its number among all engines.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Sums over its steps so far.
    pub fn totals(&self) -> StepTotals {
        StepTotals { offload: self.offload.totals(&self.scheduler), ..self.totals.clone() }
    }

    /// The gaps between tokens that it produced.
    pub fn into_gaps(self) -> DurationCounts {
        self.delivery.gaps
    }
}
