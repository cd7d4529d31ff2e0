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
    /// [`super::profiled::Residual::matrix_slowdown`].
    pub matrix_slowdown: f64,
}

impl Pricer {
    /// Time of the call with these sums, in seconds.
    pub fn seconds(&self, sums: Sums) -> f64 {
        let Ok(operation) = call(&self.work, &self.context, sums) else { return 0.0 };
        let estimate = estimate_by(&self.profile, self.fit.as_ref(), &operation);
        estimate.map_or(0.0, |estimate| {
            serving_seconds(&self.profile, self.matrix_slowdown, &operation, estimate.seconds)
        })
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

/// Time of a call in an engine that serves, of which kernels timed alone take `seconds`: products take longer by
/// `matrix_slowdown` times what they take at the data sheet's rate; decode attention reads, and keeps its time.
pub(super) fn serving_seconds(
    profile: &CostProfile,
    matrix_slowdown: f64,
    operation: &Operation,
    seconds: f64,
) -> f64 {
    match operation {
        Operation::Collective { .. }
        | Operation::ExpertExchange { .. }
        | Operation::Elementwise { .. }
        | Operation::AttentionDecode { .. }
        | Operation::MlaDecode { .. }
        | Operation::MlaModuleDecode { .. } => seconds,
        operation if matrix_slowdown > 0.0 => {
            seconds + matrix_slowdown * operation.work(&profile.gpu).compute_seconds
        }
        _ => seconds,
    }
}
