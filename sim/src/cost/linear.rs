//! A step time that is linear in its tokens, in whole nanoseconds: for tests, and for users who have fitted their own.

use super::CostModel;
use crate::step::StepShape;
use crate::units::SimDuration;

/// `base + per_token * new tokens + per_context_token * context tokens`, in ns, the context counted after the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearCost {
    /// Time of every step.
    pub base_ns: u64,
    /// Time per token computed.
    pub per_token_ns: u64,
    /// Time per token of context.
    pub per_context_token_ns: u64,
}

impl CostModel for LinearCost {
    fn step(&self, shape: &StepShape) -> SimDuration {
        let tokens_ns = self.per_token_ns.saturating_mul(shape.new_tokens());
        let context_ns = self.per_context_token_ns.saturating_mul(shape.context_tokens());
        SimDuration(self.base_ns.saturating_add(tokens_ns).saturating_add(context_ns).max(1))
    }
}
