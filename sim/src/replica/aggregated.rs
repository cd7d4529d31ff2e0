//! A replica whose decoding requests are one.

use super::StepRecord;
use super::aggregated_engine::AggregatedEngine;
use super::decode_run::{DecodeRun, FIRST_WANTED, steps_until};
use crate::cost::CostModel;
use crate::request::RequestTable;
use crate::scheduler::SchedulerConfig;
use crate::scheduler::aggregated::{AggregatedBatch, Departure};
use crate::units::SimTime;
use std::sync::Arc;

/// One engine, its decoding requests as one. It gives exactly what [`Replica`](super::Replica) gives.
pub(crate) struct AggregatedReplica {
    pub(super) engine: AggregatedEngine,
    cost: Arc<dyn CostModel>,
    batch: AggregatedBatch,
    /// End of the step in flight, or never.
    step_end: SimTime,
    finished: Vec<Departure>,
}

impl AggregatedReplica {
    /// An idle replica; see [`AggregatedEngine::new`].
    pub fn new(index: u32, config: SchedulerConfig, is_shared: bool, cost: Arc<dyn CostModel>) -> Self {
        AggregatedReplica {
            engine: AggregatedEngine::new(index, config, is_shared),
            cost,
            batch: AggregatedBatch::default(),
            step_end: SimTime::NEVER,
            finished: Vec::new(),
        }
    }

    /// When its step ends; never while it has none.
    pub fn step_end(&self) -> SimTime {
        self.step_end
    }

    /// Ends the step in flight: its tokens become visible now. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        self.step_end = SimTime::NEVER;
        let (step, oldest) = (self.engine.scheduler.steps(), self.engine.scheduler.oldest_decoding_since());
        self.engine.record_tokens(&self.batch, step, oldest, now, table);
        self.finished.clear();
        self.engine.scheduler.complete(&self.batch, &mut self.finished);
        self.engine.record_finished(table, &self.finished, self.engine.scheduler.steps(), now);
        self.finished.len()
    }

    /// The requests that finished with the step that ended last.
    pub fn finished(&self) -> &[Departure] {
        &self.finished
    }

    /// Starts the next step if there is work and none is in flight: form the batch, ask its cost.
    pub fn start_step(&mut self, now: SimTime, table: &mut RequestTable) -> Option<StepRecord<'_>> {
        self.form_batch(now, table).then(|| self.launch(now))
    }

    /// Starts the next step and, while requests only decode, ends it and starts further ones before `horizon`.
    pub fn start_steps(&mut self, now: SimTime, horizon: SimTime, table: &mut RequestTable) {
        if !self.form_batch(now, table) {
            return;
        }
        if !self.batch.prefills.is_empty() || self.engine.scheduler.waiting_requests() > 0 {
            self.launch(now);
            return;
        }
        self.run_decoding(now, horizon);
    }

    /// Starts the batch that was formed, of decoding requests alone with nobody waiting, and goes on as long as they
    /// stay the same and each step ends before `horizon`.
    fn run_decoding(&mut self, now: SimTime, horizon: SimTime) {
        let horizon = horizon.min(self.cost.epoch(now).1);
        let (held_blocks, first) = (self.engine.held_blocks(), self.batch.shape);
        let AggregatedEngine { scheduler, totals, gaps, largest_gaps, last_step_end, .. } = &mut self.engine;
        let (first_step, oldest) = (scheduler.steps(), scheduler.oldest_decoding_since());
        let running = scheduler.running_requests();
        let mut run = DecodeRun::new(first, held_blocks, running, totals, gaps);
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
        run.finish(first_step, oldest, largest_gaps);
        *last_step_end = start;
        self.step_end = end;
    }

    /// Forms the next batch if there is work and no step in flight; says whether it runs anything.
    fn form_batch(&mut self, now: SimTime, table: &mut RequestTable) -> bool {
        if self.step_end != SimTime::NEVER {
            return false;
        }
        let runs = self.engine.form_batch(&mut self.batch, now, table);
        if runs {
            self.batch.shape.epoch = self.cost.epoch(now).0;
        }
        runs
    }

    fn launch(&mut self, now: SimTime) -> StepRecord<'_> {
        let duration = self.cost.step(&self.batch.shape) + self.cost.host(&self.batch.shape);
        self.step_end = now + duration;
        self.engine.record_step(&self.batch, now, duration)
    }
}
