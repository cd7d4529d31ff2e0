//! Cost profiles: fitted times of GPU kernels, with where every figure comes from, the range that was measured, and
//! the error on points that the fit never saw.
//!
//! A profile is a YAML file made by the `calibrate` crate. [`CostProfile::evaluate`] prices one kernel call from its
//! shape; a [`Curve`] or a [`Surface`] keeps an operator's times in a table, so that a step costs a few look-ups. docs/cost-model.md describes the forms.

mod check;
mod curve;
mod derive;
mod evaluate;
mod file;
mod form;
mod gpu;
mod lists;
pub(crate) mod memo;
mod names;
mod operation;
mod sample;
mod table;
mod work;
mod write;

pub use curve::{Curve, Surface, SurfaceRow};
pub use evaluate::PrefillCost;
pub use form::{ClosedForm, Estimate, HeldOutError, KernelFit, Provenance, log_features};
pub use gpu::GpuLimits;
pub use names::{Dtype, Exchange, Family, Route, Routing};
pub use operation::{Experts, Features, Heads, MAX_FEATURES, Operation};
pub use sample::sample_operations;
pub use table::{Axis, Corners, MAX_AXES, ResidualTable};
pub use work::Work;

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Version of the file layout that this code reads and writes.
pub const PROFILE_VERSION: u32 = 1;

/// Fitted kernel times of one GPU under one engine.
#[derive(Debug, Clone, PartialEq)]
pub struct CostProfile {
    /// Short name, for example `h200-sxm-vllm`.
    pub name: String,
    /// The GPU and its limits.
    pub gpu: GpuLimits,
    /// Engine and library versions that the figures belong to.
    pub software: String,
    /// Sources and licences of the figures.
    pub attribution: String,
    /// Whether its kernels were timed on another GPU ([`CostProfile::scaled_to`]).
    pub is_scaled: bool,
    /// The variants of each family, sorted by variant.
    pub families: BTreeMap<Family, Vec<KernelFit>>,
}

impl CostProfile {
    /// The fit that prices `operation`. A windowed attention without its own fit falls back to full attention (its
    /// pairs and contexts already count the window). The error names the variants that the profile has.
    pub fn fit(&self, operation: &Operation) -> Result<&KernelFit> {
        let family = operation.family();
        let fits = self.families.get(&family).map_or(&[][..], Vec::as_slice);
        let named = |variant: &str| fits.iter().find(|fit| fit.variant == variant);
        let wanted = operation.variant();
        if let Some(fit) = named(&wanted) {
            return Ok(fit);
        }
        if let Some(fit) = operation.without_window().and_then(|full| named(&full.variant())) {
            return Ok(fit);
        }
        let known: Vec<&str> = fits.iter().map(|fit| fit.variant.as_str()).collect();
        Err(Error::new(format!(
            "the profile `{}` has no {} kernel `{wanted}`; it has: {}",
            self.name,
            family.name(),
            if known.is_empty() { "none".to_string() } else { known.join("; ") }
        )))
    }

    /// Predicted time of one kernel call.
    ///
    /// # Errors
    /// When the profile has no fit for the variant, or a figure of the call is not positive and finite.
    pub fn evaluate(&self, operation: &Operation) -> Result<Estimate> {
        self.fit(operation).map_or_else(Err, |fit| self.evaluate_by(fit, operation))
    }

    /// The same by the fit that prices the operation ([`CostProfile::fit`]), found before.
    pub fn evaluate_by(&self, fit: &KernelFit, operation: &Operation) -> Result<Estimate> {
        if operation.features().values().iter().any(|value| !(*value > 0.0 && value.is_finite())) {
            return Err(Error::new(format!(
                "a {} call needs positive sizes, found {operation:?}",
                operation.family().name()
            )));
        }
        Ok(fit.evaluate(operation, &self.gpu))
    }
}

#[cfg(test)]
mod tests;
