//! Pricing by kernel beyond [`CostProfile::evaluate`]: the engine's choice between two, and prefill attention, whose sums
//! are too many for one table.

use super::{ClosedForm, CostProfile, Dtype, Estimate, Family, GpuLimits, Operation, Route, Surface, work};
use crate::error::{Error, Result};

/// Doublings of the grid of the corrections: tokens up to 131,072, lengths up to 2,097,152.
const TOKEN_OCTAVES: usize = 17;
const LENGTH_OCTAVES: usize = 21;

impl CostProfile {
    /// Dense matrix product of `m` tokens with an `n x k` weight.
    pub fn gemm(&self, m: f64, n: u32, k: u32, dtype: Dtype) -> Result<Estimate> {
        self.evaluate(&Operation::Gemm { m, n, k, dtype })
    }

    /// All-reduce of a vector of `bytes` over `ranks` of one node by the faster of the engine's own kernel and NCCL, as the
    /// engine chooses. One rank costs nothing.
    pub fn all_reduce(&self, bytes: f64, ranks: u32) -> Result<Estimate> {
        if ranks <= 1 {
            return Ok(Estimate { seconds: 0.0, octaves_outside: 0.0 });
        }
        let by =
            |route| self.evaluate(&Operation::Collective { family: Family::AllReduce, bytes, ranks, route });
        let nccl = by(Route::Nccl)?;
        match by(Route::Custom) {
            Ok(custom) if custom.seconds < nccl.seconds => Ok(custom),
            _ => Ok(nccl),
        }
    }

    /// Any of the three prefill attentions with its corrections tabulated; the sums in `template` do not count.
    ///
    /// # Errors
    /// When `template` is another operation, or the profile has no fit for it.
    pub fn prefill(&self, template: Operation) -> Result<PrefillCost> {
        // A causal call without context whose last query visits `longest` keys.
        let at = move |tokens: f64, longest: f64| {
            with_sums(&template, tokens, tokens * (longest + 1.0) / 2.0, tokens / longest)
        };
        let Some(first) = at(1.0, 1.0) else {
            return Err(Error::new(format!("{} is no prefill attention", template.family().name())));
        };
        self.evaluate(&first)?;
        let fit = self.fit(&first)?.clone();
        let form = fit.form;
        let correction = Surface::new(TOKEN_OCTAVES, LENGTH_OCTAVES, move |tokens, longest| {
            at(tokens, longest).map_or(1.0, |operation| fit.correction(&operation))
        });
        Ok(PrefillCost { template, form, gpu: self.gpu.clone(), correction })
    }
}

/// Prefill attention of one operator: the closed form is evaluated, its corrections are read from a table.
#[derive(Debug, Clone)]
pub struct PrefillCost {
    template: Operation,
    form: ClosedForm,
    gpu: GpuLimits,
    correction: Surface,
}

impl PrefillCost {
    /// Time of `tokens` query tokens of `chunks` sequences with `pairs` unmasked query-key pairs, seconds. No tokens
    /// take no time.
    pub fn seconds(&self, tokens: f64, pairs: f64, chunks: f64) -> f64 {
        let Some(operation) = with_sums(&self.template, tokens, pairs, chunks) else {
            return 0.0;
        };
        if tokens <= 0.0 {
            return 0.0;
        }
        let window = match operation {
            Operation::AttentionPrefill { heads, .. } => heads.window,
            _ => 0,
        };
        let work = operation.work(&self.gpu);
        let longest = work::longest_loop(tokens, pairs, chunks, window);
        (self.form.seconds(&work) * self.correction.at(tokens, longest)).max(work.light_seconds)
    }
}

/// The prefill attention with other sums; nothing for another operation.
fn with_sums(template: &Operation, tokens: f64, pairs: f64, chunks: f64) -> Option<Operation> {
    Some(match *template {
        Operation::AttentionPrefill { heads, compute, cache, .. } => {
            Operation::AttentionPrefill { tokens, pairs, chunks, heads, compute, cache }
        }
        Operation::MlaPrefill { heads, cache, .. } => {
            Operation::MlaPrefill { tokens, pairs, chunks, heads, cache }
        }
        Operation::MlaModulePrefill { heads, cache, dtype, .. } => {
            Operation::MlaModulePrefill { tokens, pairs, chunks, heads, cache, dtype }
        }
        _ => return None,
    })
}
