//! What a step's time is made of: its calls, their fits, and what they rest on.

use super::{ProfiledCost, rows_of, serving_seconds};
use crate::cost::calls::Sums;
use crate::cost::operators::{Operator, Rows, Work};
use crate::cost::pricer::estimate_by;
use crate::error::Result;
use crate::model::KvDtype;
use crate::profile::{Estimate, KernelFit, Operation, Provenance};
use crate::step::StepShape;

/// What a fit of this GPU's own measurements is said to rest on.
const MEASURED_HERE: &str = "measured here";

impl ProfiledCost {
    /// The calls of the profile's kernels that make up a step, each with its operator, which says how often it runs;
    /// calls of nothing are left out.
    pub fn calls(&self, shape: &StepShape) -> Result<Vec<(&Operator, Operation)>> {
        let calls = self.numbered_calls(shape)?;
        Ok(calls.into_iter().map(|(number, _, operation)| (&self.operators[number], operation)).collect())
    }

    /// The same, each with the number of its operator, and with its rows where the call depends on nothing else of the step.
    pub(in crate::cost) fn numbered_calls(
        &self,
        shape: &StepShape,
    ) -> Result<Vec<(usize, Option<f64>, Operation)>> {
        let padded = self.padded(shape);
        let mut calls = Vec::with_capacity(self.operators.len());
        for (number, operator) in self.operators.iter().enumerate() {
            let sums = match operator.work {
                Work::PrefillAttention(kernel) => Sums::prefill(shape, kernel.window_tokens),
                Work::DecodeAttention(kernel) => Sums::decode(shape, kernel.window_tokens),
                work => Sums::rows(match rows_of(&work) {
                    Rows::Tokens => padded.tokens,
                    Rows::Sampled => shape.sampled_positions(),
                    Rows::PrefillTokens => shape.prefill_tokens,
                    Rows::DecodeRequests => shape.decode_tokens(),
                    Rows::GroupTokens => padded.group,
                    Rows::LargestRank => padded.largest,
                    Rows::Once => 1,
                } as f64),
            };
            if sums.rows > 0.0 {
                let is_attention =
                    matches!(operator.work, Work::PrefillAttention(_) | Work::DecodeAttention(_));
                let rows = (!is_attention).then_some(sums.rows);
                calls.push((number, rows, self.call(&operator.work, sums)?));
            }
        }
        Ok(calls)
    }

    /// The model's operators.
    pub(in crate::cost) fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// What the times of this model's operators rest on, in a line. Where some were measured here and others not, all but
    /// the larger part are named.
    pub fn basis(&self) -> String {
        let mut kinds: Vec<(String, Vec<&str>)> = Vec::new();
        for operator in &self.operators {
            let Ok(smallest) = self.call(&operator.work, Sums::rows(1.0)) else { continue };
            let Ok(fit) = self.profile.fit(&smallest) else { continue };
            let kind = match &fit.provenance {
                Provenance::Measured => MEASURED_HERE.to_string(),
                Provenance::Imported(source) => {
                    format!("imported from {}", source.split([':', '(']).next().unwrap_or(source).trim())
                }
                Provenance::Datasheet => "from the data sheet".to_string(),
                Provenance::Assumed(reason) => format!("assumed ({reason})"),
            };
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, names)) if names.contains(&operator.name) => {}
                Some((_, names)) => names.push(operator.name),
                None => kinds.push((kind, vec![operator.name])),
            }
        }
        let is_own = kinds.iter().any(|(kind, _)| kind == MEASURED_HERE);
        let most = kinds.iter().map(|(_, names)| names.len()).max().unwrap_or(0);
        let texts: Vec<String> = kinds
            .into_iter()
            .map(|(kind, names)| match is_own && names.len() < most {
                true => format!("{kind} for {}", names.join(", ")),
                false => kind,
            })
            .collect();
        let separator = if is_own { "; " } else { ", " };
        let stand_in = match self.context.kv {
            KvDtype::Fp8DsMla | KvDtype::Fp8PerTokenHead => {
                format!(", attention over fp8 standing in for {}", self.context.kv.name())
            }
            _ => String::new(),
        };
        format!("profile {}, kernels {}{stand_in}", self.profile.name, texts.join(separator))
    }

    /// The same for each operator.
    pub(in crate::cost) fn fits(&self) -> Vec<Option<&KernelFit>> {
        self.operators.iter().map(|operator| self.fit_of(&operator.work)).collect()
    }

    /// Time of a call by the fit of its operator, where that is known.
    pub(in crate::cost) fn estimate_by(
        &self,
        fit: Option<&KernelFit>,
        operation: &Operation,
    ) -> Result<Estimate> {
        estimate_by(&self.profile, fit, operation)
    }

    /// Time of a call in an engine that serves, of which kernels timed alone take `seconds`, before what all calls of a
    /// step are scaled by.
    pub(in crate::cost) fn serving_seconds(&self, operation: &Operation, seconds: f64) -> f64 {
        serving_seconds(&self.profile, self.residual.matrix_slowdown, operation, seconds)
    }
}
