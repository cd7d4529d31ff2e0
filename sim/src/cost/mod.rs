//! What a step costs. The scheduler never learns what a GPU is: it is told durations.

mod datasheet;
mod linear;
pub mod operators;

pub use datasheet::{DatasheetCost, experts_touched};
pub use linear::LinearCost;

use crate::step::StepShape;
use crate::units::SimDuration;

/// Gives the duration of a step from the sums of its batch. Pure: equal shapes take equal times.
pub trait CostModel: Send + Sync {
    /// Duration of one step; at least 1 ns.
    fn step(&self, shape: &StepShape) -> SimDuration;
}
