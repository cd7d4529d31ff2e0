//! A step time that is linear in the sums of its batch, in whole nanoseconds: for tests, and for users who have fitted their
//! own.

use super::CostModel;
use crate::step::StepShape;
use crate::units::SimDuration;

/// `max(floor, base + per_token x new tokens + per_context_token x context tokens + per_request x requests)`, in ns, the
/// context counted after the step. A floor above the base is what a batch of few tokens waits for: the weights are read
/// whole however few there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearCost {
    /// Time of every step.
    pub base_ns: u64,
    /// Time per token computed.
    pub per_token_ns: u64,
    /// Time per token of context.
    pub per_context_token_ns: u64,
    /// Time per request in the batch.
    pub per_request_ns: u64,
    /// Time that a step takes at least.
    pub floor_ns: u64,
}

impl LinearCost {
    /// No time at all, to start from.
    pub const NONE: LinearCost =
        LinearCost { base_ns: 0, per_token_ns: 0, per_context_token_ns: 0, per_request_ns: 0, floor_ns: 0 };
}

impl CostModel for LinearCost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        let terms = [
            (self.per_token_ns, shape.new_tokens()),
            (self.per_context_token_ns, shape.context_tokens()),
            (self.per_request_ns, shape.batch_requests()),
        ];
        let ns = terms
            .iter()
            .fold(self.base_ns, |sum, (each, count)| sum.saturating_add(each.saturating_mul(*count)));
        SimDuration(ns.max(self.floor_ns).max(1))
    }
}
