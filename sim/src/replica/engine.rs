//! What the paths have in common that step each request by itself: an engine's scheduler with its tiers, and what its
//! steps came to.

use super::delivery::Delivery;
use super::offload::Offload;
use super::{StepBatch, StepRecord, StepTotals};
use crate::offload::StepGate;
use crate::request::{RequestId, RequestTable};
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::step::{ScheduledBatch, StepShape};
use crate::units::{SimDuration, SimTime};

/// One engine without its steps in flight.
pub(super) struct Engine {
    /// Its number among all engines.
    pub index: u32,
    pub scheduler: Scheduler,
    pub delivery: Delivery,
    pub offload: Offload,
    pub totals: StepTotals,
    /// The requests that finished with the step that ended last.
    pub finished: Vec<RequestId>,
}

impl Engine {
    /// An idle engine of a model in so many pipeline stages.
    pub fn new(index: u32, config: &SchedulerConfig, stages: usize) -> Engine {
        Engine {
            index,
            scheduler: Scheduler::with_stages(*config, stages),
            delivery: Delivery::default(),
            offload: Offload::new(config),
            totals: StepTotals::default(),
            finished: Vec::new(),
        }
    }

    /// Forms the next batch if there is work. Gives what its step waits for; none where there is nothing to run.
    pub fn form_batch(
        &mut self,
        batch: &mut ScheduledBatch,
        now: SimTime,
        table: &mut RequestTable,
    ) -> Option<StepGate> {
        // A batch may stay empty once, when the only running request preempted itself; then it is admitted again.
        for _ in 0..2 {
            if self.scheduler.is_idle() {
                return None;
            }
            self.scheduler.form_batch(batch);
            self.totals.record_decisions(batch.preempted.iter().copied(), &batch.admitted, now, table);
            let gate = self.offload.begin(now, &mut self.scheduler);
            if !batch.requests.is_empty() {
                return Some(gate);
            }
        }
        None
    }

    /// Counts a step that takes `duration` from `start` on, and says what there is to say of it. Where other ranks of it
    /// are slower, it does not set the pace.
    pub fn record_step<'a>(
        &mut self,
        batch: &'a ScheduledBatch,
        shape: StepShape,
        start: SimTime,
        duration: SimDuration,
        sets_pace: bool,
    ) -> StepRecord<'a> {
        let scheduler = &self.scheduler;
        let (waiting, running) = (scheduler.waiting_requests(), scheduler.running_requests());
        self.totals.record_step(&shape, duration, scheduler.used_blocks());
        self.totals.ahead_block_ns += u128::from(scheduler.blocks_ahead()) * u128::from(duration.0);
        if sets_pace {
            self.totals.samples.offer(&shape, waiting, running);
        }
        StepRecord {
            replica: self.index,
            start,
            duration,
            batch: StepBatch::Plain(batch),
            shape,
            sets_pace,
            preempted_requests: batch.preempted.len() as u32,
            running_requests: running as u32,
            waiting_requests: waiting as u32,
            free_blocks: scheduler.free_blocks(),
        }
    }

    /// The step with this batch has ended: its tokens become visible `now`. Gives the requests that finished.
    pub fn complete(
        &mut self,
        batch: &ScheduledBatch,
        now: SimTime,
        table: &mut RequestTable,
    ) -> &[RequestId] {
        self.finished.clear();
        self.end_transfers(now);
        let (totals, finished) = (&mut self.totals.speculation, &mut self.finished);
        self.delivery.deliver(&mut self.scheduler, batch, now, table, totals, |id| finished.push(id));
        self.offload.begin(now, &mut self.scheduler);
        &self.finished
    }

    /// Tells the scheduler which transfers of the tiers have ended by `now`; says whether any has.
    pub fn end_transfers(&mut self, now: SimTime) -> bool {
        self.offload.end_until(now, &mut self.scheduler)
    }

    /// Sums over its steps so far.
    pub fn totals(&self) -> StepTotals {
        StepTotals { offload: self.offload.totals(&self.scheduler), ..self.totals.clone() }
    }
}
