//! What a step costs. The scheduler never learns what a GPU is: it is told durations.

mod band;
mod datasheet;
mod graphs;
mod host;
mod linear;
pub mod operators;
mod profiled;
mod scaled;
mod usage;

pub use band::{ASSUMED_ERROR, error_of_sum};
pub use datasheet::{DatasheetCost, experts_touched};
pub use graphs::CudaGraphs;
pub use host::HostTime;
pub use linear::LinearCost;
pub use profiled::{Context, ProfiledCost};
pub use scaled::ScaledCost;
pub use usage::{Bound, Pressure, SAMPLE_EVERY, Usage, UsageReport};

use crate::step::StepShape;
use crate::units::SimDuration;

/// Gives the duration of a step from the sums of its batch. Pure: equal shapes take equal times.
pub trait CostModel: Send + Sync {
    /// Time of one step on the GPU; at least 1 ns.
    fn step(&self, shape: &StepShape) -> SimDuration;

    /// Time of the engine on the CPU for the same step.
    fn host(&self, _shape: &StepShape) -> SimDuration {
        SimDuration::ZERO
    }
}
