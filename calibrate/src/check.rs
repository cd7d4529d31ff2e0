//! Held-out errors: of a fit, of the baselines, by variant and by family.

use crate::baseline::{interpolation, roofline};
use crate::fit::fit_variant;
use crate::holdout::{HoldOut, shape_key};
use crate::measurement::{Measurement, MeasurementTable};
use sim::profile::{CostProfile, Family, GpuLimits, HeldOutError, KernelFit, Provenance};
use sim::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Rows of one variant.
pub type Variants<'a> = BTreeMap<(Family, String), Vec<&'a Measurement>>;

/// The rows by family and variant.
pub fn by_variant(table: &MeasurementTable) -> Variants<'_> {
    let mut variants = Variants::new();
    for row in &table.rows {
        variants.entry((row.operation.family(), row.operation.variant())).or_default().push(row);
    }
    variants
}

/// Measured and predicted times of one variant's held-out points.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantCheck {
    /// Family.
    pub family: Family,
    /// Variant.
    pub variant: String,
    /// What was held out together.
    pub hold_out: HoldOut,
    /// Training points.
    pub training: usize,
    /// Shape of each held-out point.
    pub shapes: Vec<String>,
    /// Measured, seconds.
    pub measured: Vec<f64>,
    /// By the fit, seconds.
    pub fitted: Vec<f64>,
    /// By the roofline with one efficiency, seconds.
    pub roofline: Vec<f64>,
    /// By interpolation, seconds.
    pub interpolated: Vec<f64>,
}

impl VariantCheck {
    /// Error of the fit, when anything was held out.
    pub fn error(&self) -> Option<HeldOutError> {
        let shapes: BTreeSet<&String> = self.shapes.iter().collect();
        summarize(&self.measured, &self.fitted, shapes.len())
    }
}

/// Median and 90th percentile of the absolute error and the median signed error; nothing without points.
pub fn summarize(measured: &[f64], predicted: &[f64], shapes: usize) -> Option<HeldOutError> {
    if measured.is_empty() {
        return None;
    }
    let signed: Vec<f64> = predicted.iter().zip(measured).map(|(p, m)| p / m - 1.0).collect();
    let absolute: Vec<f64> = signed.iter().map(|error| error.abs()).collect();
    Some(HeldOutError {
        points: measured.len() as u32,
        shapes: shapes as u32,
        median: quantile(absolute.clone(), 0.5),
        p90: quantile(absolute, 0.9),
        bias: quantile(signed, 0.5),
    })
}

/// The value below which a share of `values` lies (nearest rank); `values` must not be empty.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

/// Fits a variant to the rows that `hold_out` leaves and checks it on the rest. A variant with too few shapes to hold
/// any out is checked on held-out points instead. `provenance` goes into the fit.
pub fn fit_and_check(
    family: Family,
    variant: &str,
    rows: &[&Measurement],
    gpu: &GpuLimits,
    hold_out: HoldOut,
    provenance: Provenance,
) -> Result<(KernelFit, VariantCheck)> {
    let split = |hold_out: HoldOut| -> (Vec<&Measurement>, Vec<&Measurement>) {
        rows.iter().copied().partition(|row| hold_out.holds(row))
    };
    let (mut held_out, mut training) = split(hold_out);
    let mut used = hold_out;
    if held_out.is_empty() || training.is_empty() {
        used = HoldOut::Points;
        (held_out, training) = split(used);
    }
    if training.is_empty() {
        let message = format!("{} `{variant}` has {} rows, too few to fit", family.name(), rows.len());
        return Err(Error::new(message));
    }
    let mut fit = fit_variant(family, variant, &training, gpu, provenance);
    let check = VariantCheck {
        family,
        variant: variant.to_string(),
        hold_out: used,
        training: training.len(),
        shapes: held_out.iter().map(|row| shape_key(&row.operation)).collect(),
        measured: held_out.iter().map(|row| row.seconds).collect(),
        fitted: held_out.iter().map(|row| fit.evaluate(&row.operation, gpu).seconds).collect(),
        roofline: roofline(&training, &held_out, gpu),
        interpolated: interpolation(&training, &held_out, gpu),
    };
    fit.held_out = check.error();
    Ok((fit, check))
}

/// Checks a finished profile on the rows of `table` that were held out of its fit.
///
/// # Errors
/// When the profile has no fit for a variant of the table.
pub fn check_profile(profile: &CostProfile, table: &MeasurementTable) -> Result<Vec<(Family, HeldOutError)>> {
    let mut by_family: BTreeMap<Family, (BTreeSet<String>, Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for ((family, variant), rows) in by_variant(table) {
        let mut held_out: Vec<&&Measurement> =
            rows.iter().filter(|row| HoldOut::WholeShapes.holds(row)).collect();
        if held_out.is_empty() || held_out.len() == rows.len() {
            held_out = rows.iter().filter(|row| HoldOut::Points.holds(row)).collect();
        }
        let entry = by_family.entry(family).or_default();
        for row in held_out {
            entry.0.insert(format!("{variant}: {}", shape_key(&row.operation)));
            entry.1.push(row.seconds);
            entry.2.push(profile.evaluate(&row.operation)?.seconds);
        }
    }
    Ok(by_family
        .into_iter()
        .filter_map(|(family, (shapes, measured, predicted))| {
            Some((family, summarize(&measured, &predicted, shapes.len())?))
        })
        .collect())
}
