//! What one operator of a model costs by a profile: its calls, and the fit that prices them.

use super::calls::{Context, Sums, call};
use super::operators::Work;
use crate::error::Result;
use crate::profile::{CostProfile, Estimate, Family, KernelFit, Operation};
use std::sync::Arc;

/// Prices the calls of one operator, whose smallest has been tried.
pub(super) struct Pricer {
    pub work: Work,
    pub fit: Option<KernelFit>,
    pub profile: Arc<CostProfile>,
    pub context: Context,
}

impl Pricer {
    /// Time of the call with these sums, in seconds.
    pub fn seconds(&self, sums: Sums) -> f64 {
        let operation = call(&self.work, &self.context, sums);
        let estimate = operation.and_then(|call| estimate_by(&self.profile, self.fit.as_ref(), &call));
        estimate.map_or(0.0, |estimate| estimate.seconds)
    }
}

/// Time of a call by the fit of its operator, where that is known. The engine takes the faster of its own all-reduce and
/// NCCL.
pub(super) fn estimate_by(
    profile: &CostProfile,
    fit: Option<&KernelFit>,
    operation: &Operation,
) -> Result<Estimate> {
    match (fit, operation) {
        (Some(fit), _) => profile.evaluate_by(fit, operation),
        (None, Operation::Collective { family: Family::AllReduce, bytes, ranks, .. }) => {
            profile.all_reduce(*bytes, *ranks)
        }
        (None, operation) => profile.evaluate(operation),
    }
}
