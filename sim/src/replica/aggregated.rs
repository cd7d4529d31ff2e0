//! A replica whose decoding requests are one: what a step gives them all is recorded once, and a request's own columns
//! are written when it begins, is preempted and ends.

use super::{StepRecord, StepTotals};
use crate::cost::CostModel;
use crate::durations::DurationCounts;
use crate::request::{Outcome, RequestTable};
use crate::scheduler::aggregated::{AggregatedBatch, AggregatedScheduler, Departure};
use crate::scheduler::{NewRequest, SchedulerConfig};
use crate::units::{SimDuration, SimTime};
use std::collections::VecDeque;
use std::sync::Arc;

/// The gaps between the ends of neighbouring steps, such that the largest since any step is found without looking at
/// all: only those that no later one reaches are kept, so they fall from first to last.
#[derive(Debug, Default)]
pub(super) struct LargestGaps {
    /// Number of the step and the gap that it ended, in ns.
    gaps: VecDeque<(u64, u64)>,
}

impl LargestGaps {
    /// Adds the gap of the latest step, and forgets those of steps up to `oldest`.
    pub fn push(&mut self, step: u64, gap_ns: u64, oldest: u64) {
        while self.gaps.back().is_some_and(|last| last.1 <= gap_ns) {
            self.gaps.pop_back();
        }
        self.gaps.push_back((step, gap_ns));
        while self.gaps.front().is_some_and(|first| first.0 <= oldest) {
            self.gaps.pop_front();
        }
    }

    /// The largest gap of the steps after `step`, in ns.
    fn since(&self, step: u64) -> u64 {
        let index = self.gaps.partition_point(|gap| gap.0 <= step);
        self.gaps.get(index).map_or(0, |gap| gap.1)
    }
}

/// One engine, its decoding requests as one. It gives exactly what [`Replica`](super::Replica) gives.
pub(crate) struct AggregatedReplica {
    index: u32,
    pub(crate) scheduler: AggregatedScheduler,
    cost: Arc<dyn CostModel>,
    batch: AggregatedBatch,
    /// End of the step in flight, or never.
    step_end: SimTime,
    /// End of the latest step.
    last_step_end: SimTime,
    finished: Vec<Departure>,
    totals: StepTotals,
    gaps: DurationCounts,
    largest_gaps: LargestGaps,
}

impl AggregatedReplica {
    /// An idle replica; see [`AggregatedScheduler::new`].
    pub fn new(index: u32, config: SchedulerConfig, is_shared: bool, cost: Arc<dyn CostModel>) -> Self {
        AggregatedReplica {
            index,
            scheduler: AggregatedScheduler::new(config, is_shared),
            cost,
            batch: AggregatedBatch::default(),
            step_end: SimTime::NEVER,
            last_step_end: SimTime::NEVER,
            finished: Vec::new(),
            totals: StepTotals::default(),
            gaps: DurationCounts::default(),
            largest_gaps: LargestGaps::default(),
        }
    }

    /// When its step ends; never while it has none.
    pub fn step_end(&self) -> SimTime {
        self.step_end
    }

    /// Its number among all engines.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Sums over its steps so far.
    pub fn totals(&self) -> &StepTotals {
        &self.totals
    }

    /// The gaps between tokens that it produced.
    pub fn into_gaps(self) -> DurationCounts {
        self.gaps
    }

    /// Queues an accepted request.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) {
        self.scheduler.enqueue(request);
    }

    /// Ends the step in flight: its tokens become visible now. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        self.step_end = SimTime::NEVER;
        let decoded = self.batch.shape.decode_requests;
        if decoded > 0 {
            // They all had their previous token at the end of the previous step.
            let gap_ns = (now - self.last_step_end).0;
            self.gaps.add_many(gap_ns, decoded);
            let oldest = self.scheduler.oldest_decoding_since();
            self.largest_gaps.push(self.scheduler.steps(), gap_ns, oldest);
        }
        for entry in self.batch.prefills.iter().filter(|entry| entry.samples) {
            if let Some(gap_ns) = table.record_token(entry.id, now) {
                self.gaps.add_many(gap_ns, 1);
            }
        }
        self.last_step_end = now;
        self.finished.clear();
        self.scheduler.complete(&self.batch, &mut self.finished);
        for departure in &self.finished {
            record_decoded(table, departure, self.scheduler.steps(), now, &self.largest_gaps);
            table.outcome[departure.id.index()] = Outcome::Finished;
        }
        self.finished.len()
    }

    /// The requests that finished with the step that ended last.
    pub fn finished(&self) -> &[Departure] {
        &self.finished
    }

    /// Starts the next step if there is work and none is in flight: form the batch, ask its cost.
    pub fn start_step(&mut self, now: SimTime, table: &mut RequestTable) -> Option<StepRecord<'_>> {
        self.form_batch(now, table).then(|| {
            let duration = self.cost.step(&self.batch.shape) + self.cost.host(&self.batch.shape);
            self.launch(now, duration)
        })
    }

    /// Starts the next step and, while requests only decode, ends it and starts further ones before `horizon`.
    pub fn start_steps(&mut self, now: SimTime, horizon: SimTime, table: &mut RequestTable) {
        if !self.form_batch(now, table) {
            return;
        }
        if !self.batch.prefills.is_empty() || self.scheduler.waiting_requests() > 0 {
            let duration = self.cost.step(&self.batch.shape) + self.cost.host(&self.batch.shape);
            self.launch(now, duration);
            return;
        }
        let first = self.batch.shape;
        let mut shape = first;
        let horizon = horizon.min(self.cost.epoch(now).1);
        let running = self.scheduler.running_requests();
        let oldest = self.scheduler.oldest_decoding_since();
        let (scheduler, totals) = (&mut self.scheduler, &mut self.totals);
        let (gaps, largest_gaps) = (&mut self.gaps, &mut self.largest_gaps);
        let mut start = now;
        self.cost.decode_run(&first, &mut |duration| {
            let held_blocks = scheduler.usable_blocks() - scheduler.free_blocks();
            totals.record_step(&shape, duration, held_blocks);
            totals.samples.offer(&shape, 0, running);
            self.step_end = start + duration;
            if self.step_end >= horizon || !scheduler.only_decodes_on() {
                return false;
            }
            gaps.add_many(duration.0, first.decode_requests);
            largest_gaps.push(scheduler.steps(), duration.0, oldest);
            start = self.step_end;
            shape.decode_context_tokens += shape.decode_requests;
            scheduler.decode_on();
            true
        });
        self.last_step_end = start;
    }

    /// Forms the next batch if there is work and no step in flight; says whether it runs anything.
    fn form_batch(&mut self, now: SimTime, table: &mut RequestTable) -> bool {
        if self.step_end != SimTime::NEVER {
            return false;
        }
        // A batch may stay empty once, when the only running request preempted itself; then it is admitted again.
        for _ in 0..2 {
            if self.scheduler.is_idle() {
                return false;
            }
            let steps_before = self.scheduler.steps();
            self.scheduler.form_batch(&mut self.batch);
            self.record_decisions(now, steps_before, table);
            if self.batch.shape.batch_requests() > 0 {
                self.batch.shape.epoch = self.cost.epoch(now).0;
                return true;
            }
        }
        false
    }

    fn record_decisions(&mut self, now: SimTime, steps_before: u64, table: &mut RequestTable) {
        for departure in &self.batch.preempted {
            record_decoded(table, departure, steps_before, self.last_step_end, &self.largest_gaps);
        }
        let preempted = self.batch.preempted.iter().map(|departure| departure.id);
        self.totals.record_decisions(preempted, &self.batch.admitted, now, table);
    }

    fn launch(&mut self, now: SimTime, duration: SimDuration) -> StepRecord<'_> {
        let shape = self.batch.shape;
        self.step_end = now + duration;
        let free_blocks = self.scheduler.free_blocks();
        self.totals.record_step(&shape, duration, self.scheduler.usable_blocks() - free_blocks);
        let (waiting, running) = (self.scheduler.waiting_requests(), self.scheduler.running_requests());
        self.totals.samples.offer(&shape, waiting, running);
        StepRecord {
            replica: self.index,
            start: now,
            duration,
            batch: super::StepBatch::Aggregated(&self.scheduler, &self.batch),
            shape,
            sets_pace: true,
            preempted_requests: self.batch.preempted.len() as u32,
            running_requests: self.scheduler.running_requests() as u32,
            waiting_requests: self.scheduler.waiting_requests() as u32,
            free_blocks,
        }
    }
}

/// Writes down the tokens that a request got while it decoded: one in each step up to `step`, which ended at `last`.
pub(super) fn record_decoded(
    table: &mut RequestTable,
    departure: &Departure,
    step: u64,
    last: SimTime,
    largest_gaps: &LargestGaps,
) {
    let Some(since) = departure.decoding_since.filter(|&since| since < step) else { return };
    let i = departure.id.index();
    table.generated_tokens[i] += (step - since) as u32;
    table.last_token[i] = last;
    table.max_gap_ns[i] = table.max_gap_ns[i].max(largest_gaps.since(since));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_gap_since_any_step_is_known() {
        let mut random = 9u64;
        let (mut all, mut largest) = (Vec::new(), LargestGaps::default());
        for step in 1..2_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let gap_ns = (random >> 33) % 50;
            all.push(gap_ns);
            let oldest = step.saturating_sub(100);
            largest.push(step, gap_ns, oldest);
            for since in oldest..step {
                let expected = all[since as usize..].iter().max().unwrap();
                assert_eq!(largest.since(since), *expected, "step {step} since {since}");
            }
            assert_eq!(largest.since(step), 0);
        }
    }
}
