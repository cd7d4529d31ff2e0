//! One replica: an engine with its scheduler, its cost model and the step in flight. It owns no clock: it is told the
//! time, and says when its step ends.

mod aggregated;
mod ahead;
mod balancer;
mod copies;
mod decode_run;
mod delivery;
mod either;
mod largest_gaps;
mod lockstep;
mod offload;
mod pipelined;
mod samples;

pub(crate) use either::EitherReplica;
pub use either::{DataParallel, StepPath};
pub use samples::{MOST_SAMPLES, SampledStep, StepSamples};

use crate::cost::CostModel;
use crate::durations::DurationCounts;
use crate::offload::{OffloadTotals, StepGate};
use crate::request::{RequestId, RequestTable};
use crate::scheduler::aggregated::{AggregatedBatch, AggregatedScheduler};
use crate::scheduler::{Scheduler, SchedulerConfig};
use crate::speculation::{AcceptanceDraws, SpeculationTotals};
use crate::step::{Admission, ScheduledBatch, ScheduledRequest, StepShape};
use crate::units::{SimDuration, SimTime};
use delivery::Delivery;
use offload::Offload;
use std::sync::Arc;

/// Sums over the steps of a replica, exact integers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepTotals {
    /// Steps run.
    pub steps: u64,
    /// Time spent in steps.
    pub busy: SimDuration,
    /// Sum over steps of the requests in the batch.
    pub batch_requests: u64,
    /// Largest batch.
    pub batch_requests_max: u64,
    /// Tokens computed, recomputed ones included.
    pub computed_tokens: u64,
    /// Blocks held after scheduling times the step's duration, summed: block-nanoseconds.
    pub block_ns: u128,
    /// The part of it for tokens that were not there yet, or not any more: what reservations waste.
    pub ahead_block_ns: u128,
    /// Most blocks held at once.
    pub blocks_max: u32,
    /// Preemptions.
    pub preemptions: u64,
    /// Tokens looked up in the prefix cache at admissions (V-31a).
    pub prefix_queried_tokens: u64,
    /// Tokens found there.
    pub prefix_hit_tokens: u64,
    /// Steps of nothing, run because other data-parallel ranks had work or nobody had said yet that none was left
    /// (V-46); in no other sum.
    pub dummy_steps: u64,
    /// Some of the steps; of data-parallel ranks that step together, of those in which it was the slowest.
    pub samples: StepSamples,
    /// Drafts verified, and tokens that came several at once.
    pub speculation: SpeculationTotals,
    /// With tiers for KV blocks: what they did.
    pub offload: OffloadTotals,
}

impl StepTotals {
    /// Counts what forming a batch at `now` decided, and writes it to the requests.
    fn record_decisions(
        &mut self,
        preempted: impl Iterator<Item = RequestId>,
        admitted: &[Admission],
        now: SimTime,
        table: &mut RequestTable,
    ) {
        for id in preempted {
            table.preemptions[id.index()] += 1;
            self.preemptions += 1;
        }
        for admission in admitted {
            self.prefix_queried_tokens += u64::from(admission.known_tokens);
            self.prefix_hit_tokens += u64::from(admission.cached_tokens);
            if admission.is_first {
                table.first_scheduled[admission.id.index()] = now;
                table.cached_tokens[admission.id.index()] = admission.cached_tokens;
                table.record_loaded(admission.id, admission.loaded_tokens);
            }
        }
    }

    fn record_step(&mut self, shape: &StepShape, duration: SimDuration, held_blocks: u32) {
        self.steps += 1;
        self.busy += duration;
        self.batch_requests += shape.batch_requests();
        self.batch_requests_max = self.batch_requests_max.max(shape.batch_requests());
        self.computed_tokens += shape.new_tokens();
        self.block_ns += u128::from(held_blocks) * u128::from(duration.0);
        self.blocks_max = self.blocks_max.max(held_blocks);
    }
}

/// A step as it starts, for whoever watches the run.
#[derive(Debug)]
pub struct StepRecord<'a> {
    /// Which replica.
    pub replica: u32,
    /// When it starts; where several are in flight, when the one before it ends, so that none overlap.
    pub start: SimTime,
    /// How long it takes.
    pub duration: SimDuration,
    /// What it runs.
    pub batch: StepBatch<'a>,
    /// The sums over the batch.
    pub shape: StepShape,
    /// Whether the step takes this long because of this batch: not so where another data-parallel rank is slower.
    pub sets_pace: bool,
    /// Requests preempted while the batch was formed.
    pub preempted_requests: u32,
    /// Requests admitted and not finished, after scheduling.
    pub running_requests: u32,
    /// Requests waiting, after scheduling.
    pub waiting_requests: u32,
    /// Free KV blocks after scheduling.
    pub free_blocks: u32,
}

/// The batch of a step, as one of the schedulers keeps it.
#[derive(Debug, Clone, Copy)]
pub enum StepBatch<'a> {
    /// One entry per request.
    Plain(&'a ScheduledBatch),
    /// The decoding requests as one.
    Aggregated(&'a AggregatedScheduler, &'a AggregatedBatch),
}

impl StepBatch<'_> {
    /// The requests that run, in the engine's order, written out one by one: for observers that need each of them.
    pub fn requests(&self) -> Vec<ScheduledRequest> {
        match self {
            StepBatch::Plain(batch) => batch.requests.clone(),
            StepBatch::Aggregated(scheduler, batch) => scheduler.scheduled_requests(batch),
        }
    }
}

/// One engine.
pub struct Replica {
    index: u32,
    pub(crate) scheduler: Scheduler,
    cost: Arc<dyn CostModel>,
    batch: ScheduledBatch,
    /// End of the step in flight, or never.
    step_end: SimTime,
    finished: Vec<RequestId>,
    totals: StepTotals,
    delivery: Delivery,
    offload: Offload,
}

impl Replica {
    /// An idle replica.
    pub fn new(index: u32, config: SchedulerConfig, cost: Arc<dyn CostModel>) -> Replica {
        Replica {
            index,
            scheduler: Scheduler::new(config),
            cost,
            batch: ScheduledBatch::default(),
            step_end: SimTime::NEVER,
            finished: Vec::new(),
            totals: StepTotals::default(),
            delivery: Delivery::default(),
            offload: Offload::new(&config),
        }
    }

    /// Says how drafts are accepted; without it none holds.
    pub fn speculate(&mut self, draws: AcceptanceDraws) {
        self.delivery.draws = Some(draws);
    }

    /// When its step ends; never while it has none.
    pub fn step_end(&self) -> SimTime {
        self.step_end
    }

    /// When something happens next: its step ends or, without one, a transfer of its tiers does.
    pub fn next_at(&self) -> SimTime {
        if self.step_end == SimTime::NEVER { self.offload.next_end() } else { self.step_end }
    }

    /// Its scheduler, to look at.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The requests that finished with the step that ended last.
    pub fn finished(&self) -> &[RequestId] {
        &self.finished
    }

    /// Sums over its steps so far.
    pub fn totals(&self) -> StepTotals {
        StepTotals { offload: self.offload.totals(&self.scheduler), ..self.totals.clone() }
    }

    /// The gaps between tokens that it produced.
    pub fn into_gaps(self) -> DurationCounts {
        self.delivery.gaps
    }

    /// Ends the step in flight: its tokens become visible now. Gives the requests that finished.
    pub fn end_step(&mut self, now: SimTime, table: &mut RequestTable) -> &[RequestId] {
        self.step_end = SimTime::NEVER;
        self.finished.clear();
        self.offload.end_until(now, &mut self.scheduler);
        let totals = &mut self.totals.speculation;
        let finished = &mut self.finished;
        self.delivery.deliver(&mut self.scheduler, &self.batch, now, table, totals, |id| finished.push(id));
        self.offload.begin(now, &mut self.scheduler);
        &self.finished
    }

    /// Starts the next step if there is work and none is in flight: form the batch, ask its cost.
    pub fn start_step(&mut self, now: SimTime, table: &mut RequestTable) -> Option<StepRecord<'_>> {
        if self.step_end != SimTime::NEVER {
            return None;
        }
        self.offload.end_until(now, &mut self.scheduler);
        // A batch may stay empty once, when the only running request preempted itself; then it is admitted again.
        for _ in 0..2 {
            if self.scheduler.is_idle() {
                return None;
            }
            self.scheduler.form_batch(&mut self.batch);
            self.totals.record_decisions(
                self.batch.preempted.iter().copied(),
                &self.batch.admitted,
                now,
                table,
            );
            let gate = self.offload.begin(now, &mut self.scheduler);
            if !self.batch.requests.is_empty() {
                return Some(self.launch(now, gate));
            }
        }
        None
    }

    fn launch(&mut self, now: SimTime, gate: StepGate) -> StepRecord<'_> {
        let shape = StepShape { epoch: self.cost.epoch(now).0, ..self.batch.shape() };
        let start = now + self.cost.host(&shape);
        self.step_end = self.offload.step_end(gate, start, self.cost.step(&shape));
        let duration = self.step_end - now;
        let held_blocks = self.scheduler.used_blocks();
        self.totals.record_step(&shape, duration, held_blocks);
        let (waiting, running) = (self.scheduler.waiting_requests(), self.scheduler.running_requests());
        self.totals.samples.offer(&shape, waiting, running);
        self.totals.ahead_block_ns += u128::from(self.scheduler.blocks_ahead()) * u128::from(duration.0);
        StepRecord {
            replica: self.index,
            start: now,
            duration,
            batch: StepBatch::Plain(&self.batch),
            shape,
            sets_pace: true,
            preempted_requests: self.batch.preempted.len() as u32,
            running_requests: self.scheduler.running_requests() as u32,
            waiting_requests: self.scheduler.waiting_requests() as u32,
            free_blocks: self.scheduler.free_blocks(),
        }
    }
}
