//! Errors of groups of runs.

use super::deployment::Case;
use super::predict::Prediction;
use super::runs::{Metric, Statistic};

/// The cost models that are compared.
pub const MODELS: [&str; 4] = ["profile", "profile with residual", "datasheet", "constant efficiency"];

/// A run under every cost model.
pub struct Outcome {
    /// The run.
    pub case: Case,
    /// Its predictions, in the order of [`MODELS`]; none where a simulation failed.
    pub predictions: [Option<Prediction>; 4],
}

impl Outcome {
    /// Signed error of a metric's headline figure under a cost model.
    pub fn error(&self, model: usize, metric: Metric) -> Option<f64> {
        let (statistic, measured) = self.case.run.headline(metric)?;
        self.error_of(model, statistic, measured)
    }

    /// The same of one figure.
    pub fn error_of(&self, model: usize, statistic: Statistic, measured: f64) -> Option<f64> {
        self.predictions.get(model)?.as_ref()?.error(statistic, measured)
    }
}

/// Errors of some runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Errors {
    /// Runs that have the figure.
    pub runs: usize,
    /// Median of the absolute errors.
    pub median: f64,
    /// Median of the signed errors.
    pub bias: f64,
    /// 90th percentile of the absolute errors.
    pub p90: f64,
}

/// Errors of `errors`; none when there are none.
pub fn errors(errors: impl Iterator<Item = f64>) -> Option<Errors> {
    let mut signed: Vec<f64> = errors.collect();
    let mut absolute: Vec<f64> = signed.iter().map(|error| error.abs()).collect();
    signed.sort_by(f64::total_cmp);
    absolute.sort_by(f64::total_cmp);
    Some(Errors {
        runs: signed.len(),
        median: middle(&absolute, 0.5)?,
        bias: middle(&signed, 0.5)?,
        p90: middle(&absolute, 0.9)?,
    })
}

/// A percentile of sorted values, between neighbours.
fn middle(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (*sorted.get(at.floor() as usize)?, *sorted.get(at.ceil() as usize)?);
    Some(below + (above - below) * at.fract())
}

/// `12.3 (+4.5), 17 runs`, or `-`.
pub fn cell(errors: Option<Errors>) -> String {
    match errors {
        None => "-".to_string(),
        Some(Errors { runs, median, bias, .. }) => {
            format!("{:.1} ({:+.1}), {runs}", 100.0 * median, 100.0 * bias)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_medians_of_absolute_and_signed_values() {
        let found = errors([-0.1, 0.2, 0.3, -0.5].into_iter()).unwrap();
        assert!((found.median - 0.25).abs() < 1e-12 && (found.bias - 0.05).abs() < 1e-12);
        assert_eq!(found.runs, 4);
        assert_eq!(errors(std::iter::empty()), None);
        assert_eq!(cell(None), "-");
    }
}
