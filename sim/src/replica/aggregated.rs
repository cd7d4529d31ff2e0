//! A replica whose decoding requests are one: what a step gives them all is recorded once, and a request's own columns
//! are written when it begins, is preempted and ends.

use super::decode_run::{DecodeRun, FIRST_WANTED, steps_until};
use super::largest_gaps::LargestGaps;
use super::{StepRecord, StepTotals};
use crate::cost::CostModel;
use crate::durations::DurationCounts;
use crate::request::{Outcome, RequestTable};
use crate::scheduler::aggregated::{AggregatedBatch, AggregatedScheduler, Departure};
use crate::scheduler::{NewRequest, SchedulerConfig};
use crate::units::{SimDuration, SimTime};
use std::sync::Arc;

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
        self.run_decoding(now, horizon);
    }

    /// Starts the batch that was formed, of decoding requests alone with nobody waiting, and goes on as long as they
    /// stay the same and each step ends before `horizon`.
    fn run_decoding(&mut self, now: SimTime, horizon: SimTime) {
        let horizon = horizon.min(self.cost.epoch(now).1);
        let (scheduler, first) = (&mut self.scheduler, self.batch.shape);
        let (first_step, oldest) = (scheduler.steps(), scheduler.oldest_decoding_since());
        let running = scheduler.running_requests();
        let held_blocks = scheduler.usable_blocks() - scheduler.free_blocks();
        let mut run = DecodeRun::new(first, held_blocks, running, &mut self.totals, &mut self.gaps);
        let host = self.cost.host(&first);
        let (mut start, mut end, mut new_blocks) = (now, now, 0);
        self.cost.decode_run(&first, FIRST_WANTED, &mut |times| {
            let until_finish = scheduler.steps_to_finish(times.len());
            for (number, time) in times.iter().enumerate() {
                let duration = *time + host;
                run.start(duration, new_blocks);
                end = start + duration;
                if end >= horizon || number == until_finish {
                    return 0;
                }
                let Some(blocks) = scheduler.decode_on() else { return 0 };
                run.end(duration);
                (start, new_blocks) = (end, blocks);
            }
            steps_until(horizon, start, end - now)
        });
        run.finish(first_step, oldest, &mut self.largest_gaps);
        self.step_end = end;
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
