//! What the paths have in common that step all decoding requests as one: what a step gives them all is recorded once, and
//! a request's own columns are written when it begins, is preempted and ends.

use super::largest_gaps::LargestGaps;
use super::{StepBatch, StepRecord, StepTotals};
use crate::durations::DurationCounts;
use crate::request::{Outcome, RequestTable};
use crate::scheduler::SchedulerConfig;
use crate::scheduler::aggregated::{AggregatedBatch, AggregatedScheduler, Departure};
use crate::units::{SimDuration, SimTime};

/// One engine without its steps in flight.
pub(super) struct AggregatedEngine {
    /// Its number among all engines.
    pub index: u32,
    pub scheduler: AggregatedScheduler,
    /// End of the latest step that ended.
    pub last_step_end: SimTime,
    pub totals: StepTotals,
    pub gaps: DurationCounts,
    pub largest_gaps: LargestGaps,
}

impl AggregatedEngine {
    /// An idle engine; see [`AggregatedScheduler::new`].
    pub fn new(index: u32, config: SchedulerConfig, is_shared: bool) -> AggregatedEngine {
        AggregatedEngine {
            index,
            scheduler: AggregatedScheduler::new(config, is_shared),
            last_step_end: SimTime::NEVER,
            totals: StepTotals::default(),
            gaps: DurationCounts::default(),
            largest_gaps: LargestGaps::default(),
        }
    }

    /// Forms the next batch if there is work; says whether it runs anything.
    pub fn form_batch(
        &mut self,
        batch: &mut AggregatedBatch,
        now: SimTime,
        table: &mut RequestTable,
    ) -> bool {
        // A batch may stay empty once, when the only running request preempted itself; then it is admitted again.
        for _ in 0..2 {
            if self.scheduler.is_idle() {
                return false;
            }
            let steps_before = self.scheduler.steps();
            self.scheduler.form_batch(batch);
            for departure in &batch.preempted {
                self.record_decoded(table, departure, steps_before, self.last_step_end);
            }
            let preempted = batch.preempted.iter().map(|departure| departure.id);
            self.totals.record_decisions(preempted, &batch.admitted, now, table);
            if batch.shape.batch_requests() > 0 {
                return true;
            }
        }
        false
    }

    /// Counts a step that takes `duration` from `start` on, and says what there is to say of it.
    pub fn record_step<'a>(
        &'a mut self,
        batch: &'a AggregatedBatch,
        start: SimTime,
        duration: SimDuration,
    ) -> StepRecord<'a> {
        let (scheduler, shape) = (&self.scheduler, batch.shape);
        let (waiting, running) = (scheduler.waiting_requests(), scheduler.running_requests());
        self.totals.record_step(&shape, duration, self.held_blocks());
        self.totals.samples.offer(&shape, waiting, running);
        StepRecord {
            replica: self.index,
            start,
            duration,
            batch: StepBatch::Aggregated(scheduler, batch),
            shape,
            sets_pace: true,
            preempted_requests: batch.preempted.len() as u32,
            running_requests: running as u32,
            waiting_requests: waiting as u32,
            free_blocks: scheduler.free_blocks(),
        }
    }

    /// Step number `step` ends `now`: each decoding request gets its token, of whom the `oldest` as in
    /// [`LargestGaps::push`], and each prompt that is complete.
    pub fn record_tokens(
        &mut self,
        batch: &AggregatedBatch,
        step: u64,
        oldest: u64,
        now: SimTime,
        table: &mut RequestTable,
    ) {
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
    }

    /// Requests are complete with step number `step`, which ends `now`.
    pub fn record_finished(
        &self,
        table: &mut RequestTable,
        departures: &[Departure],
        step: u64,
        now: SimTime,
    ) {
        for departure in departures {
            self.record_decoded(table, departure, step, now);
            table.outcome[departure.id.index()] = Outcome::Finished;
        }
    }

    /// Writes down the tokens that a request got while it decoded: one in each step up to `step`, which ended at `last`.
    pub fn record_decoded(&self, table: &mut RequestTable, departure: &Departure, step: u64, last: SimTime) {
        let Some(since) = departure.decoding_since.filter(|&since| since < step) else { return };
        let i = departure.id.index();
        table.generated_tokens[i] += (step - since) as u32;
        table.last_token[i] = last;
        table.max_gap_ns[i] = table.max_gap_ns[i].max(self.largest_gaps.since(since));
    }

    /// KV blocks that its requests hold.
    pub fn held_blocks(&self) -> u32 {
        self.scheduler.usable_blocks() - self.scheduler.free_blocks()
    }
}
