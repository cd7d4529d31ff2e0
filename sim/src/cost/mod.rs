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
mod profiled;
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
pub use usage::{Bound, PhaseUsage, StepKind, UsagePart, UsageReport};

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

    /// Time of the engine on the CPU for the same step.
    fn host(&self, _shape: &StepShape) -> SimDuration {
        SimDuration::ZERO
    }

    /// Durations of consecutive steps of decoding requests alone, of which `first` is the first and each later one has
    /// one more token of context per request: each is given to `each`, until that says no. Equal to asking
    /// [`CostModel::step`] and [`CostModel::host`] for each; a model may share among them what their contexts do not change.
    fn decode_run(&self, first: &StepShape, each: &mut dyn FnMut(SimDuration) -> bool) {
        let mut shape = *first;
        while each(self.step(&shape) + self.host(&shape)) {
            shape.decode_context_tokens += shape.decode_requests;
        }
    }
}
