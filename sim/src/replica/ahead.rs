//! A replica with asynchronous scheduling whose decoding requests are one: up to two steps in flight (V-42a, V-42b). It
//! gives exactly what [`PipelinedReplica`](super::pipelined::PipelinedReplica) gives with one stage.

use super::aggregated::{LargestGaps, record_decoded};
use super::{StepBatch, StepRecord, StepTotals};
use crate::cost::CostModel;
use crate::durations::DurationCounts;
use crate::request::{Outcome, RequestTable};
use crate::scheduler::aggregated::{AggregatedBatch, AggregatedScheduler, Departure, Landing};
use crate::scheduler::{NewRequest, SchedulerConfig};
use crate::step::StepShape;
use crate::units::SimTime;
use std::collections::VecDeque;
use std::sync::Arc;

/// Steps in flight at once (V-42a).
const DEPTH: usize = 2;

/// A step on its way.
#[derive(Debug)]
struct Flight {
    batch: AggregatedBatch,
    end: SimTime,
}

/// One engine that schedules ahead, its decoding requests as one.
pub(crate) struct AheadReplica {
    index: u32,
    pub(crate) scheduler: AggregatedScheduler,
    cost: Arc<dyn CostModel>,
    in_flight: VecDeque<Flight>,
    /// Batches whose memory is used again.
    spare: Vec<AggregatedBatch>,
    /// Until when the engine's own work on the CPU takes.
    host_free: SimTime,
    /// Until when the GPU is taken.
    gpu_free: SimTime,
    /// Nothing can be scheduled before a result or a request arrives.
    is_starved: bool,
    /// End of the latest step that ended.
    last_step_end: SimTime,
    landing: Landing,
    totals: StepTotals,
    gaps: DurationCounts,
    largest_gaps: LargestGaps,
}

impl AheadReplica {
    /// An idle replica; see [`AggregatedScheduler::new`].
    pub fn new(index: u32, config: SchedulerConfig, is_shared: bool, cost: Arc<dyn CostModel>) -> Self {
        AheadReplica {
            index,
            scheduler: AggregatedScheduler::new(config, is_shared),
            cost,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            host_free: SimTime::ZERO,
            gpu_free: SimTime::ZERO,
            is_starved: false,
            last_step_end: SimTime::NEVER,
            landing: Landing::default(),
            totals: StepTotals::default(),
            gaps: DurationCounts::default(),
            largest_gaps: LargestGaps::default(),
        }
    }

    /// Its number among all engines.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// When something happens next: the older step ends, or the CPU is free to schedule another.
    pub fn next_at(&self, now: SimTime) -> SimTime {
        let end = self.in_flight.front().map_or(SimTime::NEVER, |flight| flight.end);
        let can_schedule = self.in_flight.len() < DEPTH && !self.is_starved && !self.scheduler.is_idle();
        if can_schedule && self.host_free > now { end.min(self.host_free) } else { end }
    }

    /// Queues an accepted request.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) {
        self.is_starved = false;
        self.scheduler.enqueue(request);
    }

    /// Applies the older step's results if it ends now. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        if self.in_flight.front().is_none_or(|flight| flight.end != now) {
            return 0;
        }
        let Some(Flight { batch, .. }) = self.in_flight.pop_front() else { return 0 };
        self.is_starved = false;
        // Before landing: those that finish with this step still count.
        let oldest = self.scheduler.oldest_decoding_since();
        self.scheduler.land(&mut self.landing);
        let step = self.landing.step;
        let decoded = batch.shape.decode_requests;
        if decoded > 0 {
            // They all had their previous token at the end of the previous step.
            let gap_ns = (now - self.last_step_end).0;
            self.gaps.add_many(gap_ns, decoded);
            self.largest_gaps.push(step, gap_ns, oldest);
        }
        for entry in batch.prefills.iter().filter(|entry| entry.samples) {
            if let Some(gap_ns) = table.record_token(entry.id, now) {
                self.gaps.add_many(gap_ns, 1);
            }
        }
        self.last_step_end = now;
        for departure in self.landing.finished.iter().chain(&self.landing.delivered) {
            record_decoded(table, departure, step, now, &self.largest_gaps);
        }
        for departure in &self.landing.finished {
            table.outcome[departure.id.index()] = Outcome::Finished;
        }
        self.spare.push(batch);
        self.landing.finished.len()
    }

    /// The requests that finished with the step that ended last.
    pub fn finished(&self) -> &[Departure] {
        &self.landing.finished
    }

    /// Schedules the next step if there is room for one, the CPU is free and there is work.
    pub fn start_step(&mut self, now: SimTime, table: &mut RequestTable) -> Option<StepRecord<'_>> {
        if self.in_flight.len() >= DEPTH || self.host_free > now || self.is_starved {
            return None;
        }
        let mut batch = self.spare.pop().unwrap_or_default();
        // A batch may stay empty once, when the only running request preempted itself; then it is admitted again.
        for _ in 0..2 {
            if self.scheduler.is_idle() {
                self.spare.push(batch);
                return None;
            }
            let steps_before = self.scheduler.steps();
            self.scheduler.form_batch(&mut batch);
            self.record_decisions(&batch, now, steps_before, table);
            if batch.shape.batch_requests() > 0 {
                return Some(self.launch(batch, now));
            }
        }
        self.spare.push(batch);
        self.is_starved = true;
        None
    }

    /// Starts what can start now, and goes on until a request finishes, or until `horizon`, when the next one arrives.
    pub fn start_steps(&mut self, now: SimTime, horizon: SimTime, table: &mut RequestTable) {
        let mut now = now;
        loop {
            while self.start_step(now, table).is_some() {}
            let next = self.next_at(now);
            let ends_first = self.in_flight.front().is_some_and(|flight| flight.end == next);
            if next >= horizon || (ends_first && self.scheduler.next_landing_finishes()) {
                return;
            }
            now = next;
            self.end_step(now, table);
        }
    }

    fn record_decisions(
        &mut self,
        batch: &AggregatedBatch,
        now: SimTime,
        steps_before: u64,
        table: &mut RequestTable,
    ) {
        for departure in &batch.preempted {
            record_decoded(table, departure, steps_before, self.last_step_end, &self.largest_gaps);
        }
        let preempted = batch.preempted.iter().map(|departure| departure.id);
        self.totals.record_decisions(preempted, &batch.admitted, now, table);
    }

    fn launch(&mut self, batch: AggregatedBatch, now: SimTime) -> StepRecord<'_> {
        let shape = StepShape { epoch: self.cost.epoch(now).0, ..batch.shape };
        self.host_free = now + self.cost.host(&shape);
        self.gpu_free = self.host_free.max(self.gpu_free) + self.cost.stage(0, &shape);
        let end = self.gpu_free;
        // Steps overlap: each counts for the time by which it moves the end of all work on.
        let previous_end = self.in_flight.back().map_or(now, |flight| flight.end.max(now));
        let free_blocks = self.scheduler.free_blocks();
        self.totals.record_step(&shape, end - previous_end, self.scheduler.usable_blocks() - free_blocks);
        let (waiting, running) = (self.scheduler.waiting_requests(), self.scheduler.running_requests());
        self.totals.samples.offer(&shape, waiting, running);
        let preempted_requests = batch.preempted.len() as u32;
        self.in_flight.push_back(Flight { batch, end });
        let flight = &self.in_flight[self.in_flight.len() - 1];
        StepRecord {
            replica: self.index,
            start: previous_end,
            duration: end - previous_end,
            batch: StepBatch::Aggregated(&self.scheduler, &flight.batch),
            shape,
            sets_pace: true,
            preempted_requests,
            running_requests: self.scheduler.running_requests() as u32,
            waiting_requests: self.scheduler.waiting_requests() as u32,
            free_blocks,
        }
    }

    /// Sums over its steps so far.
    pub fn totals(&self) -> &StepTotals {
        &self.totals
    }

    /// The gaps between tokens that it produced.
    pub fn into_gaps(self) -> DurationCounts {
        self.gaps
    }
}
