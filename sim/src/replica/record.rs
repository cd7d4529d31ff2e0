//! What a replica says of its steps: of each as it starts, and sums over all.

use super::StepSamples;
use crate::offload::OffloadTotals;
use crate::request::{RequestId, RequestTable};
use crate::scheduler::aggregated::{AggregatedBatch, AggregatedScheduler};
use crate::speculation::SpeculationTotals;
use crate::step::{Admission, ScheduledBatch, ScheduledRequest, StepShape};
use crate::units::{SimDuration, SimTime};

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
    pub(super) fn record_decisions(
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

    pub(super) fn record_step(&mut self, shape: &StepShape, duration: SimDuration, held_blocks: u32) {
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
