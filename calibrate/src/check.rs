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
    fn empty(family: Family, variant: &str, hold_out: HoldOut) -> VariantCheck {
        VariantCheck {
            family,
            variant: variant.to_string(),
            hold_out,
            training: 0,
            shapes: Vec::new(),
            measured: Vec::new(),
            fitted: Vec::new(),
            roofline: Vec::new(),
            interpolated: Vec::new(),
        }
    }

    /// Adds the held-out points of one fit.
    fn extend(
        &mut self,
        fit: &KernelFit,
        training: &[&Measurement],
        held_out: &[&Measurement],
        gpu: &GpuLimits,
    ) {
        self.training += training.len();
        self.shapes.extend(held_out.iter().map(|row| shape_key(&row.operation)));
        self.measured.extend(held_out.iter().map(|row| row.seconds));
        self.fitted.extend(held_out.iter().map(|row| fit.evaluate(&row.operation, gpu).seconds));
        self.roofline.extend(roofline(training, held_out, gpu));
        self.interpolated.extend(interpolation(training, held_out, gpu));
    }

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

/// Variants of fewer rows than this are cross-validated over whole shapes, and their fit uses all rows.
pub const FEWEST_ROWS_TO_SPLIT: usize = 400;
/// Parts of that cross-validation.
const FOLDS: u64 = 8;

/// Fits a variant and checks it on what `hold_out` keeps from the fit. A variant with too few shapes to hold any out
/// is checked on held-out points instead. A variant of fewer than [`FEWEST_ROWS_TO_SPLIT`] rows is checked by
/// cross-validation. `provenance` goes into the fit.
///
/// # Errors
/// When no rows are left to fit.
pub fn fit_and_check(
    family: Family,
    variant: &str,
    rows: &[&Measurement],
    gpu: &GpuLimits,
    hold_out: HoldOut,
    provenance: Provenance,
) -> Result<(KernelFit, VariantCheck)> {
    let mut check = VariantCheck::empty(family, variant, hold_out);
    if rows.len() < FEWEST_ROWS_TO_SPLIT {
        for fold in 0..FOLDS {
            let (held_out, training): (Vec<&Measurement>, Vec<&Measurement>) =
                rows.iter().copied().partition(|row| hold_out.fold(row, FOLDS) == fold);
            if !training.is_empty() && !held_out.is_empty() {
                let fit = fit_variant(family, variant, &training, gpu, Provenance::Datasheet);
                check.extend(&fit, &training, &held_out, gpu);
            }
        }
        check.training = rows.len();
        let mut fit = fit_variant(family, variant, rows, gpu, provenance);
        fit.held_out = check.error();
        return Ok((fit, check));
    }
    let (held_out, training) = split(rows, &mut check.hold_out);
    if training.is_empty() {
        let message = format!("{} `{variant}` has {} rows, too few to fit", family.name(), rows.len());
        return Err(Error::new(message));
    }
    let mut fit = fit_variant(family, variant, &training, gpu, provenance);
    check.extend(&fit, &training, &held_out, gpu);
    fit.held_out = check.error();
    Ok((fit, check))
}

/// Every row of a small variant with the time that a fit without its shape predicts, in seconds.
pub(crate) fn fit_and_check_rows<'a>(
    family: Family,
    variant: &str,
    rows: &[&'a Measurement],
    gpu: &GpuLimits,
) -> Vec<(&'a Measurement, f64)> {
    let mut predicted = Vec::with_capacity(rows.len());
    for fold in 0..FOLDS {
        let (held_out, training): (Vec<&Measurement>, Vec<&Measurement>) =
            rows.iter().copied().partition(|row| HoldOut::WholeShapes.fold(row, FOLDS) == fold);
        if !training.is_empty() && !held_out.is_empty() {
            let fit = fit_variant(family, variant, &training, gpu, Provenance::Datasheet);
            predicted
                .extend(held_out.into_iter().map(|row| (row, fit.evaluate(&row.operation, gpu).seconds)));
        }
    }
    predicted
}

/// Held-out rows and the rest. When whole shapes cannot be held out, `hold_out` becomes points.
pub(crate) fn split<'a>(
    rows: &[&'a Measurement],
    hold_out: &mut HoldOut,
) -> (Vec<&'a Measurement>, Vec<&'a Measurement>) {
    let parts = |hold_out: HoldOut| rows.iter().copied().partition(|row| hold_out.holds(row));
    let (held_out, training): (Vec<_>, Vec<_>) = parts(*hold_out);
    if !held_out.is_empty() && !training.is_empty() {
        return (held_out, training);
    }
    *hold_out = HoldOut::Points;
    parts(HoldOut::Points)
}

/// Held-out points of one family.
#[derive(Default)]
struct HeldOutPoints {
    shapes: BTreeSet<String>,
    measured: Vec<f64>,
    predicted: Vec<f64>,
}

/// Checks a finished profile on the rows of `table` that were held out of its fit. Variants of fewer than
/// [`FEWEST_ROWS_TO_SPLIT`] rows were fitted to all of them and are left out.
///
/// # Errors
/// When the profile has no fit for a variant of the table.
pub fn check_profile(profile: &CostProfile, table: &MeasurementTable) -> Result<Vec<(Family, HeldOutError)>> {
    let mut by_family: BTreeMap<Family, HeldOutPoints> = BTreeMap::new();
    for ((family, variant), rows) in by_variant(table) {
        if rows.len() < FEWEST_ROWS_TO_SPLIT {
            continue;
        }
        let mut hold_out = HoldOut::WholeShapes;
        let (held_out, _) = split(&rows, &mut hold_out);
        let points = by_family.entry(family).or_default();
        for row in held_out {
            points.shapes.insert(format!("{variant}: {}", shape_key(&row.operation)));
            points.measured.push(row.seconds);
            points.predicted.push(profile.evaluate(&row.operation)?.seconds);
        }
    }
    Ok(by_family
        .into_iter()
        .filter_map(|(family, points)| {
            Some((family, summarize(&points.measured, &points.predicted, points.shapes.len())?))
        })
        .collect())
}
