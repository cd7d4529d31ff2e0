//! The engine's own time on the CPU per step: scheduling, preparing inputs, handling outputs.

use crate::step::StepShape;
use crate::units::SimDuration;

/// `base + per_request x requests in the batch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostTime {
    /// Time of every step.
    pub base_ns: u64,
    /// Time per request in the batch.
    pub per_request_ns: u64,
}

impl HostTime {
    /// No host time.
    pub const NONE: HostTime = HostTime { base_ns: 0, per_request_ns: 0 };

    /// vLLM V1: 1.2 ms and 10 us per request. Assumed: the middle of published observations (1.0 to 1.5 ms, 8 to 12 us);
    /// they differ twofold between CPUs.
    pub const VLLM_V1: HostTime = HostTime { base_ns: 1_200_000, per_request_ns: 10_000 };

    /// SGLang: 0.8 ms and 10 us per request. Assumed: the middle of published observations (0.6 to 1 ms per step); the
    /// time per request is taken from vLLM, of which SGLang's batch preparation is alike.
    pub const SGLANG: HostTime = HostTime { base_ns: 800_000, per_request_ns: 10_000 };

    /// Host time of a step.
    pub fn of(&self, shape: &StepShape) -> SimDuration {
        let requests = shape.decode_requests + shape.prefill_requests;
        SimDuration(self.base_ns + self.per_request_ns.saturating_mul(requests))
    }
}
