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

    /// Durations of consecutive steps of decoding requests alone, of which `first` is the first and each later one has
    /// one more token of context per request: each is given to `each`, until that says no. Equal to asking
    /// [`CostModel::step`] for each; a model may share among them what their contexts do not change.
    fn decode_run(&self, first: &StepShape, each: &mut dyn FnMut(SimDuration) -> bool) {
        let mut shape = *first;
        while each(self.step(&shape)) {
            shape.decode_context_tokens += shape.decode_requests;
        }
    }
}
