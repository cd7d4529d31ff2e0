//! What a step costs. The scheduler never learns what a GPU is: it is told durations.

mod band;
mod calls;
mod datasheet;
pub mod drafting;
mod drift;
mod expert_load;
mod graphs;
mod host;
mod layout;
mod linear;
pub mod operators;
mod pipeline;
mod pricer;
mod profiled;
#[cfg(test)]
mod profiled_tests;
mod scaled;
mod usage;

pub use band::{ASSUMED_ERROR, error_of_sum};
pub use calls::Context;
pub use datasheet::{DatasheetCost, experts_touched};
pub use drafting::{DraftSchedule, SpeculativeCost};
pub use drift::{DriftingCost, ExpertDrift};
pub use expert_load::{ExpertGroup, ExpertLoad, Placement, Popularity};
pub use graphs::CudaGraphs;
pub use host::HostTime;
pub use linear::LinearCost;
pub use pipeline::PipelineCost;
pub use profiled::{ProfiledCost, Residual};
pub use scaled::ScaledCost;
pub use usage::{Bound, PhaseUsage, StepKind, UsagePart, UsageReport, slower_experts};

use crate::step::StepShape;
use crate::units::{SimDuration, SimTime};

/// Gives the duration of a step from the sums of its batch. Pure: equal shapes take equal times.
pub trait CostModel: Send + Sync {
    /// Time of one step on the GPU; at least 1 ns.
    fn step(&self, shape: &StepShape) -> SimDuration;

    /// In which epoch a step that starts `now` falls, and when the next one begins. What a step costs may differ by
    /// epoch ([`StepShape::epoch`]), and by nothing else of the time.
    fn epoch(&self, _now: SimTime) -> (u32, SimTime) {
        (0, SimTime::NEVER)
    }

    /// Pipeline stages that a step passes through.
    fn stages(&self) -> usize {
        1
    }

    /// Time of one stage of a step on its GPUs; the stages add up to [`CostModel::step`].
    fn stage(&self, _stage: usize, shape: &StepShape) -> SimDuration {
        self.step(shape)
    }

    /// Time to hand a step's activations from one stage to the next.
    fn send(&self, _shape: &StepShape) -> SimDuration {
        SimDuration::ZERO
    }

    /// Time of the engine on the CPU for the same step. Without drafts it does not depend on contexts.
    fn host(&self, _shape: &StepShape) -> SimDuration {
        SimDuration::ZERO
    }

    /// Times on the GPU of consecutive steps of decoding requests alone, without drafts, of which `first` is the first and
    /// each later one has one more token of context per request: the next `wanted` of them, or some of those, are given
    /// to `each`, which says how many more it wants; none ends the run. Equal to asking [`CostModel::step`] for each; a
    /// model may share among them what their contexts do not change.
    fn decode_run(&self, first: &StepShape, wanted: usize, each: &mut dyn FnMut(&[SimDuration]) -> usize) {
        let mut shape = *first;
        price_run(first, wanted, each, |context_tokens, times| {
            shape.decode_context_tokens = context_tokens;
            for time in times {
                *time = self.step(&shape);
                shape.decode_context_tokens += shape.decode_requests;
            }
        });
    }
}

/// Steps of a run that are priced at once.
const PRICED_AT_ONCE: usize = 32;

/// Prices a run of decode steps some at a time: `price` is given the sum of the contexts in the first of them.
#[inline]
fn price_run(
    first: &StepShape,
    mut wanted: usize,
    each: &mut dyn FnMut(&[SimDuration]) -> usize,
    mut price: impl FnMut(u64, &mut [SimDuration]),
) {
    let mut times = [SimDuration::ZERO; PRICED_AT_ONCE];
    let mut context_tokens = first.decode_context_tokens;
    while wanted > 0 {
        let times = &mut times[..wanted.min(PRICED_AT_ONCE)];
        price(context_tokens, times);
        context_tokens += first.decode_requests * times.len() as u64;
        wanted = each(times);
    }
}
