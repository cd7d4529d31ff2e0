//! A replica with asynchronous scheduling whose decoding requests are one: up to two steps in flight (V-42a, V-42b). It
//! gives exactly what [`PipelinedReplica`](super::pipelined::PipelinedReplica) gives with one stage.

use super::StepRecord;
use super::aggregated_engine::AggregatedEngine;
use super::decode_run::{DecodeRun, FIRST_WANTED, steps_until};
use crate::cost::CostModel;
use crate::request::RequestTable;
use crate::scheduler::aggregated::{AggregatedBatch, Departure, Landing};
use crate::scheduler::{NewRequest, SchedulerConfig};
use crate::step::StepShape;
use crate::units::SimTime;
use std::sync::Arc;

/// Steps in flight at once (V-42a).
const DEPTH: usize = 2;

/// A step on its way.
#[derive(Debug, Default)]
struct Flight {
    batch: AggregatedBatch,
    end: SimTime,
}

/// The steps in flight, in places that are used again.
#[derive(Debug, Default)]
struct Flights {
    places: [Flight; DEPTH],
    /// Where the older is.
    first: usize,
    count: usize,
}

impl Flights {
    fn first(&self) -> Option<&Flight> {
        (self.count > 0).then(|| &self.places[self.first])
    }

    fn last(&self) -> Option<&Flight> {
        self.count.checked_sub(1).map(|number| &self.places[(self.first + number) % DEPTH])
    }

    /// A place for the next; there is one while fewer than [`DEPTH`] are in flight.
    fn next(&mut self) -> &mut Flight {
        &mut self.places[(self.first + self.count) % DEPTH]
    }

    /// Ends the older; it stays in its place for now.
    fn land(&mut self) -> &Flight {
        let landed = self.first;
        self.first = (self.first + 1) % DEPTH;
        self.count -= 1;
        &self.places[landed]
    }
}

/// One engine that schedules ahead, its decoding requests as one.
pub(crate) struct AheadReplica {
    pub(super) engine: AggregatedEngine,
    cost: Arc<dyn CostModel>,
    in_flight: Flights,
    /// Until when the engine's own work on the CPU takes.
    host_free: SimTime,
    /// Until when the GPU is taken.
    gpu_free: SimTime,
    /// Nothing can be scheduled before a result or a request arrives.
    is_starved: bool,
    landing: Landing,
}

impl AheadReplica {
    /// An idle replica; see [`AggregatedEngine::new`].
    pub fn new(index: u32, config: SchedulerConfig, is_shared: bool, cost: Arc<dyn CostModel>) -> Self {
        AheadReplica {
            engine: AggregatedEngine::new(index, config, is_shared),
            cost,
            in_flight: Flights::default(),
            host_free: SimTime::ZERO,
            gpu_free: SimTime::ZERO,
            is_starved: false,
            landing: Landing::default(),
        }
    }

    /// When something happens next: the older step ends, or the CPU is free to schedule another.
    pub fn next_at(&self, now: SimTime) -> SimTime {
        let end = self.in_flight.first().map_or(SimTime::NEVER, |flight| flight.end);
        let can_schedule =
            self.in_flight.count < DEPTH && !self.is_starved && !self.engine.scheduler.is_idle();
        if can_schedule && self.host_free > now { end.min(self.host_free) } else { end }
    }

    /// Queues an accepted request.
    pub fn enqueue(&mut self, request: &NewRequest<'_>) {
        self.is_starved = false;
        self.engine.scheduler.enqueue(request);
    }

    /// Applies the older step's results if it ends now. Gives how many requests finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> usize {
        if self.in_flight.first().is_none_or(|flight| flight.end != now) {
            return 0;
        }
        let batch = &self.in_flight.land().batch;
        self.is_starved = false;
        // Before landing: those that finish with this step still count.
        let oldest = self.engine.scheduler.oldest_decoding_since();
        self.engine.scheduler.land(&mut self.landing);
        let Landing { step, finished, delivered, .. } = &self.landing;
        self.engine.record_tokens(batch, *step, oldest, now, table);
        self.engine.record_finished(table, finished, *step, now);
        for departure in delivered {
            self.engine.record_decoded(table, departure, *step, now);
        }
        self.landing.finished.len()
    }

    /// The requests that finished with the step that ended last.
    pub fn finished(&self) -> &[Departure] {
        &self.landing.finished
    }

    /// Schedules the next step if there is room for one, the CPU is free and there is work.
    pub fn start_step(&mut self, now: SimTime, table: &mut RequestTable) -> Option<StepRecord<'_>> {
        if self.in_flight.count >= DEPTH || self.host_free > now || self.is_starved {
            return None;
        }
        if self.engine.form_batch(&mut self.in_flight.next().batch, now, table) {
            return Some(self.launch(now));
        }
        self.is_starved = !self.engine.scheduler.is_idle();
        None
    }

    /// Starts what can start now, and goes on until a request finishes, or until `horizon`, when the next one arrives.
    pub fn start_steps(&mut self, now: SimTime, horizon: SimTime, table: &mut RequestTable) {
        let mut now = now;
        loop {
            if self.engine.scheduler.is_decoding_on() {
                now = self.run_decoding(now, horizon);
            }
            while self.start_step(now, table).is_some() {}
            let next = self.next_at(now);
            let ends_first = self.in_flight.first().is_some_and(|flight| flight.end == next);
            if next >= horizon || (ends_first && self.engine.scheduler.next_landing_finishes()) {
                return;
            }
            now = next;
            self.end_step(now, table);
        }
    }

    /// One step is in flight, and more of the same requests follow as long as they stay the same: starts and ends them
    /// up to `horizon`. Each is scheduled when the one before the one before has ended and the CPU is free, and starts on
    /// the GPU when the one before ends. Gives the time of the last end.
    fn run_decoding(&mut self, now: SimTime, horizon: SimTime) -> SimTime {
        let (epoch, epoch_end) = self.cost.epoch(now.max(self.host_free));
        let (held_blocks, mut last_step_end) = (self.engine.held_blocks(), self.engine.last_step_end);
        let AggregatedEngine { scheduler, totals, gaps, largest_gaps, .. } = &mut self.engine;
        let first = StepShape { epoch, ..scheduler.next_decode_shape() };
        let Some(mut end) = self.in_flight.first().map(|flight| flight.end) else { return now };
        let (first_step, oldest) = (scheduler.steps(), scheduler.oldest_decoding_since());
        let running = scheduler.running_requests();
        let mut run = DecodeRun::new(first, held_blocks, running, totals, gaps);
        let host = self.cost.host(&first);
        let (mut now, mut host_free) = (now, self.host_free);
        let mut second_end = None;
        self.cost.decode_run(&first, FIRST_WANTED, &mut |times| {
            let until_finish = scheduler.steps_to_finish(times.len() + 1);
            for (number, time) in times.iter().enumerate() {
                let start = now.max(host_free);
                if start >= horizon.min(epoch_end) {
                    return 0;
                }
                let Some(new_blocks) = scheduler.decode_on() else { return 0 };
                host_free = start + host;
                let next_end = host_free.max(end) + *time;
                run.start(next_end - end, new_blocks);
                if end >= horizon {
                    second_end = Some(next_end);
                    return 0;
                }
                run.end(end - last_step_end);
                (now, last_step_end, end) = (end, end, next_end);
                if number + 1 == until_finish {
                    return 0;
                }
            }
            steps_until(horizon, now, end - now)
        });
        self.host_free = host_free;
        self.gpu_free = second_end.unwrap_or(end);
        scheduler.fly_on(first_step, second_end.is_some());
        let mut shape = run.finish(first_step, oldest, largest_gaps);
        self.engine.last_step_end = last_step_end;
        let ends = [Some(end), second_end];
        self.in_flight.count = 0;
        shape.decode_context_tokens -= shape.decode_requests * ends.iter().flatten().count() as u64;
        for end in ends.into_iter().flatten() {
            let flight = self.in_flight.next();
            flight.batch.prefills.clear();
            flight.batch.shape = shape;
            flight.end = end;
            self.in_flight.count += 1;
            shape.decode_context_tokens += shape.decode_requests;
        }
        now
    }

    /// Starts the step whose batch was formed in the next place.
    fn launch(&mut self, now: SimTime) -> StepRecord<'_> {
        // Steps overlap: each counts for the time by which it moves the end of all work on.
        let previous_end = self.in_flight.last().map_or(now, |flight| flight.end.max(now));
        let flight = self.in_flight.next();
        flight.batch.shape.epoch = self.cost.epoch(now).0;
        let shape = flight.batch.shape;
        self.host_free = now + self.cost.host(&shape);
        self.gpu_free = self.host_free.max(self.gpu_free) + self.cost.step(&shape);
        let end = self.gpu_free;
        flight.end = end;
        self.in_flight.count += 1;
        let batch = self.in_flight.last().map_or(&self.in_flight.places[0].batch, |flight| &flight.batch);
        self.engine.record_step(batch, previous_end, end - previous_end)
    }
}
