//! Runs of steps in which the same requests decode and nothing else happens, in both loops that step all decoding
//! requests as one: what each such step adds to the sums.

use super::StepTotals;
use super::largest_gaps::LargestGaps;
use crate::durations::DurationCounts;
use crate::step::StepShape;
use crate::units::{SimDuration, SimTime};

/// Steps that are priced before it is known how long they take.
pub(super) const FIRST_WANTED: usize = 8;

/// Adds up such steps.
pub(super) struct DecodeRun<'a> {
    /// The step that starts next.
    shape: StepShape,
    held_blocks: u32,
    running_requests: usize,
    totals: &'a mut StepTotals,
    gaps: &'a mut DurationCounts,
    largest_gap_ns: u64,
    started_steps: u64,
    ended_steps: u64,
}

impl<'a> DecodeRun<'a> {
    /// A run whose first step is `first`, with nobody waiting; so many blocks are held before it.
    pub fn new(
        first: StepShape,
        held_blocks: u32,
        running_requests: usize,
        totals: &'a mut StepTotals,
        gaps: &'a mut DurationCounts,
    ) -> DecodeRun<'a> {
        DecodeRun {
            shape: first,
            held_blocks,
            running_requests,
            totals,
            gaps,
            largest_gap_ns: 0,
            started_steps: 0,
            ended_steps: 0,
        }
    }

    /// Records the next step as it starts, with so many blocks more than the one before.
    #[inline]
    pub fn start(&mut self, duration: SimDuration, new_blocks: u32) {
        self.held_blocks += new_blocks;
        self.started_steps += 1;
        self.totals.busy += duration;
        self.totals.block_ns += u128::from(self.held_blocks) * u128::from(duration.0);
        self.totals.samples.offer(&self.shape, 0, self.running_requests);
        self.shape.decode_context_tokens += self.shape.decode_requests;
    }

    /// Records the gap between tokens that the end of a step brings to each request.
    #[inline]
    pub fn end(&mut self, gap: SimDuration) {
        self.gaps.add_many(gap.0, self.shape.decode_requests);
        self.largest_gap_ns = self.largest_gap_ns.max(gap.0);
        self.ended_steps += 1;
    }

    /// Adds what its steps have in common; gives the shape of the step after the last. `first_step` is the number of the
    /// first that ended, and `oldest` as in [`LargestGaps::push`]: one entry does for all, for no request began to decode
    /// between them.
    pub fn finish(self, first_step: u64, oldest: u64, largest_gaps: &mut LargestGaps) -> StepShape {
        let (totals, started) = (self.totals, self.started_steps);
        if started > 0 {
            totals.steps += started;
            totals.batch_requests += started * self.shape.batch_requests();
            totals.batch_requests_max = totals.batch_requests_max.max(self.shape.batch_requests());
            totals.computed_tokens += started * self.shape.new_tokens();
            totals.blocks_max = totals.blocks_max.max(self.held_blocks);
        }
        if self.ended_steps > 0 {
            largest_gaps.push(first_step + self.ended_steps - 1, self.largest_gap_ns, oldest);
        }
        self.shape
    }
}

/// How many steps to price next, when one took `duration` and none that starts at `horizon` or later is wanted.
pub(super) fn steps_until(horizon: SimTime, now: SimTime, duration: SimDuration) -> usize {
    let left_ns = horizon.0.saturating_sub(now.0);
    usize::try_from(left_ns / duration.0.max(1)).unwrap_or(usize::MAX).saturating_add(1)
}
